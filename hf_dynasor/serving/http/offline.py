"""A file of programs run to its end without a server, through the server's own store and queue, so it can be resumed."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial

from hf_dynasor.clock import MonotonicClock
from hf_dynasor.engine import Engine
from hf_dynasor.errors import InputError
from hf_dynasor.serving.http.app import make_state
from hf_dynasor.serving.http.errors import ApiError
from hf_dynasor.serving.http.job_runner import JobRunner
from hf_dynasor.serving.http.job_store import Job, JobStore
from hf_dynasor.serving.http.model_info import ServedModel
from hf_dynasor.serving.http.programs_api import make_job, parse_line, run_job, walk_batch
from hf_dynasor.serving.http.settings import ServerSettings

POLL_S = 0.1

OnProgress = Callable[[int, int], None]


def name_batch(lines: Sequence[str], model: ServedModel, settings: ServerSettings) -> str:
    """A batch's name: the same file with the same model and options is the same batch, so it is taken up again."""
    told = json.dumps([list(lines), model.name, repr(settings.recipe)])
    return f"file-{hashlib.sha256(told.encode()).hexdigest()[:24]}"


def enlist(
    lines: Sequence[str], model: ServedModel, settings: ServerSettings, store: JobStore, *, created: int
) -> str:
    """Keep the lines as jobs, unless an earlier run did; the batch's name.

    Args:
        lines: One program each, as `/v1/batches` takes them; empty lines are passed over.
        model: For its name, which a line may repeat.
        settings: For the defaults of programs.
        store: Where the jobs are kept.
        created: Unix seconds.

    Raises:
        InputError: A line is broken (it is named, nothing is kept), or there is none.
    """
    batch = name_batch(lines, model, settings)
    if store.list_jobs(batch=batch, limit=1):
        return batch
    try:
        jobs = [
            make_job(
                model, settings, parse_line(line, number), f"{batch}-{number}", created=created, batch=batch
            )
            for number, line in enumerate(lines, start=1)
            if line.strip()
        ]
    except ApiError as error:
        raise InputError(error.message) from None
    if not jobs:
        raise InputError("Got no line but expected one JSON object a line, each with a question.")
    store.add(jobs)
    return batch


async def run_batch(
    batch: str,
    engine: Engine,
    model: ServedModel,
    settings: ServerSettings,
    store: JobStore,
    *,
    on_progress: OnProgress = lambda num_ended, num_all: None,
) -> list[Job]:
    """Run what is left of a batch; all its jobs, ended, in the order of the file.

    Cancelling it puts what runs back into the queue: the next call goes on from there.

    Args:
        batch: See `enlist`.
        engine: Where requests go; the caller closes it.
        model: What runs.
        settings: Limits and defaults.
        store: Where the jobs are.
        on_progress: Told how many have ended, and of how many.
    """
    state = make_state(engine, model, settings, MonotonicClock())
    runner = JobRunner(
        store,
        partial(run_job, state),
        max_active=settings.max_programs,
        keep=settings.max_programs_kept,
        is_ready=lambda: state.is_ready,
    )
    runner.start()
    num_told = -1
    try:
        while True:
            counts = await asyncio.to_thread(store.count, batch)
            num_ended = sum(number for status, number in counts.items() if status.is_final)
            if num_ended != num_told:
                on_progress(num_ended, sum(counts.values()))
                num_told = num_ended
            if num_ended == sum(counts.values()):
                return await asyncio.to_thread(walk_batch, store, batch)
            await asyncio.sleep(POLL_S)
    finally:
        await runner.stop()
