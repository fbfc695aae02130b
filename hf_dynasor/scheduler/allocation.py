"""Intra-program allocation: how much of its knob a program may spend next (paper §3).

Policies are pure: the same knob and trace give the same decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hf_dynasor.certaindex import TABLE_1, Thresholds
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.grants import AllocationPolicy, Decision, GrantRecord, Knob, StopReason

_DEFAULT = TABLE_1["sc/math"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Even:
    """The baseline: the same full budget for every program, granted at once."""

    name: str = "even"

    def allocate(self, knob: Knob, trace: Sequence[GrantRecord]) -> Decision:
        """Everything at first, then nothing."""
        return _grant_rest(knob, trace)


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticThreshold:
    """Read certaindex once, at detect @knob: certain programs end there, the others run on to the cap.

    Args:
        thresholds: What certaindex must exceed, strictly.
        detect_at: Units of the knob after which it is read; at least 2 where entropy or agreement is, since one
            path alone has neither.
    """

    thresholds: Thresholds = _DEFAULT.thresholds
    detect_at: int = _DEFAULT.detect_at
    name: str = "static"

    def __post_init__(self) -> None:
        _check_detect_at(self.detect_at)
        if self.detect_at == 1 and {"entropy", "agreement"} & set(self.thresholds.to_dict()):
            raise ConfigurationError(
                "Got detect_at = 1 with a threshold on entropy or agreement, which one path alone does not have. "
                "Expected at least 2."
            )

    def allocate(self, knob: Knob, trace: Sequence[GrantRecord]) -> Decision:
        """`detect_at` units at first; then none where certain, else the rest."""
        if not trace:
            return Decision(units=min(self.detect_at, knob.maximum))
        reading = trace[-1].certaindex
        if trace[-1].total < knob.maximum and self.thresholds.are_exceeded_by(reading):
            return Decision(
                units=0, stop_reason=StopReason.CERTAIN, explanation=self._describe(trace[-1], knob)
            )
        return _grant_rest(knob, trace, self._describe(trace[0], knob))

    def _describe(self, record: GrantRecord, knob: Knob) -> str:
        return f"{self.thresholds.describe(record.certaindex)} at {record.total} {knob.unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """The paper's length baseline: end where the tokens used at detect @knob pass a limit.

    Long beginnings mark questions that more samples seldom help.

    Args:
        max_tokens: Net tokens at `detect_at` beyond which the program ends.
        detect_at: Units of the knob after which they are read.
    """

    max_tokens: int = 2048
    detect_at: int = 5
    name: str = "length"

    def __post_init__(self) -> None:
        _check_detect_at(self.detect_at)
        if self.max_tokens < 1:
            raise ConfigurationError(f"Got {self.max_tokens = } but expected at least 1.")

    def allocate(self, knob: Knob, trace: Sequence[GrantRecord]) -> Decision:
        """`detect_at` units at first; then none where they took too many tokens, else the rest."""
        if not trace:
            return Decision(units=min(self.detect_at, knob.maximum))
        num_tokens = trace[-1].usage.net_tokens
        if trace[-1].total < knob.maximum and num_tokens > self.max_tokens:
            words = f"{num_tokens} tokens > {self.max_tokens} at {trace[-1].total} {knob.unit}"
            return Decision(units=0, stop_reason=StopReason.LENGTH, explanation=words)
        return _grant_rest(knob, trace)


POLICIES: dict[str, type[Even] | type[StaticThreshold] | type[Length]] = {
    "even": Even,
    "length": Length,
    "static": StaticThreshold,
}
"""Policies by the names that a command line or a request uses."""


def _grant_rest(knob: Knob, trace: Sequence[GrantRecord], why_not_earlier: str = "") -> Decision:
    left = knob.maximum - (trace[-1].total if trace else 0)
    if left:
        return Decision(units=left)
    words = f"the budget of {knob.maximum} {knob.unit} is spent"
    words = f"{words}; {why_not_earlier}" if why_not_earlier else words
    return Decision(units=0, stop_reason=StopReason.BUDGET, explanation=words)


def _check_detect_at(detect_at: int) -> None:
    if not isinstance(detect_at, int) or detect_at < 1:
        raise ConfigurationError(f"Got {detect_at = } but expected a whole number of at least 1 unit.")


__all__ = ["POLICIES", "AllocationPolicy", "Even", "Length", "StaticThreshold"]
