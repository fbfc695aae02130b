"""Who follows a job hears all of it, however early the job ran."""

from __future__ import annotations

import asyncio
import threading

import pytest

from hf_dynasor.errors import InputError
from hf_dynasor.serving.http.job_runner import JobRunner
from hf_dynasor.serving.http.job_store import Job, SqliteJobStore
from hf_dynasor.serving.http.program_runs import ProgramEvent

JOB = Job(id="a", created=1, request={"question": "?"})


class SlowToReturn(SqliteJobStore):
    """Keeps new jobs at once, but says so only when the first of them has ended."""

    def __init__(self):
        super().__init__()
        self.ended = threading.Event()

    def add(self, jobs):
        super().add(jobs)
        assert self.ended.wait(30)

    def finish(self, *arguments, **options):
        has_ended = super().finish(*arguments, **options)
        self.ended.set()
        return has_ended


async def run_job(job):
    yield ProgramEvent(kind="grant")
    yield ProgramEvent(kind="answer", data={"answer": "4"}, answer=object())


async def follow_one(store):
    runner = JobRunner(store, run_job, max_active=1, keep=10)
    runner.start()
    try:
        await runner.add([JOB])
        return [kind async for _, kind, _ in runner.follow(JOB.id)]
    finally:
        await runner.stop()


def test_a_job_that_ends_before_it_is_said_to_be_kept_tells_all_its_events():
    kinds = asyncio.run(asyncio.wait_for(follow_one(SlowToReturn()), 60))
    assert kinds == ["queued", "running", "grant", "completed"]


def test_a_job_that_is_not_kept_leaves_no_events():
    async def run():
        runner = JobRunner(SqliteJobStore(), run_job, max_active=1, keep=10)
        with pytest.raises(InputError):
            await runner.add([JOB, JOB])
        return [event async for event in runner.follow(JOB.id)]

    assert asyncio.run(run()) == []
