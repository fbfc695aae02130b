"""What a program and an allocation policy say to each other: knob, grants, decisions, and the final answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from hf_dynasor.certaindex import SIGNAL_NAMES, Certaindex
from hf_dynasor.core import Usage
from hf_dynasor.drawing import draw_page, draw_svg
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.paths import PathRecord


class StopReason(str, Enum):
    """Why a program ended."""

    CERTAIN = "certain"
    FINISHED = "finished"
    BUDGET = "budget"
    LENGTH = "length"
    HOPELESS = "hopeless"
    DENIED = "denied"


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """The one dial of a program, in units of its own (paper §3).

    Args:
        unit: What is counted: samples, width, rollouts or tokens.
        maximum: The cap; a policy can never grant more in total.
    """

    unit: str
    maximum: int

    def __post_init__(self) -> None:
        if not isinstance(self.maximum, int) or self.maximum < 1:
            raise ConfigurationError(
                f"Got a budget of {self.maximum!r} {self.unit} but expected a whole number of at least 1."
            )

    def describe(self, units: int) -> str:
        """So many units in words.

        Examples:
            >>> knob = Knob(unit="samples", maximum=8)
            >>> knob.describe(1), knob.describe(8)
            ('1 sample', '8 samples')
        """
        return describe_units(units, self.unit)


def describe_units(units: int, unit: str) -> str:
    """So many units of a knob in words: `1 token`, `16 iterations`, `width 16`."""
    if not unit.endswith("s"):
        return f"{unit} {units:,}"
    return f"{units:,} {unit[:-1] if units == 1 else unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantRecord:
    """What one grant bought.

    Args:
        units: Units granted.
        total: Units granted so far, these included.
        certaindex: The reading after they were spent.
        usage: Tokens of the program so far.
        sequential_tokens: Longest chain of tokens so far that had to wait for each other.
        groups: For each finished path so far, in the order of the knob's units, the number of the group that its
            answer belongs to, counted by first appearance; a path without an answer has a number of its own.
            Empty where a program does not group answers.
    """

    units: int
    total: int
    certaindex: Certaindex
    usage: Usage
    sequential_tokens: int
    groups: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The record, ready for JSON."""
        return {
            "units": self.units,
            "total": self.total,
            "certaindex": self.certaindex.to_dict(),
            "net_tokens": self.usage.net_tokens,
            "sequential_tokens": self.sequential_tokens,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A policy's word on the next grant.

    Args:
        units: Units granted; 0 denies and ends the program.
        stop_reason: Why it denies; `None` with a grant.
        explanation: One clause for people, such as `entropy 1.00 > 0.70 at 5 samples`.
    """

    units: int
    stop_reason: StopReason | None = None
    explanation: str = ""

    def __post_init__(self) -> None:
        if self.units < 0:
            raise ConfigurationError(f"Got {self.units = } but expected 0 (deny) or more.")
        if (self.units == 0) != (self.stop_reason is not None):
            raise ConfigurationError(
                f"Got {self.units = } with {self.stop_reason = }: denials, and only they, have one."
            )


class AllocationPolicy(Protocol):
    """Decides how much of its knob a program may spend next. A pure function of what has been seen."""

    @property
    def name(self) -> str:
        """What it is called in records and messages."""
        ...

    def allocate(self, knob: Knob, trace: Sequence[GrantRecord]) -> Decision:
        """The next grant for a program with this knob and this history of grants (empty at first)."""
        ...


class Trace(tuple[GrantRecord, ...]):
    """The grants of a program, one record each; a tuple that can also draw what was generated for them.

    Args:
        records: One for each grant.
        paths: What was generated, piece by piece.
    """

    paths: tuple[PathRecord, ...]

    def __new__(cls, records: Iterable[GrantRecord] = (), *, paths: Iterable[PathRecord] = ()) -> Trace:
        """A trace of these records."""
        trace = super().__new__(cls, records)
        trace.paths = tuple(paths)
        return trace

    def to_svg(self) -> str:
        """The tree of what was generated, as one SVG element; see `hf_dynasor.drawing.draw_svg`."""
        return draw_svg(self.paths)

    def to_html(self, *, title: str = "What was generated") -> str:
        """A page of HTML that needs nothing else: a table of the grants, and the tree of what was generated.

        Args:
            title: Heading of the page, such as the question.
        """
        header = ("grant", "units", "in all", *SIGNAL_NAMES, "net tokens", "sequential tokens")
        rows = [(str(number), *_list_cells(record)) for number, record in enumerate(self, 1)]
        return draw_page(self.paths, title=title, header=header, rows=rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a program ends with.

    Args:
        text: The answer as its paths most often spelt it; `None` where no path stated one.
        certaindex: The last reading.
        trace: One record for each grant; `trace.to_html()` draws what was generated.
        stop_reason: Why it ended.
        explanation: The same for people.
        usage: Tokens of the whole program, cancelled paths included.
        sequential_tokens: Longest chain of tokens that had to wait for each other: waves add up, parallel
            paths do not.
        budget: The knob's maximum.
        unit: The knob's unit.
        num_failed: Paths that an engine failed to finish; they had no vote.
        votes: Candidate answers with their weights, heaviest first; empty where nothing is voted.
        paths: What was generated, piece by piece, in the order of the knob's units.
    """

    text: str | None
    certaindex: Certaindex
    trace: Trace
    stop_reason: StopReason
    explanation: str
    usage: Usage
    sequential_tokens: int
    budget: int
    unit: str
    num_failed: int = 0
    votes: tuple[tuple[str, float], ...] = field(default=())
    paths: tuple[PathRecord, ...] = field(default=())

    @property
    def units_spent(self) -> int:
        """Units of the knob that were granted in total."""
        return self.trace[-1].total if self.trace else 0

    @property
    def is_early(self) -> bool:
        """Whether it was stopped before its budget was spent; a chain that ended by itself was not stopped."""
        return self.units_spent < self.budget and self.stop_reason is not StopReason.FINISHED

    @property
    def full_budget_tokens(self) -> int:
        """Estimate of the net tokens at the full budget: mean tokens of a unit so far, times the budget.

        A cap of tokens is no estimate: a chain ends by itself long before it. There it is what was spent.
        """
        if self.unit == "tokens":
            return self.usage.net_tokens
        return round(self.usage.net_tokens / self.units_spent * self.budget) if self.units_spent else 0

    def to_dict(self) -> dict[str, Any]:
        """The answer, ready for JSON."""
        return {
            "answer": self.text,
            "certaindex": self.certaindex.to_dict(),
            "grants": [record.to_dict() for record in self.trace],
            "stop_reason": self.stop_reason.value,
            "explanation": self.explanation,
            "votes": [list(vote) for vote in self.votes],
            "budget": self.budget,
            "unit": self.unit,
            "usage": self.usage.to_dict(),
            "sequential_tokens": self.sequential_tokens,
            "num_failed": self.num_failed,
        }


def _list_cells(record: GrantRecord) -> tuple[str, ...]:
    signals = record.certaindex.signals
    return (
        str(record.units),
        str(record.total),
        *(f"{signals[name]:.3f}" if name in signals else "–" for name in SIGNAL_NAMES),
        f"{record.usage.net_tokens:,}",
        f"{record.sequential_tokens:,}",
    )
