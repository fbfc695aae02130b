"""Who follows a job hears all of it, however early the job ran."""

from __future__ import annotations

import asyncio
import threading

import pytest

from hf_dynasor.errors import InputError
from hf_dynasor.serving.http.job_runner import JobRunner
from hf_dynasor.serving.http.job_store import Job, JobStatus, SqliteJobStore
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


def make_jobs(first, count):
    return [Job(id=f"job-{number}", created=1, request={}) for number in range(first, first + count)]


def end_elsewhere(store):
    """Another server of the same store takes what is queued, and ends it."""
    for job in store.take(100):
        store.finish(job.id, JobStatus.COMPLETED, result={"answer": "4"})


def test_who_follows_a_job_that_another_server_runs_hears_of_its_end():
    async def run():
        store = SqliteJobStore()
        runner = JobRunner(store, run_job, max_active=1, keep=10)  # not started: it runs nothing itself
        await runner.add([JOB])
        events = runner.follow(JOB.id, silence_s=0.01)
        heard = [await anext(events), await anext(events)]
        end_elsewhere(store)
        return heard + [event async for event in events if event is not None]

    (_, first, _), silence, (_, last, data) = asyncio.run(asyncio.wait_for(run(), 60))
    assert (first, silence, last) == ("queued", None, "completed")
    assert data == {"id": "a", "answer": "4"}


def test_what_is_remembered_of_jobs_that_others_run_is_bounded():
    async def run():
        store = SqliteJobStore()
        runner = JobRunner(store, run_job, max_active=1, keep=2)
        for number in range(0, 100, 2):
            await runner.add(make_jobs(number, 2))
            end_elsewhere(store)
        return len(runner._logs)

    assert asyncio.run(run()) <= 2 + 2 + 2  # those kept, the last ones added, those that ended since
