"""Works the queue of programs off: takes jobs from the store, runs them, keeps their results, tells who listens."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from hf_dynasor.errors import EngineError, HFDynasorError
from hf_dynasor.serving.http.errors import ApiError
from hf_dynasor.serving.http.job_store import Job, JobStatus, JobStore
from hf_dynasor.serving.http.program_runs import ProgramEvent

logger = logging.getLogger(__name__)

MAX_EVENTS = 2000
MAX_ATTEMPTS = 5
_IDLE_S = 1.0
_RETRY_S = 0.5
_TEMPORARY = (429, 503)
_MORE_ASKED = 16  # jobs that the store is asked about with each addition, beyond twice as many as were added
_MOST_ASKED = 1000

RunJob = Callable[[Job], AsyncGenerator["ProgramEvent | None", None]]


@dataclass(slots=True)
class EventLog:
    """What happened to one job lately, and who waits for more. The oldest events are dropped beyond `MAX_EVENTS`."""

    events: deque[tuple[int, str, dict[str, Any]]] = field(default_factory=lambda: deque(maxlen=MAX_EVENTS))
    num_events: int = 0
    is_over: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, kind: str, data: dict[str, Any], *, is_last: bool = False) -> None:
        """Note an event and wake those who wait."""
        self.events.append((self.num_events, kind, data))
        self.num_events += 1
        self.is_over = self.is_over or is_last
        self.changed.set()
        self.changed = asyncio.Event()


class JobRunner:
    """Runs queued jobs, so many at a time.

    Args:
        store: Where jobs are kept.
        run_job: Runs one job; its events.
        max_active: Most programs at once.
        keep: Ended programs that are remembered.
        is_ready: Whether a job that is taken now could run; while it says no, all of them wait.
    """

    def __init__(
        self,
        store: JobStore,
        run_job: RunJob,
        *,
        max_active: int,
        keep: int,
        is_ready: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store, self._run_job = store, run_job
        self._max_active, self._keep, self._is_ready = max_active, keep, is_ready
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._logs: dict[str, EventLog] = {}
        self._wake = asyncio.Event()
        self._is_stopping = False
        self._loop_task: asyncio.Task[None] | None = None

    @property
    def num_active(self) -> int:
        """Programs that run now."""
        return len(self._tasks)

    def start(self) -> None:
        """Begin, with what an earlier server left unfinished."""
        if num_left := self._store.recover():
            logger.info("%d programs of an earlier run go back into the queue.", num_left)
        self._loop_task = asyncio.ensure_future(self._work())

    async def stop(self) -> None:
        """End; what runs is put back into the queue for the next server."""
        self._is_stopping = True
        self._wake.set()
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self._loop_task is not None:
            await self._loop_task
        await asyncio.to_thread(self._store.close)

    async def add(self, jobs: list[Job]) -> None:
        """Keep new jobs and have them run soon."""
        # Before anything is kept: a store that fails here has taken nothing yet.
        oldest = (name for name, log in self._logs.items() if not log.is_over and name not in self._tasks)
        await self._ask_store(list(islice(oldest, min(2 * len(jobs) + _MORE_ASKED, _MOST_ASKED))))
        for job in jobs:  # first, since a job that is in the store may run, and end, at once
            self._logs[job.id] = EventLog()
            self._logs[job.id].add("queued", {"id": job.id})
        try:
            await asyncio.to_thread(self._store.add, jobs)
        except Exception:
            for job in jobs:
                self._logs.pop(job.id, None)
            raise
        self._wake.set()

    async def cancel(self, job_id: str) -> bool:
        """End a job that has not ended; returns whether this call did."""
        has_ended = await asyncio.to_thread(self._store.finish, job_id, JobStatus.CANCELLED)
        if has_ended:
            if (task := self._tasks.get(job_id)) is not None:
                task.cancel()
            self._note_end(job_id, "cancelled", {"id": job_id})
        return has_ended

    async def follow(
        self, job_id: str, *, after: int = -1, silence_s: float = 15.0
    ) -> AsyncGenerator[tuple[int, str, dict[str, Any]] | None, None]:
        """A job's events from the one after `after`; `None` for each silence. Ends with the job."""
        log = self._logs.get(job_id)
        while log is not None:
            changed, is_over = log.changed, log.is_over
            for event in [event for event in log.events if event[0] > after]:
                after = event[0]
                yield event
            if is_over:
                return
            try:
                await asyncio.wait_for(changed.wait(), silence_s)
            except asyncio.TimeoutError:
                await self._ask_store([job_id])
                if not log.is_over:
                    yield None

    async def _work(self) -> None:
        while not self._is_stopping:
            self._wake.clear()
            room = self._max_active - len(self._tasks)
            can_take = room > 0 and self._is_ready()
            jobs = await asyncio.to_thread(self._store.take, room) if can_take else []
            for job in jobs:
                task = asyncio.ensure_future(self._run(job))
                self._tasks[job.id] = task
                task.add_done_callback(lambda done, name=job.id: self._clear(name))  # type: ignore[misc]
            if not jobs:
                await self._sleep()

    async def _sleep(self) -> None:
        try:
            await asyncio.wait_for(self._wake.wait(), _IDLE_S)
        except asyncio.TimeoutError:
            return

    def _clear(self, job_id: str) -> None:
        self._tasks.pop(job_id, None)
        self._wake.set()

    async def _run(self, job: Job) -> None:
        log = self._logs.setdefault(job.id, EventLog())
        log.add("running", {"id": job.id, "attempt": job.num_attempts})
        try:
            async for event in self._run_job(job):
                if event is None:
                    continue
                if event.answer is not None:
                    await self._finish(job, JobStatus.COMPLETED, result=event.data)
                    return
                log.add(event.kind, event.data)
        except asyncio.CancelledError:
            if self._is_stopping:
                await asyncio.shield(asyncio.to_thread(self._store.requeue, job.id))
            raise
        except EngineError as error:
            await self._retry(job, error)
        except (ApiError, HFDynasorError) as error:
            if isinstance(error, ApiError) and error.status in _TEMPORARY:
                await self._retry(job, error)
                return
            await self._finish(job, JobStatus.FAILED, error=str(error))
        except Exception as error:  # a fault of ours must end this job, not the queue
            logger.exception("Program %s failed.", job.id)
            await self._finish(job, JobStatus.FAILED, error=f"{type(error).__name__}: {error}")

    async def _retry(self, job: Job, error: Exception) -> None:
        """The engine died under it, or the server was too busy: it is not the program's fault, so it is tried again, so many times."""
        if job.num_attempts >= MAX_ATTEMPTS:
            words = f"{error} (tried {job.num_attempts} times)"
            await self._finish(job, JobStatus.FAILED, error=words)
            return
        await asyncio.sleep(_RETRY_S * 2 ** (job.num_attempts - 1))
        await asyncio.to_thread(self._store.requeue, job.id)

    async def _finish(
        self, job: Job, status: JobStatus, *, result: dict[str, Any] | None = None, error: str | None = None
    ) -> None:
        has_ended = await asyncio.to_thread(self._store.finish, job.id, status, result=result, error=error)
        if has_ended:
            data = {"id": job.id} | (result or {}) | ({"error": error} if error else {})
            self._note_end(job.id, status.value, data)
            await asyncio.to_thread(self._store.forget, self._keep)

    async def _ask_store(self, names: Sequence[str]) -> None:
        """Note which of these jobs have ended: another server that shares the store may have run them."""
        found = await asyncio.to_thread(lambda: [self._store.get(name) for name in names])
        for name, job in zip(names, found, strict=True):
            log = self._logs.get(name)
            if log is None or log.is_over or name in self._tasks:
                continue
            if job is None:  # it ended, and is forgotten
                log.is_over = True
                del self._logs[name]
            elif job.status not in (JobStatus.QUEUED, JobStatus.RUNNING):
                more = (job.result or {}) | ({"error": job.error} if job.error else {})
                self._note_end(name, job.status.value, {"id": name} | more)

    def _note_end(self, job_id: str, kind: str, data: dict[str, Any]) -> None:
        if (log := self._logs.get(job_id)) is not None:
            log.add(kind, data, is_last=True)
        over = [name for name, log in self._logs.items() if log.is_over]
        for name in over[: max(0, len(over) - self._keep)]:
            del self._logs[name]
