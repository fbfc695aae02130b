"""Figures of a report: accuracy and tokens with intervals, and what a setting saves at equal accuracy.

Seeds of one question are no independent evidence: they are averaged first, and every interval is over questions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hf_dynasor.errors import InputError
from hf_dynasor.evaluation.report_settings import Outcome, Setting
from hf_dynasor.evaluation.statistics import PairedDifference, paired_difference, share_interval

Z_95 = 1.959963984540054

TOLERANCE = 0.005
"""Half a point: accuracies that differ by no more count as equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One setting in figures; tokens are means over questions.

    Args:
        num_questions, num_seeds: What the figures rest on.
        accuracy, accuracy_interval: Share of right answers, with its 95% interval.
        net_tokens: Mean for a question.
        net_tokens_interval: Its normal 95% interval over questions; `None` where single tokens are not known.
        prompt_tokens, sequential_tokens: Means.
        early_rate: Share that was stopped early.
        early_wrong_rate: Share that was stopped early and answered wrong.
        num_errors: Questions that ended with an error; they count as wrong.
    """

    num_questions: int
    num_seeds: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    net_tokens: float
    net_tokens_interval: tuple[float, float] | None
    prompt_tokens: float
    sequential_tokens: float
    early_rate: float
    early_wrong_rate: float
    num_errors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A share that was saved, with its 95% interval; negative where more was spent."""

    saved: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A setting beside another one, paired by question.

    Args:
        base_budget: Budget of the other one.
        num_questions: Questions that both have.
        difference: Of the accuracies, this one less the other.
        tokens: Share of the other's net tokens that is saved.
        lost: Share of the questions that the other answers right and this one wrong.
    """

    base_budget: int
    num_questions: int
    difference: PairedDifference
    tokens: Ratio
    lost: float

    @property
    def is_equal(self) -> bool:
        """Whether the accuracies differ by no more than half a point downwards."""
        return self.difference.mean >= -TOLERANCE - 1e-12


def summarise_setting(setting: Setting) -> Summary:
    """A setting in figures."""
    outcomes = setting.outcomes
    groups = _group(outcomes)
    tokens = [_mean([item.net_tokens for item in group]) for group in groups.values()]
    return Summary(
        num_questions=len(groups),
        num_seeds=len(setting.seeds),
        accuracy=_mean([item.is_right for item in outcomes]),
        accuracy_interval=share_interval([[item.is_right for item in group] for group in groups.values()]),
        net_tokens=_mean([item.net_tokens for item in outcomes]),
        net_tokens_interval=_normal_interval(tokens) if setting.has_token_spread else None,
        prompt_tokens=_mean([item.prompt_tokens for item in outcomes]),
        sequential_tokens=_mean([item.sequential_tokens for item in outcomes]),
        early_rate=_mean([item.is_early for item in outcomes]),
        early_wrong_rate=_mean([item.is_early and not item.is_right for item in outcomes]),
        num_errors=sum(item.error is not None for item in outcomes),
    )


def compare(setting: Setting, base: Setting) -> Comparison | None:
    """A setting beside another one on the questions and seeds that both have; `None` for fewer than two questions."""
    theirs = {(item.id, item.seed): item for item in base.outcomes}
    pairs: dict[str, list[tuple[Outcome, Outcome]]] = {}
    for item in setting.outcomes:
        if other := theirs.get((item.id, item.seed)):
            pairs.setdefault(item.id, []).append((other, item))
    if len(pairs) < 2:
        return None
    before = [_mean([other.is_right for other, _ in group]) for group in pairs.values()]
    after = [_mean([item.is_right for _, item in group]) for group in pairs.values()]
    spent = [_mean([other.net_tokens for other, _ in group]) for group in pairs.values()]
    left = [_mean([item.net_tokens for _, item in group]) for group in pairs.values()]
    both = [pair for group in pairs.values() for pair in group]
    return Comparison(
        base_budget=base.key.budget,
        num_questions=len(pairs),
        difference=paired_difference(before, after),
        tokens=measure_saving(spent, left),
        lost=_mean([other.is_right and not item.is_right for other, item in both]),
    )


def find_equal(setting: Setting, evens: Sequence[Setting]) -> Comparison | None:
    """A setting beside the cheapest even budget that is as accurate as it is, within half a point.

    This is what is saved at equal accuracy: a fixed smaller budget might have done as well, and this finds it. It is
    the stricter of the two comparisons, and unfair to no side: the even budgets were run on the same questions.
    """
    mine = {(item.id, item.seed) for item in setting.outcomes}
    found: list[tuple[float, Comparison]] = []
    for other in evens:
        # On what both have: an even budget that was run on more questions must not be judged by them.
        shared = [item for item in other.outcomes if (item.id, item.seed) in mine]
        comparison = compare(setting, other)
        if comparison is not None and comparison.difference.mean <= TOLERANCE + 1e-12:
            found.append((_mean([item.net_tokens for item in shared]), comparison))
    return min(found, key=lambda pair: pair[0])[1] if found else None


def measure_saving(before: Sequence[float], after: Sequence[float]) -> Ratio:
    """The share of `before` that `after` saves, with the normal interval of a ratio of means over questions.

    Raises:
        InputError: The lists differ in length, hold fewer than two values, or nothing was spent before.

    Examples:
        >>> measure_saving([100, 100, 200], [50, 50, 100])
        Ratio(saved=0.5, low=0.5, high=0.5)
    """
    if len(before) != len(after) or len(before) < 2 or sum(before) <= 0:
        raise InputError(
            f"Got {len(before)} and {len(after)} values but expected equally many, at least 2, some above 0."
        )
    share = math.fsum(after) / math.fsum(before)
    errors = [second - share * first for first, second in zip(before, after, strict=True)]
    variance = math.fsum(error**2 for error in errors) / (len(errors) - 1)
    spread = Z_95 * math.sqrt(variance / len(errors)) / _mean(before)
    return Ratio(saved=1 - share, low=1 - share - spread, high=1 - share + spread)


def _group(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    groups: dict[str, list[Outcome]] = {}
    for item in outcomes:
        groups.setdefault(item.id, []).append(item)
    return groups


def _normal_interval(values: Sequence[float]) -> tuple[float, float] | None:
    if len(values) < 2:
        return None
    mean = _mean(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    spread = Z_95 * math.sqrt(variance / len(values))
    return mean - spread, mean + spread


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


__all__ = [
    "TOLERANCE",
    "Comparison",
    "Ratio",
    "Summary",
    "compare",
    "find_equal",
    "measure_saving",
    "summarise_setting",
]
