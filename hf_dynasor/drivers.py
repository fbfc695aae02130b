"""Drivers: they carry a program's commands to an engine and its completions back.

One flow, three ways to run it: `run` blocks, `arun` awaits, `run_many` keeps many programs on one engine.
They do not know what a program does; cancelling, accounting and answering are the flow's own.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from hf_dynasor.core import Cancel, Command, Completion, Event, Generate, RequestKey, Score
from hf_dynasor.engine import Engine, Sink
from hf_dynasor.errors import (
    ConfigurationError,
    EngineError,
    EngineTimeoutError,
    HFDynasorError,
    UnsupportedError,
)
from hf_dynasor.grants import AllocationPolicy, Answer, GrantRecord
from hf_dynasor.program import ReasoningProgram

OnGrant: TypeAlias = Callable[[GrantRecord], None]

DEFAULT_TIMEOUT = 600.0
"""Seconds that a driver waits for the next completion before it gives up."""

_HEALTH_INTERVAL = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramOutcome:
    """How one of many programs ended: with an answer, or with the error that ended it alone."""

    index: int
    answer: Answer | None = None
    error: HFDynasorError | None = None


def run(
    program: ReasoningProgram,
    engine: Engine,
    policy: AllocationPolicy,
    *,
    timeout: float = DEFAULT_TIMEOUT,
    on_grant: OnGrant | None = None,
) -> Answer:
    """Run one program and block until it has its answer.

    Args:
        program: A program that has not run yet.
        engine: Where its requests go.
        policy: Decides its grants.
        timeout: Seconds to wait for the next completion.
        on_grant: Called after each grant with its record.

    Raises:
        EngineTimeoutError: No completion came within `timeout` seconds.
        EngineError: The engine died.
    """
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    program_run = _ProgramRun(program, engine, policy, events.put, on_grant)
    with program_run:
        program_run.start()
        while program_run.answer is None:
            program_run.deliver(_wait(events, engine, timeout))
    return program_run.answer


async def arun(
    program: ReasoningProgram,
    engine: Engine,
    policy: AllocationPolicy,
    *,
    timeout: float = DEFAULT_TIMEOUT,
    on_grant: OnGrant | None = None,
) -> Answer:
    """Run one program without blocking the event loop; cancelling the task cancels its requests.

    The flow's own work (parsing and grouping answers can take a while) is done in a thread. Arguments and
    errors are those of `run`.
    """
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[Event] = asyncio.Queue()

    def put(event: Event) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(events.put_nowait, event)

    program_run = _ProgramRun(program, engine, policy, put, on_grant)
    with program_run:
        await asyncio.to_thread(program_run.start)
        while program_run.answer is None:
            event = await _await_event(events, engine, timeout)
            await asyncio.to_thread(program_run.deliver, event)
    return program_run.answer


def run_many(
    programs: Iterable[tuple[ReasoningProgram, AllocationPolicy]],
    engine: Engine,
    *,
    max_active: int = 16,
    timeout: float = DEFAULT_TIMEOUT,
) -> Iterator[ProgramOutcome]:
    """Run many programs over one engine, at most `max_active` at a time; yield each as it ends.

    A program whose prompt or policy cannot work ends alone, with its error in the outcome; an engine that
    dies ends them all.

    Args:
        programs: Pairs of program and policy, taken as room becomes free.
        max_active: Most programs in flight.

    Raises:
        EngineError: The engine died or fell silent; what was in flight is cancelled.
    """
    if max_active < 1:
        raise ConfigurationError(f"Got {max_active = } but expected at least 1.")
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    waiting = iter(enumerate(programs))
    active: dict[str, tuple[int, _ProgramRun]] = {}
    try:
        while True:
            yield from _admit(waiting, active, max_active, engine, events.put)
            if not active:
                return
            event = _wait(events, engine, timeout)
            if event.key.program_id in active:
                index, program_run = active[event.key.program_id]
                outcome = _guard(index, partial(program_run.deliver, event), program_run)
                if outcome is not None:
                    del active[event.key.program_id]
                    yield outcome
    finally:
        for _, program_run in active.values():
            program_run.close()


class _ProgramRun:
    """One flow being driven: sends its commands, knows what is in flight, keeps the answer. Never waits."""

    def __init__(
        self,
        program: ReasoningProgram,
        engine: Engine,
        policy: AllocationPolicy,
        sink: Sink,
        on_grant: OnGrant | None = None,
    ) -> None:
        self.answer: Answer | None = None
        self.program_id = program.program_id
        self._program = program
        self._engine = engine
        self._sink = sink
        self._on_grant = on_grant
        self._flow = program.flow(policy)
        self._in_flight: set[RequestKey] = set()
        self._num_records = 0

    def __enter__(self) -> _ProgramRun:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def start(self) -> None:
        """Run the flow up to its first wait."""
        self._advance(lambda: next(self._flow))

    def deliver(self, event: Event) -> None:
        """Hand over one event; only completions move the flow."""
        if isinstance(event, Completion) and event.key in self._in_flight:
            self._in_flight.remove(event.key)
            self._advance(lambda: self._flow.send(event))

    def close(self) -> None:
        """Cancel what is in flight and end the flow."""
        if self._in_flight:
            self._engine.cancel(tuple(self._in_flight))
            self._in_flight.clear()
        self._flow.close()

    def _advance(self, step: Callable[[], tuple[Command, ...]]) -> None:
        try:
            commands = step()
        except StopIteration as stop:
            self._report_grants()
            self.answer = stop.value
            return
        self._report_grants()
        self._send(commands)

    def _send(self, commands: tuple[Command, ...]) -> None:
        requests = [command for command in commands if isinstance(command, Generate | Score)]
        cancelled = [key for command in commands if isinstance(command, Cancel) for key in command.keys]
        if requests:
            # Noted before submitting: an engine may deliver from inside `submit`.
            self._in_flight.update(request.key for request in requests)
            try:
                self._engine.submit(requests, self._sink)
            except HFDynasorError:
                self._in_flight.difference_update(request.key for request in requests)
                raise
        if cancelled:
            self._engine.cancel(cancelled)

    def _report_grants(self) -> None:
        if self._on_grant is not None:
            for record in self._program.trace[self._num_records :]:
                self._on_grant(record)
        self._num_records = len(self._program.trace)


def _admit(
    waiting: Iterator[tuple[int, tuple[ReasoningProgram, AllocationPolicy]]],
    active: dict[str, tuple[int, _ProgramRun]],
    max_active: int,
    engine: Engine,
    sink: Sink,
) -> Iterator[ProgramOutcome]:
    while len(active) < max_active:
        pair = next(waiting, None)
        if pair is None:
            return
        index, (program, policy) = pair
        if program.program_id in active:
            raise ConfigurationError(f"Got program_id {program.program_id!r} twice but expected unique ids.")
        program_run = _ProgramRun(program, engine, policy, sink)
        outcome = _guard(index, program_run.start, program_run)
        if outcome is not None:
            yield outcome
        else:
            active[program.program_id] = (index, program_run)


def _guard(index: int, step: Callable[[], None], program_run: _ProgramRun) -> ProgramOutcome | None:
    """Do one step of one program; the outcome if that ended it."""
    try:
        step()
    except (EngineError, UnsupportedError):  # nothing that one program alone could be blamed for
        raise
    except HFDynasorError as error:
        program_run.close()
        return ProgramOutcome(index=index, error=error)
    return None if program_run.answer is None else ProgramOutcome(index=index, answer=program_run.answer)


def _wait(events: queue.SimpleQueue[Event], engine: Engine, timeout: float) -> Event:
    remaining = timeout
    while remaining > 0:
        interval = min(_HEALTH_INTERVAL, remaining)
        try:
            return events.get(timeout=interval)
        except queue.Empty:
            engine.check_health()
            remaining -= interval
    raise _make_timeout(engine, timeout)


async def _await_event(events: asyncio.Queue[Event], engine: Engine, timeout: float) -> Event:
    remaining = timeout
    while remaining > 0:
        interval = min(_HEALTH_INTERVAL, remaining)
        try:
            return await asyncio.wait_for(events.get(), interval)
        except asyncio.TimeoutError:
            engine.check_health()
            remaining -= interval
    raise _make_timeout(engine, timeout)


def _make_timeout(engine: Engine, timeout: float) -> EngineTimeoutError:
    return EngineTimeoutError(
        f"{engine.name} delivered nothing for {timeout:g} s. Raise the timeout if it is only slow."
    )
