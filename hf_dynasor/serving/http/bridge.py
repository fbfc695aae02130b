"""From an engine's thread to the event loop: channels of events, bounded room, a clock. Knows no HTTP."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from hf_dynasor.core import Cancel, Command, Completion, Event, Request, RequestKey
from hf_dynasor.engine import Engine
from hf_dynasor.errors import EngineTimeoutError, HFDynasorError
from hf_dynasor.program_plan import ProgramPlan, SchedulesPrograms
from hf_dynasor.serving.http.errors import overloaded
from hf_dynasor.serving.http.metrics import RequestLife

if TYPE_CHECKING:
    from hf_dynasor.serving.http.tracing import Tracer

_COLLECT_S = 0.001


class EventPump:
    """Carries events into one event loop, waking it once for any number of them.

    A step of an engine delivers a token for every request: one wake-up for each would cost more than the step's own
    bookkeeping.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Callable[[Event], None], Event]] = deque()
        self._is_scheduled = False

    def push(self, receive: Callable[[Event], None], event: Event) -> None:
        """Have `receive(event)` called in the loop soon. From any thread; after the loop's end nothing happens."""
        with self._lock:
            self._waiting.append((receive, event))
            if self._is_scheduled or self._loop.is_closed():
                return
            self._is_scheduled = True
        self._loop.call_soon_threadsafe(self._collect)

    def call_soon(self, function: Callable[[], None]) -> None:
        """Have a function called in the loop soon. From any thread or signal."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function)

    def _collect(self) -> None:
        """Wait for the rest of the step's events, which come within the same millisecond."""
        self._loop.call_later(_COLLECT_S, self._drain)

    def _drain(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
            self._is_scheduled = False
        for receive, event in waiting:
            receive(event)


class Channel:
    """The requests of one HTTP request: sends commands, awaits events, cancels what is left when it is closed.

    Its queue holds at most the events of its own requests, which their token limits bound.
    """

    def __init__(
        self, engine: Engine, pump: EventPump, life: RequestLife, tracer: Tracer | None = None
    ) -> None:
        self._engine, self._pump = engine, pump
        self._spans = tracer.watch() if tracer is not None else None
        self.life = life
        self._events: deque[Event] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._in_flight: set[RequestKey] = set()
        self._announced: str | None = None
        self._is_closed = False

    def announce(self, name: str, plan: ProgramPlan) -> None:
        """Tell an engine that schedules programs how the requests of this name are to be served."""
        if isinstance(self._engine, SchedulesPrograms):
            self._announced = name
            self._engine.note_program(name, plan)

    async def send(self, commands: Sequence[Command]) -> None:
        """Carry commands to the engine. Prompts are encoded in a thread, so that long ones do not hold up the loop."""
        requests: list[Request] = []
        for command in commands:
            if isinstance(command, Cancel):
                self._engine.cancel(command.keys)
            else:
                requests.append(command)
        if requests:
            keys = tuple(request.key for request in requests)
            self._in_flight.update(keys)
            if self._spans is not None:
                self._spans.begin(requests)
            submission = asyncio.ensure_future(asyncio.to_thread(self._engine.submit, requests, self._take))
            try:
                await asyncio.shield(submission)
            except asyncio.CancelledError:
                # The thread goes on: what it is about to submit must not run for nobody.
                submission.add_done_callback(lambda done: self._give_up(done, keys))
                raise
            except HFDynasorError:
                self._in_flight.difference_update(keys)
                raise

    @property
    def has_waiting(self) -> bool:
        """Whether the next event is there already."""
        return bool(self._events)

    async def receive(self, silence_s: float) -> Event | None:
        """The next event; `None` after `silence_s` seconds without one. For one task at a time."""
        if not self._events:
            await self._wait(silence_s)
        if self._events:
            return self._events.popleft()
        self._engine.check_health()
        return None

    async def _wait(self, silence_s: float) -> None:
        """Until an event comes or the time is over; a bare future, as `wait_for` makes a task for each token."""
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(silence_s, self._wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        """Cancel what is still in flight. Safe to call twice."""
        self._is_closed = True
        if self._spans is not None:
            self._spans.end()
        if self._in_flight:
            self._engine.cancel(tuple(self._in_flight))
        if self._announced is not None and isinstance(self._engine, SchedulesPrograms):
            self._engine.note_end(self._announced)
            self._announced = None

    def _give_up(self, submission: asyncio.Future[None], keys: tuple[RequestKey, ...]) -> None:
        if not submission.cancelled() and submission.exception() is None:
            self._engine.cancel(keys)

    def _take(self, event: Event) -> None:
        self._pump.push(self._put, event)

    def _put(self, event: Event) -> None:
        if isinstance(event, Completion):
            self._in_flight.discard(event.key)
            if self._spans is not None:
                self._spans.end_request(event)
        if not self._is_closed:
            self._events.append(event)
            self._wake()


class Admission:
    """Room for requests: so many units at once, a bounded queue for the rest, lowest priority number first.

    Args:
        max_running: Units (choices) in the engine at once. A request that is larger runs alone.
        max_waiting: HTTP requests that may wait.
    """

    def __init__(self, *, max_running: int, max_waiting: int) -> None:
        self._max_running, self._max_waiting = max_running, max_waiting
        self._num_running = 0
        self._waiting: list[tuple[int, int, int, asyncio.Future[None]]] = []
        self._arrivals = itertools.count()

    @property
    def num_running(self) -> int:
        """Units that were let in and have not left."""
        return self._num_running

    @property
    def num_waiting(self) -> int:
        """HTTP requests that wait."""
        return sum(not entry[-1].done() for entry in self._waiting)

    @asynccontextmanager
    async def admit(self, units: int = 1, *, priority: int = 0) -> AsyncIterator[None]:
        """Wait for room, hold it for the block.

        Raises:
            ApiError: 429, the queue is full.
        """
        units = min(units, self._max_running)
        await self._enter(units, priority)
        try:
            yield
        finally:
            self._num_running -= units
            self._let_in()

    async def _enter(self, units: int, priority: int) -> None:
        if not self._waiting and self._num_running + units <= self._max_running:
            self._num_running += units
            return
        if self.num_waiting >= self._max_waiting:
            raise overloaded(
                f"{self._max_waiting} requests are waiting already. Try again soon, or with fewer at once.",
                retry_after_s=1,
            )
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._arrivals), units, future))
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():  # let in and given up in the same turn of the loop
                self._num_running -= units
            self._let_in()
            raise

    def _let_in(self) -> None:
        while self._waiting:
            _, _, units, future = self._waiting[0]
            if not future.done() and self._num_running + units > self._max_running:
                return
            heapq.heappop(self._waiting)
            if not future.done():
                self._num_running += units
                future.set_result(None)


def check_time(now: float, deadline: float, seconds: float) -> None:
    """Raise `EngineTimeoutError` once a request's time is over."""
    if now >= deadline:
        raise EngineTimeoutError(f"The request took longer than {seconds:g} s and was cancelled.")
