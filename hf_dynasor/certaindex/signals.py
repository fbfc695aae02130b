"""Signals in [0, 1], higher = surer. Pure functions of counts, log-probabilities and rewards."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hf_dynasor.errors import ConfigurationError


def normalised_entropy(group_sizes: Sequence[int]) -> float | None:
    """H̃ = (log n - H) / log n over groups of equal answers (paper §3, "certaindex").

    Args:
        group_sizes: Number of paths in each group; n is their sum.

    Returns:
        1.0 where all n paths agree, 0.0 where all differ, `None` for fewer than two paths: one path alone
        carries no evidence.

    Examples:
        >>> [round(normalised_entropy(sizes), 3) for sizes in ([5], [4, 1], [3, 2], [3, 1, 1], [2, 2, 1])]
        [1.0, 0.689, 0.582, 0.41, 0.345]
        >>> normalised_entropy([8, 8])
        0.75
        >>> normalised_entropy([1]) is None
        True
    """
    _check_group_sizes(group_sizes)
    num_paths = sum(group_sizes)
    if num_paths < 2:
        return None
    if len(group_sizes) == 1:
        return 1.0
    # H = log n - (1/n) Σ c log c, so (log n - H) / log n needs one sum, in base 2 to keep powers of two exact;
    # fsum makes it independent of the order of the groups.
    total = math.fsum(size * math.log2(size) for size in group_sizes)
    return min(1.0, max(0.0, total / (num_paths * math.log2(num_paths))))


def agreement(group_sizes: Sequence[int]) -> float | None:
    """Share of the paths that are in the largest group; `None` for fewer than two paths.

    Examples:
        >>> agreement([3, 1])
        0.75
    """
    _check_group_sizes(group_sizes)
    num_paths = sum(group_sizes)
    return max(group_sizes) / num_paths if num_paths >= 2 else None


def answer_probability(logprobs: Sequence[float]) -> float | None:
    """Geometric mean probability of an answer's tokens; `None` without tokens.

    Args:
        logprobs: Natural-log probability of each token of the answer.

    Examples:
        >>> round(answer_probability([math.log(0.9), math.log(0.4)]), 3)
        0.6
    """
    if not logprobs:
        return None
    if any(math.isnan(value) or value > 1e-6 for value in logprobs):
        raise ConfigurationError(f"Got log-probabilities {list(logprobs)} but expected values of at most 0.")
    return min(1.0, math.exp(math.fsum(logprobs) / len(logprobs)))


def mean_signal(values: Sequence[float]) -> float | None:
    """Mean of signals in [0, 1], the paper's reward certaindex for MCTS; `None` without values."""
    _check_unit_interval(values)
    return min(1.0, math.fsum(values) / len(values)) if values else None


def max_signal(values: Sequence[float]) -> float | None:
    """Largest of signals in [0, 1], the paper's reward certaindex for Rebase; `None` without values."""
    _check_unit_interval(values)
    return max(values) if values else None


def _check_group_sizes(group_sizes: Sequence[int]) -> None:
    if any(size < 1 for size in group_sizes):
        raise ConfigurationError(
            f"Got group sizes {list(group_sizes)} but expected at least 1 path in each group."
        )


def _check_unit_interval(values: Sequence[float]) -> None:
    for value in values:
        if not 0 <= value <= 1:
            raise ConfigurationError(f"Got a signal of {value} but expected a value in [0, 1].")
