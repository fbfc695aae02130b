"""One program being driven: what is in flight, what was answered, and how long to wait for an engine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeAlias

from hf_dynasor.core import (
    Cancel,
    Command,
    Completion,
    Event,
    FinishReason,
    Generate,
    RequestKey,
    Score,
    Usage,
)
from hf_dynasor.engine import Engine, MeasuresRoom, ReportsProgress, Sink
from hf_dynasor.errors import ConfigurationError, EngineTimeoutError, HFDynasorError
from hf_dynasor.grants import AllocationPolicy, Answer, GrantRecord
from hf_dynasor.program import ReasoningProgram
from hf_dynasor.program_plan import ProgramPlan, ProgramTerms, SchedulesPrograms

OnGrant: TypeAlias = Callable[[GrantRecord], None]

_HEALTH_INTERVAL = 1.0


class ProgramRun:
    """One flow being driven: sends its commands, knows what is in flight, keeps the answer. Never waits.

    It may be closed from another thread while a step is running (`arun` steps in threads): nothing is submitted
    after that, and the step closes the flow when it ends. An engine that schedules programs is told where this one
    stands before its first request, after each grant and at its end.
    """

    def __init__(
        self,
        program: ReasoningProgram,
        engine: Engine,
        policy: AllocationPolicy,
        sink: Sink,
        on_grant: OnGrant | None = None,
        terms: ProgramTerms | None = None,
    ) -> None:
        self.answer: Answer | None = None
        self.program_id = program.program_id
        self._program = program
        self._engine = engine
        self._sink = sink
        self._on_grant = on_grant
        self._terms = terms or ProgramTerms()
        self._scheduler = engine if isinstance(engine, SchedulesPrograms) else None
        self._num_noted = -1
        self._flow = program.flow(policy)
        self._in_flight: set[RequestKey] = set()
        self._num_records = 0
        self._lock = threading.RLock()
        self._is_closed = False
        self._is_stepping = False

    @property
    def usage(self) -> Usage:
        """The program's tokens so far."""
        return self._program.usage

    def __enter__(self) -> ProgramRun:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def start(self) -> None:
        """Run the flow up to its first wait."""
        self._advance(self._begin)

    def deliver(self, event: Event) -> None:
        """Hand over one event; only completions move the flow.

        Raises:
            EngineError: The request failed because the engine died: that is no fault of the program.
        """
        if isinstance(event, Completion) and event.key in self._in_flight:
            if event.finish_reason is FinishReason.FAILED:
                self._engine.check_health()
            self._in_flight.discard(event.key)
            self._advance(lambda: self._flow.send(event))

    def close(self) -> None:
        """Cancel what is in flight and end the flow. Safe from another thread, and twice."""
        with self._lock:
            self._is_closed = True
            if self._in_flight:
                self._engine.cancel(tuple(self._in_flight))
                self._in_flight.clear()
            self._note_end()
            if not self._is_stepping:
                self._flow.close()

    def _begin(self) -> tuple[Command, ...]:
        if isinstance(self._engine, MeasuresRoom):
            self._program.fit(self._engine.count_room)
        return next(self._flow)

    def _advance(self, step: Callable[[], tuple[Command, ...]]) -> None:
        with self._lock:
            if self._is_closed:
                return
            self._is_stepping = True
        try:
            commands = step()
            self._report_grants()
            self._send(commands)
        except StopIteration as stop:
            self._report_grants()
            self._note_plan()  # what the last reading foretold is known now
            self._note_end()
            self.answer = stop.value
        finally:
            with self._lock:
                self._is_stepping = False
                if self._is_closed:
                    self._flow.close()

    def _send(self, commands: tuple[Command, ...]) -> None:
        with self._lock:
            if not self._is_closed:
                self._note_plan()
                self._hand_over(commands)

    def _hand_over(self, commands: tuple[Command, ...]) -> None:
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

    def _note_plan(self) -> None:
        """Tell the engine where the program stands, unless it has heard."""
        program = self._program
        if self._scheduler is None or self._num_noted == len(program.trace):
            return
        self._num_noted = len(program.trace)
        plan = ProgramPlan(
            kind=program.name,
            unit=program.knob.unit,
            planned_units=program.knob.maximum,
            granted_units=min(program.num_granted, program.knob.maximum),
            certaindex=program.certaindex if program.trace else None,
            terms=self._terms,
        )
        self._scheduler.note_program(self.program_id, plan)

    def _note_end(self) -> None:
        if self._scheduler is not None and self._num_noted >= 0:
            self._scheduler.note_end(self.program_id)

    def _report_grants(self) -> None:
        if self._on_grant is not None:
            for record in self._program.trace[self._num_records :]:
                self._on_grant(record)
        self._num_records = len(self._program.trace)


class Patience:
    """How long to wait for the next event: an engine that makes progress is slow, one that does not is stuck.

    Args:
        engine: Whose health and progress are looked at, about once a second.
        timeout: Seconds without progress that are too many.
    """

    def __init__(self, engine: Engine, timeout: float) -> None:
        if not timeout > 0:
            raise ConfigurationError(f"Got {timeout = } but expected seconds above 0.")
        self._engine = engine
        self._timeout = timeout
        self._left = timeout
        self._progress = _read_progress(engine)

    @property
    def interval(self) -> float:
        """Seconds to wait before `spend` must be called."""
        return min(_HEALTH_INTERVAL, self._left)

    def spend(self) -> None:
        """Note that an interval went by without an event.

        Raises:
            EngineError: The engine died.
            EngineTimeoutError: It made no progress for too long.
        """
        self._left -= self.interval
        self._engine.check_health()
        progress = _read_progress(self._engine)
        if progress != self._progress:
            self._progress, self._left = progress, self._timeout
        if self._left <= 0:
            raise EngineTimeoutError(
                f"{self._engine.name} delivered nothing for {self._timeout:g} s. Raise the timeout if it is only slow."
            )


def _read_progress(engine: Engine) -> int:
    return engine.progress if isinstance(engine, ReportsProgress) else 0
