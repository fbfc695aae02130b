"""Drivers: they carry a program's commands to an engine and its completions back.

One flow, three ways to run it: `run` blocks, `arun` awaits, `run_many` keeps many programs on one engine.
They do not know what a program does; cancelling, accounting and answering are the flow's own.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from hf_dynasor.core import (
    Event,
    Usage,
)
from hf_dynasor.engine import Engine, Sink
from hf_dynasor.errors import (
    ConfigurationError,
    EngineError,
    HFDynasorError,
    UnsupportedError,
)
from hf_dynasor.grants import AllocationPolicy, Answer
from hf_dynasor.program import ReasoningProgram
from hf_dynasor.program_plan import ProgramTerms
from hf_dynasor.program_run import OnGrant, Patience, ProgramRun

DEFAULT_TIMEOUT = 600.0
"""Seconds without any progress of the engine after which a driver gives up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramOutcome:
    """How one of many programs ended: with an answer, or with the error that ended it alone.

    Args:
        index: Its place among the programs.
        answer: Its answer, or `None` with an error.
        error: What ended it, or `None` with an answer.
        usage: Its tokens, also where it has no answer.
    """

    index: int
    answer: Answer | None = None
    error: HFDynasorError | None = None
    usage: Usage = field(default_factory=Usage)


def run(
    program: ReasoningProgram,
    engine: Engine,
    policy: AllocationPolicy,
    *,
    timeout: float = DEFAULT_TIMEOUT,
    on_grant: OnGrant | None = None,
    terms: ProgramTerms | None = None,
) -> Answer:
    """Run one program and block until it has its answer.

    Args:
        program: A program that has not run yet.
        engine: Where its requests go.
        policy: Decides its grants.
        timeout: Seconds that the engine may go without a completion or any other progress.
        on_grant: Called after each grant with its record.
        terms: Priority, tenant, weight and deadline, for engines that schedule programs.

    Raises:
        EngineTimeoutError: The engine made no progress for `timeout` seconds.
        EngineError: The engine died.
    """
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    program_run = ProgramRun(program, engine, policy, events.put, on_grant, terms)
    with program_run:
        program_run.start()
        while program_run.answer is None:
            program_run.deliver(_wait(events, Patience(engine, timeout)))
    return program_run.answer


async def arun(
    program: ReasoningProgram,
    engine: Engine,
    policy: AllocationPolicy,
    *,
    timeout: float = DEFAULT_TIMEOUT,
    on_grant: OnGrant | None = None,
    terms: ProgramTerms | None = None,
) -> Answer:
    """Run one program without blocking the event loop; cancelling the task cancels its requests.

    The flow's own work (parsing and grouping answers can take a while) is done in a thread, from which `on_grant`
    is called too. Arguments and errors are those of `run`.
    """
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[Event] = asyncio.Queue()

    def put(event: Event) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(events.put_nowait, event)

    program_run = ProgramRun(program, engine, policy, put, on_grant, terms)
    with program_run:
        await asyncio.to_thread(program_run.start)
        while program_run.answer is None:
            event = await _await_event(events, Patience(engine, timeout))
            await asyncio.to_thread(program_run.deliver, event)
    return program_run.answer


def run_many(
    programs: Iterable[tuple[ReasoningProgram, AllocationPolicy]],
    engine: Engine,
    *,
    max_active: int = 16,
    timeout: float = DEFAULT_TIMEOUT,
    terms: ProgramTerms | None = None,
) -> Iterator[ProgramOutcome]:
    """Run many programs over one engine, at most `max_active` at a time; yield each as it ends.

    A program whose prompt or policy cannot work ends alone, with its error in the outcome; an engine that
    dies ends them all.

    Args:
        programs: Pairs of program and policy, taken as room becomes free.
        max_active: Most programs in flight.
        terms: Of each of them; see `run`.

    Raises:
        EngineError: The engine died or fell silent; what was in flight is cancelled.
    """
    if max_active < 1:
        raise ConfigurationError(f"Got {max_active = } but expected at least 1.")
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    waiting = iter(enumerate(programs))
    active: dict[str, tuple[int, ProgramRun]] = {}
    try:
        while True:
            yield from _admit(waiting, active, max_active, engine, events.put, terms)
            if not active:
                return
            event = _wait(events, Patience(engine, timeout))
            if event.key.program_id in active:
                index, program_run = active[event.key.program_id]
                outcome = _guard(index, partial(program_run.deliver, event), program_run)
                if outcome is not None:
                    del active[event.key.program_id]
                    yield outcome
    finally:
        for _, program_run in active.values():
            program_run.close()


def _admit(
    waiting: Iterator[tuple[int, tuple[ReasoningProgram, AllocationPolicy]]],
    active: dict[str, tuple[int, ProgramRun]],
    max_active: int,
    engine: Engine,
    sink: Sink,
    terms: ProgramTerms | None,
) -> Iterator[ProgramOutcome]:
    while len(active) < max_active:
        pair = next(waiting, None)
        if pair is None:
            return
        index, (program, policy) = pair
        program_run = ProgramRun(program, engine, policy, sink, terms=terms)
        outcome = _guard(index, program_run.start, program_run)
        if outcome is not None:
            yield outcome
        else:
            active[program.program_id] = (index, program_run)


def _guard(index: int, step: Callable[[], None], program_run: ProgramRun) -> ProgramOutcome | None:
    """Do one step of one program; the outcome if that ended it."""
    try:
        step()
    except (EngineError, UnsupportedError):  # nothing that one program alone could be blamed for
        raise
    except HFDynasorError as error:
        program_run.close()
        return ProgramOutcome(index=index, error=error, usage=program_run.usage)
    if program_run.answer is None:
        return None
    return ProgramOutcome(index=index, answer=program_run.answer, usage=program_run.usage)


def _wait(events: queue.SimpleQueue[Event], patience: Patience) -> Event:
    while True:
        try:
            return events.get(timeout=patience.interval)
        except queue.Empty:
            patience.spend()


async def _await_event(events: asyncio.Queue[Event], patience: Patience) -> Event:
    while True:
        try:
            return await asyncio.wait_for(events.get(), patience.interval)
        except asyncio.TimeoutError:
            patience.spend()
