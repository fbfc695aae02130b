"""How much certaindex may cut before accuracy suffers: chosen on some questions, measured on others (paper §5)."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hf_dynasor.certaindex import Thresholds
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.scheduler import Even, StaticThreshold
from hf_dynasor.scheduler.simulate import Workload
from hf_dynasor.scheduler.simulate.programs import replay_allocation

DETECT_AT = (2, 3, 4, 5, 8)
ENTROPIES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.9)
MAX_LOSS = 0.005
"""Accuracy that a calibrated rule may lose: the upper 90% bound of its loss on the calibration questions."""
ONE_SIDED_90 = 1.2816


def split_positions(num_questions: int, *, seed: int = 0) -> tuple[list[int], list[int]]:
    """A random half of the questions to calibrate on, and the others, on which figures are taken."""
    shuffled = random.Random(f"{seed}/split").sample(range(num_questions), num_questions)
    middle = num_questions // 2
    return sorted(shuffled[:middle]), sorted(shuffled[middle:])


def bound_loss(before: Sequence[float], after: Sequence[float]) -> float:
    """Upper 90% bound of the mean accuracy lost, question by question, by the normal approximation."""
    losses = [old - new for old, new in zip(before, after, strict=True)]
    mean = statistics.fmean(losses)
    error = statistics.stdev(losses) / math.sqrt(len(losses)) if len(losses) > 1 else math.inf
    return mean + ONE_SIDED_90 * error


def calibrate_static(
    workload: Workload, *, draws: int = 8, max_loss: float = MAX_LOSS
) -> StaticThreshold | None:
    """The threshold and detection point with fewest tokens whose loss of accuracy is bounded on a workload.

    Args:
        workload: Questions to calibrate on, apart from those that figures are taken on.
        draws: Random orders of each question's branches.
        max_loss: What the upper 90% bound of the loss may be at most.

    Returns:
        The policy; `None` where none keeps the bound.
    """
    full = replay_allocation(workload, Even(), draws=draws)
    found = [
        (replayed.num_tokens, policy.detect_at, policy)
        for policy in _list_policies(workload.budget)
        for replayed in [replay_allocation(workload, policy, draws=draws)]
        if bound_loss(full.accuracies, replayed.accuracies) <= max_loss
    ]
    return min(found, key=lambda item: item[:2])[2] if found else None


def _list_policies(budget: int) -> list[StaticThreshold]:
    return [
        StaticThreshold(thresholds=Thresholds(entropy=entropy), detect_at=detect_at, name="calibrated")
        for detect_at in DETECT_AT
        if detect_at < budget
        for entropy in ENTROPIES
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossCalibrated:
    """Chains that end early, each by a rule that was chosen without its question.

    Args:
        workload: The questions of the full workload, their branches cut by the rule of their part.
        chosen: The rule of each part, and whether it kept the bound on the others.
    """

    workload: Workload
    chosen: tuple[tuple[str, bool], ...]


def cross_calibrate(
    full: Workload,
    shorter: Mapping[str, Workload],
    *,
    num_parts: int = 5,
    max_loss: float = MAX_LOSS,
    seed: int = 0,
) -> CrossCalibrated:
    """Choose a rule for each of several random parts of the questions, on all the others.

    The one with fewest tokens whose loss is bounded; where none is, the one with the lowest bound. With more questions
    to choose on than a half the bound says more, and all questions are tested.

    Args:
        full: Chains as recorded.
        shorter: The same questions and branches as each rule cuts them, by its name.
        num_parts: At least 2.
        max_loss: What the upper 90% bound of the loss may be at most.
        seed: Of the parts.

    Raises:
        ConfigurationError: Fewer than 2 parts, or more than questions.
    """
    count = len(full.questions)
    if not 2 <= num_parts <= count:
        raise ConfigurationError(f"Got {num_parts = } but expected 2 to the number of questions, {count}.")
    order = random.Random(f"{seed}/folds").sample(range(count), count)
    questions, chosen = list(full.questions), []
    for part in range(num_parts):
        test = set(order[part::num_parts])
        name, is_bounded = _choose(full, shorter, [place for place in order if place not in test], max_loss)
        chosen.append((name, is_bounded))
        for place in test:
            questions[place] = shorter[name].questions[place]
    return CrossCalibrated(workload=replace(full, questions=tuple(questions)), chosen=tuple(chosen))


def _choose(
    full: Workload, shorter: Mapping[str, Workload], places: Sequence[int], max_loss: float
) -> tuple[str, bool]:
    before = [_share_right(full, place) for place in places]

    def judge(name: str) -> tuple[bool, float, str]:
        bound = bound_loss(before, [_share_right(shorter[name], place) for place in places])
        is_lost = bound > max_loss
        return is_lost, bound if is_lost else _count_tokens(shorter[name], places), name

    is_lost, _, name = min(map(judge, shorter))
    return name, not is_lost


def _share_right(workload: Workload, place: int) -> float:
    branches = workload.questions[place].branches
    return sum(branch.is_correct for branch in branches) / len(branches)


def _count_tokens(workload: Workload, places: Sequence[int]) -> int:
    return sum(branch.num_tokens for place in places for branch in workload.questions[place].branches)


__all__ = [
    "MAX_LOSS",
    "CrossCalibrated",
    "bound_loss",
    "calibrate_static",
    "cross_calibrate",
    "split_positions",
]
