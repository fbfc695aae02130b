"""Ageing: a program that has waited too long is raised above all that have not (paper §4, starvation)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hf_dynasor.errors import ConfigurationError
from hf_dynasor.scheduler.views import ProgramView


@dataclass(frozen=True, slots=True, kw_only=True)
class Ageing:
    """Raises a program once one of its requests has waited `max_wait_s` without a break.

    **The bound.** A request that begins to wait at t is in a raised program by t + `max_wait_s`. From then on only
    programs stand before it that were raised no later, which began to wait no later, and running requests that a
    policy does not interrupt. Nothing that begins to wait after t ever passes it. So it runs again by
    t + `max_wait_s` + D, where D is the time that the engine takes for what was running at t + `max_wait_s` and
    for what was raised before, alone: finite, and independent of what arrives later. A raised program stays so
    until it ends, so it pays `max_wait_s` once, however many grants it asks for.

    Args:
        max_wait_s: Seconds, above 0; infinite switches ageing off.
    """

    max_wait_s: float = 300.0

    def __post_init__(self) -> None:
        if not self.max_wait_s > 0:
            raise ConfigurationError(f"Got {self.max_wait_s = } but expected seconds above 0.")

    def find_raised_at(self, program: ProgramView, now: float) -> float | None:
        """When the program was raised; `None` if it is not, at this time."""
        if program.aged_at is not None:
            return program.aged_at
        due = self.find_due(program)
        return due if due <= now else None

    def find_due(self, program: ProgramView) -> float:
        """When the program will be raised if it waits on; infinite if it does not wait."""
        return math.inf if program.waiting_since is None else program.waiting_since + self.max_wait_s


__all__ = ["Ageing"]
