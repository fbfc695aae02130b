"""Start-time fair queueing over tenants: each program gets a start in virtual time when it arrives."""

from __future__ import annotations

from collections.abc import Iterable

from hf_dynasor.scheduler.records import ProgramRecord

MAX_TENANTS = 10_000
"""Most tenants that are remembered; beyond, the oldest is forgotten and starts at the present."""


class Tenants:
    """Virtual time is the latest start among programs that have run; a tenant's programs follow each other."""

    def __init__(self) -> None:
        self._virtual_time = 0.0
        self._ends: dict[str, float] = {}

    def tag(self, tenant: str, work: float) -> float:
        """The virtual start of a program of so much work over weight."""
        start = max(self._virtual_time, self._ends.pop(tenant, 0.0))
        if len(self._ends) >= MAX_TENANTS:
            self._ends.pop(next(iter(self._ends)))
        self._ends[tenant] = start + work
        return start

    def advance(self, started: Iterable[ProgramRecord]) -> None:
        """These programs got places."""
        for program in started:
            if program.has_started:
                self._virtual_time = max(self._virtual_time, program.fair_tag)


__all__ = ["Tenants"]
