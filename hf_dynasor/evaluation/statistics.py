"""Intervals and paired differences, so that no figure stands alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hf_dynasor.errors import ConfigurationError

_Z_95 = 1.959963984540054


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """A mean difference over the same questions, with its 95% interval.

    Args:
        mean: Mean of b - a.
        low, high: Normal 95% interval of the mean, from the standard error over questions.
    """

    mean: float
    low: float
    high: float


def wilson_interval(num_right: int, num_all: int) -> tuple[float, float]:
    """Wilson's 95% interval of a proportion.

    Examples:
        >>> [round(value, 3) for value in wilson_interval(8, 10)]
        [0.49, 0.943]
    """
    if not 0 <= num_right <= num_all or num_all == 0:
        raise ConfigurationError(
            f"Got {num_right = } of {num_all = } but expected 0 <= right <= all, all >= 1."
        )
    return _wilson(num_right / num_all, num_all)


def share_interval(rights: Sequence[Sequence[bool]]) -> tuple[float, float]:
    """95% interval of the share of right answers where each question was asked several times.

    Wilson's interval with as many observations as the questions are worth: between one for each question, where its
    answers are always the same, and one for each answer, where they have nothing to do with each other.

    Args:
        rights: For each question, whether each of its answers was right; at least one each.

    Raises:
        ConfigurationError: No question, or one without an answer.

    Examples:
        >>> share_interval([[True], [True], [False]]) == wilson_interval(2, 3)
        True
    """
    if not rights or not all(rights):
        raise ConfigurationError(
            "Got a question without an answer, or no question. Expected at least one each."
        )
    num = sum(map(len, rights))
    share = sum(map(sum, rights)) / num
    # The variance of a ratio of sums over questions, which are independent as their answers are not.
    spread = math.fsum((sum(row) - share * len(row)) ** 2 for row in rights) / num**2
    # All right or all wrong: nothing shows that further answers were independent.
    worth = min(share * (1 - share) / spread, num) if spread else num if 0 < share < 1 else 0
    return _wilson(share, max(float(len(rights)), worth))


def _wilson(share: float, num: float) -> tuple[float, float]:
    spread = _Z_95 * math.sqrt(share * (1 - share) / num + _Z_95**2 / (4 * num**2))
    middle, scale = share + _Z_95**2 / (2 * num), 1 + _Z_95**2 / num
    # At 0 and at all of them the interval ends at the share itself, which rounding would just miss.
    return max(0.0, min(share, (middle - spread) / scale)), min(1.0, max(share, (middle + spread) / scale))


def paired_difference(before: Sequence[float], after: Sequence[float]) -> PairedDifference:
    """Mean of `after - before`, question by question, with its 95% interval.

    Examples:
        >>> paired_difference([1, 1, 0], [1, 1, 0]).mean
        0.0
    """
    if len(before) != len(after) or len(before) < 2:
        raise ConfigurationError(
            f"Got {len(before)} and {len(after)} values but expected equally many, at least 2."
        )
    differences = [second - first for first, second in zip(before, after, strict=True)]
    mean = math.fsum(differences) / len(differences)
    variance = math.fsum((value - mean) ** 2 for value in differences) / (len(differences) - 1)
    spread = _Z_95 * math.sqrt(variance / len(differences))
    return PairedDifference(mean=mean, low=mean - spread, high=mean + spread)
