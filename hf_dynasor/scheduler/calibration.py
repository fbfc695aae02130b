"""Which of many parameter settings may be trusted: Learn-then-Test and conformal risk control. Pure maths.

Settings stand on *paths*, each from conservative to aggressive. Learn-then-Test (Angelopoulos et al. 2021) tests
"the risk of this setting is too high" for each of them, so that with the promised confidence *all* that pass hold
at once: whichever of them is then chosen, by savings on the same questions for instance, holds too.

| method | promise | how |
|---|---|---|
| `ltt` | risk below the promised, with the promised confidence | each path gets its share of the error and is walked until the first failure |
| `bonferroni` | the same | each setting gets its share of the error; no order needed |
| `crc` | expected risk of the chosen setting at most the promised | one path, losses that never fall along it (Angelopoulos et al. 2022) |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal, TypeAlias, get_args

from hf_dynasor.errors import ConfigurationError, name_unknown
from hf_dynasor.scheduler.calibration_bounds import Bound, p_value

Method = Literal["ltt", "bonferroni", "crc"]
METHODS: tuple[Method, ...] = get_args(Method)

Losses: TypeAlias = Sequence[float]
"""One number for each question, in the same order for every setting."""

Groups: TypeAlias = Sequence[Sequence[int]]
"""For each group of questions, their positions among the losses; empty for no groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting after the test.

    Args:
        path, position: Where it stands; position 0 is the most conservative.
        p_value: See `calibration_bounds`; `None` for conformal risk control, which tests nothing.
        level: The share of the error that its test may use; `None` likewise.
        is_certified: Whether it may be chosen.
    """

    path: int
    position: int
    p_value: float | None
    level: float | None
    is_certified: bool


def learn_then_test(
    paths: Sequence[Sequence[Losses]],
    *,
    risk: float,
    confidence: float,
    bound: Bound,
    groups: Groups = (),
) -> tuple[Setting, ...]:
    """Fixed-sequence testing on several paths at once.

    Each of the paths gets an equal share of 1 - confidence and is walked from its conservative end; the first
    setting that fails ends it. No further correction is needed, because a path can err only at the first setting
    whose risk is too high. The order of a path must not depend on these losses.

    Args:
        paths: Losses of each setting.
        risk, confidence: To be promised.
        bound: Which test.
        groups: Positions of the questions of each group, where the promise is to hold in every one of them. A
            setting then passes only if it passes in each, so its p-value is the largest: no correction needed.

    Raises:
        ConfigurationError: No path, an empty one, or a confidence outside (0, 1).
    """
    _check(paths, confidence)
    level = (1 - confidence) / len(paths)
    results: list[Setting] = []
    for number, path in enumerate(paths):
        is_open = True
        for position, losses in enumerate(path):
            value = largest_p_value(losses, risk, bound=bound, groups=groups)
            is_open = is_open and value <= level
            results.append(_note(number, position, value, level, is_open))
    return tuple(results)


def bonferroni(
    paths: Sequence[Sequence[Losses]],
    *,
    risk: float,
    confidence: float,
    bound: Bound,
    groups: Groups = (),
) -> tuple[Setting, ...]:
    """Every setting tested with its equal share of 1 - confidence, whatever the others gave."""
    _check(paths, confidence)
    level = (1 - confidence) / sum(map(len, paths))
    results: list[Setting] = []
    for number, path in enumerate(paths):
        for position, losses in enumerate(path):
            value = largest_p_value(losses, risk, bound=bound, groups=groups)
            results.append(_note(number, position, value, level, value <= level))
    return tuple(results)


def largest_p_value(losses: Losses, risk: float, *, bound: Bound, groups: Groups = ()) -> float:
    """The p-value over all questions, or the largest over the groups."""
    return max(p_value(part, risk, bound=bound) for part in split_groups(losses, groups))


def split_groups(losses: Losses, groups: Groups) -> list[Losses]:
    """The losses of each group, or all of them where there are no groups."""
    return [[losses[index] for index in members] for members in groups] or [losses]


def conformal_risk_control(
    path: Sequence[Losses], *, risk: float, highest: float = 1.0, groups: Groups = ()
) -> tuple[Setting, ...]:
    """Settings whose risk, with one more question of the highest loss added, is still within the promised.

    The promise is on average over calibration sets and needs losses that never fall along the path. Where one
    does, its running maximum takes its place: never below the loss itself, so the promise stands, at some cost.

    Args:
        path: Losses in [0, highest] from conservative to aggressive.
        risk: In (0, 1).
        highest: Of any loss.
        groups: As for `learn_then_test`: the promise then holds in every one of them.
    """
    _check([path], 0.5)
    if not 0 < risk < 1:
        raise ConfigurationError(f"Got {risk = } but expected a number in (0, 1).")
    results, is_open = [], True
    for position, losses in enumerate(raise_to_monotone(path)):
        parts = split_groups(losses, groups)
        is_open = is_open and all((math.fsum(part) + highest) / (len(part) + 1) <= risk for part in parts)
        results.append(Setting(path=0, position=position, p_value=None, level=None, is_certified=is_open))
    return tuple(results)


def raise_to_monotone(path: Sequence[Losses]) -> tuple[tuple[float, ...], ...]:
    """Each question's running maximum along the path.

    Examples:
        >>> raise_to_monotone([(0, 1), (1, 0)])
        ((0, 1), (1, 1))
    """
    questions = [tuple(accumulate(losses, max)) for losses in zip(*path, strict=True)]
    return tuple(zip(*questions, strict=True))


def is_monotone(path: Sequence[Losses]) -> bool:
    """Whether no question's loss ever falls along the path."""
    return all(
        before <= after
        for first, second in pairwise(path)
        for before, after in zip(first, second, strict=True)
    )


def choose(
    paths: Sequence[Sequence[Losses]],
    *,
    method: Method,
    risk: float,
    confidence: float,
    bound: Bound,
    groups: Groups = (),
) -> tuple[Setting, ...]:
    """The settings under the named method.

    Raises:
        ConfigurationError: An unknown method; several paths, or losses below 0, for `crc`.
    """
    if method == "ltt":
        return learn_then_test(paths, risk=risk, confidence=confidence, bound=bound, groups=groups)
    if method == "bonferroni":
        return bonferroni(paths, risk=risk, confidence=confidence, bound=bound, groups=groups)
    if method != "crc":
        raise name_unknown("method", method, METHODS)
    if len(paths) != 1 or any(loss < 0 for losses in paths[0] for loss in losses):
        raise ConfigurationError(
            f"Got {len(paths)} paths or a loss below 0 but 'crc' expects one path of losses in [0, 1]."
        )
    return conformal_risk_control(paths[0], risk=risk, groups=groups)


def _note(path: int, position: int, value: float, level: float, is_certified: bool) -> Setting:
    return Setting(path=path, position=position, p_value=value, level=level, is_certified=is_certified)


def _check(paths: Sequence[Sequence[Losses]], confidence: float) -> None:
    if not paths or not all(paths):
        raise ConfigurationError("Got no setting to test but expected at least one on each path.")
    if len({len(losses) for path in paths for losses in path}) != 1:
        raise ConfigurationError(
            "Got settings with different numbers of losses; expected the same questions."
        )
    if not 0 < confidence < 1:
        raise ConfigurationError(f"Got {confidence = } but expected a number in (0, 1).")
