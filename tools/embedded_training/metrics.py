"""Figures of an evaluation: votes, entropy certaindex, AUROC, correlations and intervals. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share of trials with its 95% interval, all in [0, 1]."""

    value: float
    low: float
    high: float
    num_trials: int


def wilson(flags: Sequence[float]) -> Share:
    """Returns the share of true flags with its Wilson interval."""
    n, z = len(flags), 1.96
    value = sum(flags) / n
    centre = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n))
    return Share(value=value, low=max(0.0, centre - half), high=min(1.0, centre + half), num_trials=n)


def mean_share(values: Sequence[float]) -> Share:
    """Returns the mean of one share per trial with its 95% normal interval over trials."""
    n = len(values)
    mean = sum(values) / n
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / max(1, n - 1))
    half = 1.96 * deviation / math.sqrt(n)
    return Share(value=mean, low=max(0.0, mean - half), high=min(1.0, mean + half), num_trials=n)


def majority(answers: Sequence[str | None]) -> str | None:
    """Returns the commonest answer, the first seen among equals; None where there is no answer at all."""
    given = [answer for answer in answers if answer is not None]
    return Counter(given).most_common(1)[0][0] if given else None


def entropy_certaindex(answers: Sequence[str | None]) -> float:
    """Returns (log n - H) / log n over the groups of equal answers; a missing answer is a group of its own."""
    n = len(answers)
    groups = Counter(answer if answer is not None else index for index, answer in enumerate(answers))
    entropy = -sum(count / n * math.log(count / n) for count in groups.values())
    return (math.log(n) - entropy) / math.log(n)


def samples_needed(answers: Sequence[str | None], right: str) -> int | None:
    """Returns the smallest number of samples from which on the vote stays right, or None if it ends up wrong."""
    needed = None
    for count in range(len(answers), 0, -1):
        if majority(answers[:count]) != right:
            return needed
        needed = count
    return needed


def auroc(scores: Sequence[float], labels: Sequence[bool]) -> float | None:
    """Returns the probability that a true item scores above a false one, ties counting half; None without both."""
    num_true = sum(labels)
    num_false = len(labels) - num_true
    if num_true == 0 or num_false == 0:
        return None
    ranks = _ranks(scores)
    rank_sum = sum(rank for rank, label in zip(ranks, labels, strict=True) if label)
    return (rank_sum - num_true * (num_true + 1) / 2) / (num_true * num_false)


def pearson(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Returns the linear correlation, or None where one side does not vary."""
    mean_first, mean_second = sum(first) / len(first), sum(second) / len(second)
    covariance = sum((a - mean_first) * (b - mean_second) for a, b in zip(first, second, strict=True))
    spread = math.sqrt(
        sum((a - mean_first) ** 2 for a in first) * sum((b - mean_second) ** 2 for b in second)
    )
    return covariance / spread if spread else None


def kendall(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Returns Kendall's tau-b, or None where one side does not vary."""
    score, ties_first, ties_second = 0, 0, 0
    for i in range(len(first)):
        for j in range(i):
            a, b = _sign(first[i] - first[j]), _sign(second[i] - second[j])
            score += a * b
            ties_first += a == 0
            ties_second += b == 0
    num_pairs = len(first) * (len(first) - 1) // 2
    spread = math.sqrt((num_pairs - ties_first) * (num_pairs - ties_second))
    return score / spread if spread else None


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _ranks(scores: Sequence[float]) -> list[float]:
    """Returns ranks from 1; equal scores share their mean rank."""
    order = sorted(range(len(scores)), key=scores.__getitem__)
    ranks = [0.0] * len(scores)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and scores[order[end + 1]] == scores[order[start]]:
            end += 1
        for position in range(start, end + 1):
            ranks[order[position]] = (start + end) / 2 + 1
        start = end + 1
    return ranks
