"""When one long chain of thought has thought enough: policies that watch the answers it is asked for (paper §6).

Pure. A policy is a frozen configuration; `start()` makes the state of one chain. At every *place* where the chain
could be asked (a reasoning boundary, or every so many tokens) the state says what to do next: nothing, ask, or
stop. What asking brought is observed as a `DepthReading`. Answers are compared by the key that the caller gives
them; this module reads no text.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from hf_dynasor.certaindex.depth import (
    GO_ON,
    DepthPlace,
    DepthReading,
    DepthVerdict,
    check_count,
    check_probability,
)


class DepthState(Protocol):
    """What a policy remembers of one chain."""

    def wants(self, place: DepthPlace) -> bool:
        """Whether the chain is to be asked here. Changes nothing."""
        ...

    def observe(self, reading: DepthReading) -> DepthVerdict:
        """Take in an answer, and decide."""
        ...


class DepthPolicy(Protocol):
    """Decides when a chain of thought stops."""

    @property
    def name(self) -> str:
        """What it is called in records and messages."""
        ...

    def start(self, *, cap: int | None = None) -> DepthState:
        """The state of a fresh chain that may have `cap` tokens; `None` where that is not known."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FullDepth:
    """The baseline: run to the end, ask nothing."""

    name: str = "full"

    def start(self, *, cap: int | None = None) -> DepthState:
        """Nothing to remember."""
        return _NeverStops()


class _NeverStops:
    def wants(self, place: DepthPlace) -> bool:
        return False

    def observe(self, reading: DepthReading) -> DepthVerdict:
        return GO_ON


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsistencyExit:
    """Stop once the last answers at regular places agree and none hesitates (Dynasor-CoT, paper §6).

    Args:
        window: How many answers must agree, at least 1.
        interval: Least tokens between two of them, at least 1. A trace that was probed more seldom gives fewer.

    Raises:
        ConfigurationError: An option outside its range.
    """

    window: int = 3
    interval: int = 64
    name: str = "consistency"

    def __post_init__(self) -> None:
        check_count("window", self.window)
        check_count("interval", self.interval)

    def start(self, *, cap: int | None = None) -> DepthState:
        """No answer yet."""
        return _ConsistencyState(self)


class _ConsistencyState:
    def __init__(self, policy: ConsistencyExit) -> None:
        self._policy = policy
        self._next_at = policy.interval
        self._last: deque[DepthReading] = deque(maxlen=policy.window)

    def wants(self, place: DepthPlace) -> bool:
        return not place.is_boundary and place.position >= self._next_at

    def observe(self, reading: DepthReading) -> DepthVerdict:
        self._next_at = reading.place.position + self._policy.interval
        self._last.append(reading)
        is_full = len(self._last) == self._policy.window and reading.key is not None
        if not is_full or any(old.key != reading.key or old.is_hesitant for old in self._last):
            return GO_ON
        return DepthVerdict(
            is_stop=True,
            reading=reading,
            explanation=f"the last {len(self._last)} answers are {reading.answer!r}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceExit:
    """Stop at a reasoning boundary where the answer's own tokens are likely (as DEER does).

    Args:
        threshold: What their geometric mean probability must exceed, in [0, 1].

    Raises:
        ConfigurationError: The threshold is outside its range.
    """

    threshold: float = 0.995
    name: str = "confidence"

    def __post_init__(self) -> None:
        check_probability("threshold", self.threshold)

    def start(self, *, cap: int | None = None) -> DepthState:
        """Nothing to remember."""
        return _ConfidenceState(self)


class _ConfidenceState:
    def __init__(self, policy: ConfidenceExit) -> None:
        self._policy = policy

    def wants(self, place: DepthPlace) -> bool:
        return place.is_boundary

    def observe(self, reading: DepthReading) -> DepthVerdict:
        confidence = reading.confidence or 0.0
        if reading.key is None or not confidence > self._policy.threshold:
            return GO_ON
        return DepthVerdict(
            is_stop=True,
            reading=reading,
            explanation=f"probability {confidence:.4f} > {self._policy.threshold:.4f} of {reading.answer!r}",
        )


__all__ = [
    "ConfidenceExit",
    "ConsistencyExit",
    "DepthPlace",
    "DepthPolicy",
    "DepthReading",
    "DepthState",
    "DepthVerdict",
    "FullDepth",
    "check_count",
    "check_probability",
]
