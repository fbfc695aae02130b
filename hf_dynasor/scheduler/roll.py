"""Who is here: programs and requests by name, what may enter, and who has been idle for too long."""

from __future__ import annotations

from collections.abc import Iterator

from hf_dynasor.core import RequestKey
from hf_dynasor.errors import ConfigurationError, EngineError, ProgramError
from hf_dynasor.scheduler.memory import count_blocks
from hf_dynasor.scheduler.plans import Limits
from hf_dynasor.scheduler.queues import Alarms
from hf_dynasor.scheduler.records import ProgramRecord, RequestRecord
from hf_dynasor.scheduler.views import ProgramSpec, RequestSpec


class Roll:
    """Keeps the records of a scheduler; each gets a serial number as it enters.

    Args:
        limits: What may queue, what fits into the memory, and how long an idle program is kept.

    Attributes:
        programs: By id.
        requests: By key.
    """

    def __init__(self, limits: Limits) -> None:
        self.programs: dict[str, ProgramRecord] = {}
        self.requests: dict[RequestKey, RequestRecord] = {}
        self._limits = limits
        self._num_programs = self._num_requests = 0
        self._idle: Alarms[tuple[str, int]] = Alarms()  # by id and number: a program that ended is let go

    def enter_program(self, program: ProgramSpec, now: float) -> ProgramRecord:
        """A record of a new program.

        Raises:
            ProgramError: A program of that id is here already.
        """
        if program.program_id in self.programs:
            raise ProgramError(f"Program {program.program_id!r} was submitted already and has not ended.")
        record = ProgramRecord(program, self._num_programs, now)
        self._num_programs += 1
        self.programs[program.program_id] = record
        self.note_idle(record, now)
        return record

    def check_request(self, request: RequestSpec, num_waiting: int) -> None:
        """Raise what speaks against a request.

        Raises:
            ConfigurationError: The key is in use, or the request could never fit into the memory.
            EngineError: Too many requests wait.
        """
        limits = self._limits
        if request.key in self.requests:
            raise ConfigurationError(f"Request {request.key} was submitted already and has not ended.")
        if num_waiting >= limits.max_waiting:
            raise EngineError(
                f"{num_waiting} requests wait, and {limits.max_waiting = } is the most: ask can_admit first."
            )
        total, page, num_blocks = (
            request.prompt_tokens + request.max_tokens,
            limits.page_size,
            limits.num_blocks,
        )
        if num_blocks is not None and count_blocks(total, page) + 1 > num_blocks:
            raise ConfigurationError(
                f"Got a request of {request.prompt_tokens} prompt tokens and {request.max_tokens = }, but the memory "
                f"holds {num_blocks * page} tokens."
            )

    def enter_request(self, request: RequestSpec, now: float) -> RequestRecord:
        """A record of a new request of a program that is here."""
        program = self.programs[request.key.program_id]
        record = RequestRecord(request, program, self._num_requests, now)
        self._num_requests += 1
        self.requests[request.key] = record
        program.add(record, self._limits.page_size)
        return record

    def iter_kind(self, kind: str) -> Iterator[ProgramRecord]:
        """The programs of a kind."""
        return (program for program in self.programs.values() if program.spec.kind == kind)

    def note_idle(self, program: ProgramRecord, now: float) -> None:
        """A program has no request from now on: look at it when it may be forgotten."""
        self._idle.set(now + self._limits.max_idle_s, (program.spec.program_id, program.serial))

    def pop_idle(self, now: float) -> str | None:
        """A program that is here and has had no request for too long."""
        while (due := self._idle.pop_due(now)) is not None:
            name, serial = due
            program = self.programs.get(name)
            if program is None or program.serial != serial or program.idle_since is None:
                continue
            if now - program.idle_since >= self._limits.max_idle_s:
                return name
        return None


__all__ = ["Roll"]
