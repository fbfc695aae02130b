"""How likely a language model found a text: log-probabilities of its tokens to one reward in [0, 1]. Pure.

The reward of a path needs no trained model: the token that the model found least likely is where it is most
probably wrong. The log-probabilities may come from the completion itself, or from reading the text once more.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal, TypeAlias

from hf_dynasor.errors import ConfigurationError, name_unknown

RESULT_DIGITS = r"=\s*(\d+)"  # the result of a calculation: only its digits, not the sign before them

Combination: TypeAlias = Literal["minimum", "geometric_mean", "product"]
COMBINATIONS: dict[str, str] = {
    "minimum": "smallest token probability",
    "geometric_mean": "geometric mean of the token probabilities",
    "product": "product of the token probabilities",
}


def combine_logprobs(logprobs: Sequence[float], combination: Combination = "minimum") -> float:
    """One number in [0, 1] for natural-log probabilities of tokens; 1 for none: what is not there is not doubted.

    Raises:
        ConfigurationError: A value is no log-probability, or the combination is unknown.

    Examples:
        >>> [round(combine_logprobs([0.0, math.log(0.25)], name), 2) for name in COMBINATIONS]
        [0.25, 0.5, 0.25]
    """
    if combination not in COMBINATIONS:
        raise name_unknown("combination", combination, COMBINATIONS)
    broken = next((value for value in logprobs if math.isnan(value) or value > 1e-3), None)
    if broken is not None:
        raise ConfigurationError(f"Got log-probability {broken} but expected at most 0.")
    if not logprobs:
        return 1.0
    total = min(logprobs) if combination == "minimum" else math.fsum(logprobs)
    return min(1.0, math.exp(total / len(logprobs) if combination == "geometric_mean" else total))


def select_tokens(text: str, offsets: Sequence[int], pattern: str | None) -> list[int]:
    """The tokens that a pattern matches, in order.

    Args:
        text: What the tokens spell.
        offsets: The character of `text` at which each token begins, never falling.
        pattern: A regular expression; where it has a group, only what the first group matched counts.
            `None` takes every token.

    Raises:
        ConfigurationError: The pattern is no regular expression.

    Examples:
        >>> select_tokens("47+5=52", [0, 1, 2, 3, 4, 5, 6], RESULT_DIGITS)
        [5, 6]
    """
    if pattern is None:
        return list(range(len(offsets)))
    spans = _find_spans(text, pattern)
    ends = [*offsets[1:], len(text)]
    return [
        index
        for index, (start, end) in enumerate(zip(offsets, ends, strict=True))
        # A part of a character begins where the next part begins: it counts as one character wide.
        if any(start < last and max(end, start + 1) > first for first, last in spans)
    ]


def rate_likelihood(
    text: str,
    offsets: Sequence[int],
    logprobs: Sequence[float],
    *,
    pattern: str | None = None,
    combination: Combination = "minimum",
) -> float:
    """The reward of a text by the log-probabilities of the tokens that a pattern matches; see the parts above."""
    chosen = select_tokens(text, offsets, pattern)
    return combine_logprobs([logprobs[index] for index in chosen], combination)


def check_pattern(pattern: str | None) -> None:
    """Raise `ConfigurationError` for what is no regular expression."""
    if pattern is not None:
        _find_spans("", pattern)


def _find_spans(text: str, pattern: str) -> list[tuple[int, int]]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigurationError(f"Got {pattern = } but expected a regular expression: {error}.") from error
    group = 1 if compiled.groups else 0
    return [match.span(group) for match in compiled.finditer(text) if match.start(group) >= 0]
