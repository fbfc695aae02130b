"""Intra-program allocation: how much of its knob a program may spend next (paper §3).

Policies are pure: the same knob and trace give the same decision. Here are the baselines, the thresholds on
certaindex, and the table of all policies by name; curves and rules on votes have files of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from hf_dynasor.certaindex import TABLE_1, Thresholds
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.grants import AllocationPolicy, Decision, GrantRecord, Knob, StopReason
from hf_dynasor.scheduler.allocation_common import (
    check_reading,
    check_units,
    describe_reading,
    grant_rest,
    grant_some,
    judge,
)
from hf_dynasor.scheduler.allocation_curves import DynamicCurve, InitialStepCurve
from hf_dynasor.scheduler.allocation_votes import AdaptiveConsistency, ConsistentWindow, VoteForecast

_DEFAULT = TABLE_1["sc/math"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Even:
    """The baseline: the same full budget for every program, granted at once."""

    name: str = "even"

    def allocate(self, knob: Knob, trace: Sequence[GrantRecord]) -> Decision:
        """Everything at first, then nothing."""
        return grant_rest(knob, trace)


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticThreshold:
    """Read certaindex once, at detect @knob: certain programs end there, the others run on to the cap.

    Args:
        thresholds: What certaindex must exceed, strictly.
        detect_at: Units of the knob after which it is read; at least 2 where entropy or agreement is, since one
            path alone has neither.
        give_up: A program whose every signal named here is below its limit ends too, as hopeless; off by default.
    """

    thresholds: Thresholds = _DEFAULT.thresholds
    detect_at: int = _DEFAULT.detect_at
    give_up: Thresholds | None = None
    name: str = "static"

    def __post_init__(self) -> None:
        check_reading(self.detect_at, self.thresholds, self.give_up)

    def allocate(self, knob: Knob, trace: Sequence[GrantRecord]) -> Decision:
        """`detect_at` units at first; then none where certain or hopeless, else the rest."""
        if not trace:
            return grant_some(knob, trace, self.detect_at)
        denial = judge(knob, trace[-1], self.thresholds, self.give_up)
        return denial or grant_rest(knob, trace, describe_reading(knob, trace[0], self.thresholds))


@dataclass(frozen=True, slots=True, kw_only=True)
class FiveStep:
    """Read certaindex every few units from detect @knob on; end at the first reading that is certain.

    Finer checks save tokens and cost waiting: what ran side by side now runs in turns.

    Args:
        thresholds, detect_at, give_up: As in `StaticThreshold`.
        every: Units between two readings.
    """

    thresholds: Thresholds = _DEFAULT.thresholds
    detect_at: int = _DEFAULT.detect_at
    every: int = 5
    give_up: Thresholds | None = None
    name: str = "five_step"

    def __post_init__(self) -> None:
        check_reading(self.detect_at, self.thresholds, self.give_up)
        check_units("every", self.every)

    def allocate(self, knob: Knob, trace: Sequence[GrantRecord]) -> Decision:
        """`detect_at` units at first, then `every` more until a reading is certain or hopeless."""
        if not trace:
            return grant_some(knob, trace, self.detect_at)
        denial = judge(knob, trace[-1], self.thresholds, self.give_up)
        words = describe_reading(knob, trace[-1], self.thresholds)
        return denial or grant_some(knob, trace, self.every, words)


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleStep(FiveStep):
    """`FiveStep` with a reading after every single unit."""

    every: int = 1
    name: str = "single_step"


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
        check_units("detect_at", self.detect_at)
        if self.max_tokens < 1:
            raise ConfigurationError(f"Got {self.max_tokens = } but expected at least 1.")

    def allocate(self, knob: Knob, trace: Sequence[GrantRecord]) -> Decision:
        """`detect_at` units at first; then none where they took too many tokens, else the rest."""
        if not trace:
            return grant_some(knob, trace, self.detect_at)
        num_tokens = trace[-1].usage.net_tokens
        if trace[-1].total < knob.maximum and num_tokens > self.max_tokens:
            words = f"{num_tokens} tokens > {self.max_tokens} at {knob.describe(trace[-1].total)}"
            return Decision(units=0, stop_reason=StopReason.LENGTH, explanation=words)
        return grant_rest(knob, trace)


def list_read_signals(policy: AllocationPolicy) -> frozenset[str]:
    """The certaindex signals that a policy reads, so that a program can be asked for them.

    Examples:
        >>> sorted(list_read_signals(StaticThreshold(thresholds=Thresholds(entropy=0.7, reward=0.4))))
        ['entropy', 'reward']
    """
    limits = [getattr(policy, name, None) for name in ("thresholds", "give_up")]
    names = {name for item in limits if isinstance(item, Thresholds) for name in item.to_dict()}
    return frozenset(
        names | ({policy.signal} if isinstance(policy, InitialStepCurve | DynamicCurve) else set())
    )


PolicyClass: TypeAlias = (
    type[AdaptiveConsistency]
    | type[ConsistentWindow]
    | type[DynamicCurve]
    | type[Even]
    | type[FiveStep]
    | type[InitialStepCurve]
    | type[Length]
    | type[StaticThreshold]
    | type[VoteForecast]
)

POLICIES: Mapping[str, PolicyClass] = MappingProxyType(
    {
        "adaptive_consistency": AdaptiveConsistency,
        "dynamic_curve": DynamicCurve,
        "even": Even,
        "five_step": FiveStep,
        "forecast": VoteForecast,
        "initial_curve": InitialStepCurve,
        "length": Length,
        "single_step": SingleStep,
        "static": StaticThreshold,
        "window": ConsistentWindow,
    }
)
"""Policies by the names that a command line or a request uses: dataclasses, whose fields are their options."""


__all__ = [
    "POLICIES",
    "AdaptiveConsistency",
    "AllocationPolicy",
    "ConsistentWindow",
    "DynamicCurve",
    "Even",
    "FiveStep",
    "InitialStepCurve",
    "Length",
    "PolicyClass",
    "SingleStep",
    "StaticThreshold",
    "VoteForecast",
    "list_read_signals",
]
