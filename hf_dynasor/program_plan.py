"""What a program tells the engine that runs it, so that many programs can be scheduled against each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from hf_dynasor.certaindex import Certaindex
from hf_dynasor.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramTerms:
    """How a program is to be served, as its owner asks.

    Args:
        priority: Higher goes first.
        tenant: Whose it is.
        weight: What its waiting costs against others', above 0.
        deadline_s: Seconds from its start by which it should have ended; `None` for no deadline.
    """

    priority: int = 0
    tenant: str = ""
    weight: float = 1.0
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise ConfigurationError(f"Got {self.weight = } but expected a finite number above 0.")
        if self.deadline_s is not None and not self.deadline_s > 0:
            raise ConfigurationError(f"Got {self.deadline_s = } but expected seconds above 0, or None.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramPlan:
    """Where a program stands, told before its first request and after each grant.

    Args:
        kind: What sort of program it is: estimates of work are shared within a kind.
        unit: What its knob counts.
        planned_units: Units that it may be granted in all.
        granted_units: Units that it was granted so far.
        certaindex: The last reading; `None` before the first.
        predicted_units: Units that it will still be granted, where somebody knows; else the engine learns from
            the certaindex how many it grants to programs of the kind.
        terms: How it is to be served.
    """

    kind: str
    unit: str = "samples"
    planned_units: int = 1
    granted_units: int = 0
    certaindex: Certaindex | None = None
    predicted_units: int | None = None
    terms: ProgramTerms = field(default_factory=ProgramTerms)

    def __post_init__(self) -> None:
        if self.planned_units < 1 or not 0 <= self.granted_units <= self.planned_units:
            raise ConfigurationError(
                f"Got {self.planned_units = } and {self.granted_units = } but expected at least 1 and 0 to that."
            )
        if self.predicted_units is not None and self.predicted_units < 0:
            raise ConfigurationError(f"Got {self.predicted_units = } but expected 0 or more, or None.")


@runtime_checkable
class SchedulesPrograms(Protocol):
    """An engine that orders programs by what they tell. Drivers tell it; other engines never hear of plans."""

    def note_program(self, program_id: str, plan: ProgramPlan) -> None:
        """A program begins, or stands elsewhere now. May be called from any thread; returns at once."""
        ...

    def note_end(self, program_id: str) -> None:
        """A program has its answer or was given up. Unknown ones are ignored."""
        ...


__all__ = ["ProgramPlan", "ProgramTerms", "SchedulesPrograms"]
