"""Where a chain of thought can be asked, what it answers there, and what follows. Pure; compares keys, reads no text."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass

from hf_dynasor.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthPlace:
    """A point of a chain where it could be asked for its answer.

    Args:
        position: Tokens of the chain before it.
        is_boundary: Whether a piece of reasoning ends here; otherwise it is one of the regular places.
    """

    position: int
    is_boundary: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthReading:
    """What a chain answered at a place.

    Args:
        place: Where it was asked.
        answer: Its answer as it spelt it; `None` where it gave none.
        key: What the answer says, equal for equal answers; `None` where it says nothing.
        confidence: Geometric mean probability of the answer's tokens, in [0, 1]; `None` where it is not known.
        num_tokens: Tokens that asking cost.
        is_hesitant: Whether a word of hesitation followed.
    """

    place: DepthPlace
    answer: str | None
    key: Hashable | None
    confidence: float | None = None
    num_tokens: int = 0
    is_hesitant: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthVerdict:
    """Whether to stop, with which reading's answer, and why. A verdict to go on has no reading.

    Args:
        is_stop: Whether the chain stops here.
        reading: Whose answer it ends with.
        explanation: Why, for people.
        evidence: What speaks for the newest answer, in nats; `None` where the policy does not measure it so.
    """

    is_stop: bool
    reading: DepthReading | None = None
    explanation: str = ""
    evidence: float | None = None


GO_ON = DepthVerdict(is_stop=False)


def check_count(name: str, value: int) -> None:
    """Raises `ConfigurationError` unless the value is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"Got {name} = {value!r} but expected a whole number of at least 1.")


def check_probability(name: str, value: float) -> None:
    """Raises `ConfigurationError` unless the value lies in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ConfigurationError(f"Got {name} = {value!r} but expected a number in [0, 1].")


def check_finite(name: str, value: float) -> None:
    """Raises `ConfigurationError` unless the value is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigurationError(f"Got {name} = {value!r} but expected a finite number.")
