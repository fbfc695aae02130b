"""`/v1/programs` and `/v1/batches`: programs that outlive the request that asked for them."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from typing import Any

from fastapi import FastAPI, Query, Request
from pydantic import Field, ValidationError
from starlette.responses import Response, StreamingResponse

from hf_dynasor.errors import HFDynasorError
from hf_dynasor.serving.http import sse, wire
from hf_dynasor.serving.http.chat_programs import list_messages, shape_answer
from hf_dynasor.serving.http.errors import ApiError, bad_request, not_found
from hf_dynasor.serving.http.generation import SILENCE_S
from hf_dynasor.serving.http.job_runner import JobRunner
from hf_dynasor.serving.http.job_store import Job, JobStatus, JobStore
from hf_dynasor.serving.http.model_info import ServedModel
from hf_dynasor.serving.http.operations import read_state
from hf_dynasor.serving.http.program_runs import ProgramEvent, Progress, follow_program
from hf_dynasor.serving.http.recipes import build_recipe, count_units
from hf_dynasor.serving.http.settings import ServerSettings, Tenant
from hf_dynasor.serving.http.state import ServerState
from hf_dynasor.serving.http.terms import read_job_terms, read_tenant

PROGRESS_S = 0.1
"""Least seconds between two tellings of growing paths."""

_SAMPLING = {"temperature", "top_p", "top_k", "max_new_tokens", "seed", "enable_thinking", "answer_format"}


class ProgramRequest(wire.DynasorOptions):
    """The body of `POST /v1/programs`, and one line of a batch."""

    id: str | None = Field(None, min_length=1, max_length=200, description="The caller's own name for it.")
    model: str | None = None
    question: str | None = None
    messages: list[wire.ChatMessage] | None = None
    saving_effort: None = None
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=1)
    max_new_tokens: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=0, le=2**63 - 1)
    enable_thinking: bool | None = None
    answer_format: str | None = None
    stream_paths: bool = Field(False, description="Tell events of paths while they grow.")
    priority: wire.Priority | None = None


async def run_job(
    state: ServerState, job: Job, *, wall_time: Callable[[], float] = time.time
) -> AsyncGenerator[ProgramEvent | None, None]:
    """Run one job over the server's engine."""
    body = ProgramRequest.model_validate(job.request)
    recipe = build_recipe(state.settings.recipe, body, _read_fields(body))
    program, policy = recipe.build(_read_question(body), label=job.id)
    limit = state.settings.program_timeout_s
    terms = read_job_terms(job, state.settings, now=state.clock.now(), wall_now=wall_time())
    async with state.open_channel(count_units(recipe), terms) as channel:
        events = follow_program(
            program,
            state.engine,
            policy,
            timeout_s=limit,
            silence_s=SILENCE_S,
            progress=Progress(state.clock, PROGRESS_S) if body.stream_paths else None,
            terms=terms.for_program(state.clock.now()),
            spans=state.watch_program(program.name, job.id),
        )
        try:
            async for event in events:
                if event is not None and event.answer is not None:
                    channel.life.finish(event.answer.usage, [event.answer.stop_reason.value])
                    state.metrics.count_program(program.name, event.answer, channel.life.seconds)
                    told = {"usage": event.answer.usage.to_dict()} | terms.describe(state.clock.now())
                    yield ProgramEvent(
                        kind="answer", data=shape_answer(event.answer) | told, answer=event.answer
                    )
                else:
                    yield event
        finally:
            await events.aclose()


def add_programs(app: FastAPI, store: JobStore) -> None:
    """Add the routes; the app's lifespan starts and stops the runner in `app.state.jobs`."""
    _add_program_routes(app, store)
    _add_batch_routes(app, store)


def _add_program_routes(app: FastAPI, store: JobStore) -> None:
    @app.post("/v1/programs", status_code=202)
    async def submit(body: ProgramRequest, request: Request) -> dict[str, Any]:
        state = read_state(request)
        state.check_ready()
        name, tenant = f"prog-{uuid.uuid4().hex}", read_tenant(request)
        job = make_job(state.model, state.settings, body, name, created=_now(request), tenant=tenant)
        await _runner(request).add([job])
        return shape_job(job)

    @app.get("/v1/programs")
    async def list_programs(limit: int = Query(20, ge=1, le=100), after: str | None = None) -> dict[str, Any]:
        jobs = store.list_jobs(limit=limit + 1, after=after)
        return {
            "object": "list",
            "data": [shape_job(job) for job in jobs[:limit]],
            "has_more": len(jobs) > limit,
        }

    @app.get("/v1/programs/{job_id}")
    async def get_program(job_id: str) -> dict[str, Any]:
        return shape_job(_find(store, job_id))

    @app.post("/v1/programs/{job_id}/cancel")
    async def cancel_program(job_id: str, request: Request) -> dict[str, Any]:
        _find(store, job_id)
        await _runner(request).cancel(job_id)
        return shape_job(_find(store, job_id))

    @app.get("/v1/programs/{job_id}/events")
    async def follow(job_id: str, request: Request) -> Response:
        job = _find(store, job_id)
        told = request.headers.get("last-event-id", "")
        after = int(told) if told.isdecimal() else -1
        events = _stream(request, job, after)
        return StreamingResponse(events, media_type="text/event-stream", headers=sse.HEADERS)


def _add_batch_routes(app: FastAPI, store: JobStore) -> None:
    @app.post("/v1/batches", status_code=202)
    async def submit_batch(request: Request) -> dict[str, Any]:
        """A body of JSON lines, each a program; all are taken or none."""
        state = read_state(request)
        state.check_ready()
        batch = f"batch-{uuid.uuid4().hex}"
        lines = (await request.body()).decode("utf-8", "replace").splitlines()
        jobs = [
            make_job(
                state.model,
                state.settings,
                parse_line(line, number),
                f"{batch}-{number}",
                created=_now(request),
                batch=batch,
                tenant=read_tenant(request),
            )
            for number, line in enumerate(lines, start=1)
            if line.strip()
        ]
        if not jobs:
            raise bad_request("Got no line but expected one JSON object a line, each with a question.")
        await _runner(request).add(jobs)
        return _shape_batch(store, batch)

    @app.get("/v1/batches/{batch}")
    async def get_batch(batch: str) -> dict[str, Any]:
        return _shape_batch(store, batch)

    @app.post("/v1/batches/{batch}/cancel")
    async def cancel_batch(batch: str, request: Request) -> dict[str, Any]:
        for job in walk_batch(store, batch):
            if not job.status.is_final:
                await _runner(request).cancel(job.id)
        return _shape_batch(store, batch)

    @app.get("/v1/batches/{batch}/results")
    async def get_results(batch: str) -> Response:
        """One line for each program that has ended, in the order of the batch."""
        _shape_batch(store, batch)
        rows = (json.dumps(shape_job(job)) + "\n" for job in walk_batch(store, batch) if job.status.is_final)
        return StreamingResponse(rows, media_type="application/jsonl")


def make_job(
    model: ServedModel,
    settings: ServerSettings,
    body: ProgramRequest,
    name: str,
    *,
    created: float,
    batch: str | None = None,
    tenant: Tenant | None = None,
) -> Job:
    """Check a request as a whole, so that what is taken can run."""
    model.check_name(body.model)
    recipe = build_recipe(settings.recipe, body, _read_fields(body))
    try:
        program, _ = recipe.build(_read_question(body))
    except HFDynasorError as error:
        raise bad_request(str(error), param="question", code="invalid_value") from None
    del program
    position = int(name.rsplit("-", 1)[1]) if batch else 0
    return Job(
        id=name,
        batch=batch,
        position=position,
        created=int(created),
        tenant=tenant.name if tenant is not None else "",
        priority=body.priority or 0,
        deadline=None if body.deadline_ms is None else created + body.deadline_ms / 1000,
        request=body.model_dump(exclude_unset=True),
    )


def parse_line(line: str, number: int) -> ProgramRequest:
    """One line of a batch; a broken one is a 400 that names it."""
    try:
        return ProgramRequest.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        raise ApiError(
            status=400, message=f"Line {number}: {path or 'line'}: {first['msg']}", param=f"line {number}"
        ) from None


def _read_fields(body: ProgramRequest) -> dict[str, Any]:
    return {name: getattr(body, name) for name in _SAMPLING if getattr(body, name) is not None}


def _read_question(body: ProgramRequest) -> Any:
    if (body.question is None) == (body.messages is None):
        raise bad_request("Expected either question or messages.", param="question")
    return body.question if body.question is not None else list_messages(body.messages or [])


async def _stream(request: Request, job: Job, after: int) -> AsyncGenerator[str, None]:
    keep_alive = read_state(request).settings.keep_alive_s
    has_event = False
    async for event in _runner(request).follow(job.id, after=after, silence_s=keep_alive):
        if event is None:
            yield sse.KEEP_ALIVE
            continue
        has_event = True
        number, kind, data = event
        yield f"id: {number}\n{sse.encode_event(data, kind)}"
    if not has_event:  # it ended before this server began, or long ago: what is kept is its end
        yield sse.encode_event(shape_job(job), job.status.value)


def walk_batch(store: JobStore, batch: str) -> list[Job]:
    """All jobs of a batch, in its order."""
    jobs: list[Job] = []
    while page := store.list_jobs(batch=batch, limit=500, after=jobs[-1].id if jobs else None):
        jobs += page
    return jobs


def _shape_batch(store: JobStore, batch: str) -> dict[str, Any]:
    first = store.list_jobs(batch=batch, limit=1)
    if not first:
        raise not_found(f"No batch {batch!r} is kept here.")
    found = store.count(batch)
    counts = {status.value: found.get(status, 0) for status in JobStatus}
    is_over = all(status.is_final for status in found)
    return {
        "id": batch,
        "object": "batch",
        "created_at": first[0].created,
        "status": "completed" if is_over else "in_progress",
        "request_counts": {"total": sum(found.values())} | counts,
    }


def shape_job(job: Job) -> dict[str, Any]:
    """What is told of a job."""
    row: dict[str, Any] = {
        "id": job.id,
        "object": "program",
        "created_at": job.created,
        "status": job.status.value,
        "custom_id": job.request.get("id"),
        "batch": job.batch,
        "result": job.result,
        "error": job.error,
        "num_attempts": job.num_attempts,
    }
    return row


def _find(store: JobStore, job_id: str) -> Job:
    job = store.get(job_id)
    if job is None:
        raise not_found(f"No program {job_id!r} is kept here.")
    return job


def _runner(request: Request) -> JobRunner:
    runner: JobRunner = request.app.state.jobs
    return runner


def _now(request: Request) -> float:
    return float(request.app.state.wall_time())
