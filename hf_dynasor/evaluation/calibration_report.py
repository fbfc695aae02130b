"""What a certificate says of the chosen setting: realised risk, bounds, savings with intervals, warnings."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hf_dynasor.evaluation.calibration_evidence import Evidence, Outcome
from hf_dynasor.scheduler.calibration import Setting, is_monotone
from hf_dynasor.scheduler.calibration_bounds import Bound, count_needed, p_value, upper_bound
from hf_dynasor.scheduler.calibration_certificate import (
    NUM_BINS,
    Certificate,
    GroupResult,
    LossName,
    Reference,
    Saving,
)

if TYPE_CHECKING:
    from hf_dynasor.evaluation.calibrate import CalibrationSettings

NUM_RESAMPLES = 1000


def describe_certificate(
    evidence: Evidence,
    settings: CalibrationSettings,
    tested: Sequence[Setting],
    chosen: Setting | None,
    outcome: Outcome | None,
) -> Certificate:
    """The certificate of the chosen setting, or of the full budget where none was chosen."""
    from hf_dynasor import __version__

    full = outcome or run_to_cap(evidence)
    losses = evidence.compute_losses(full, settings.loss)
    bound = evidence.choose_bound(settings.loss)
    level = _find_level(settings, tested)
    groups = evidence.index_groups() if settings.by_group else {}
    return Certificate(
        risk=settings.risk,
        confidence=None if settings.method == "crc" else settings.confidence,
        loss=settings.loss,
        method=settings.method,
        bound=bound,
        num_questions=len(evidence.ids),
        num_needed=count_questions_needed(settings, level, bound),
        num_settings=len(tested),
        num_certified=sum(setting.is_certified for setting in tested),
        realised_risk=math.fsum(losses) / len(losses),
        p_value=None if settings.method == "crc" else chosen.p_value if chosen else 0.0,
        upper_bound=upper_bound(losses, 1 - level, bound=bound) if chosen else 0.0,
        accuracy=math.fsum(full.correct) / len(losses),
        baseline_accuracy=evidence.baseline_accuracy,
        tokens_saved=bootstrap_saving(evidence, full, seed=settings.seed),
        early_stop_rate=math.fsum(full.early) / len(losses),
        is_run_to_cap=outcome is None,
        groups={
            name: _describe_group([losses[index] for index in members], settings, bound, level / len(groups))
            for name, members in groups.items()
        },
        fingerprint=evidence.fingerprint,
        reference=describe_reference(evidence, full),
        warnings=tuple(list_warnings(evidence, settings, tested, chosen)),
        created_by=f"hf_dynasor {__version__}",
    )


def run_to_cap(evidence: Evidence) -> Outcome:
    """The full budget as a setting: nothing lost, nothing saved, by definition."""
    nothing = (0.0,) * len(evidence.ids)
    return Outcome(
        name="full",
        parameters={},
        lost=nothing,
        correct=evidence.baseline_correct,
        tokens=evidence.baseline_tokens,
        early=nothing,
        first_tokens=evidence.first_baseline_tokens,
    )


def bootstrap_saving(evidence: Evidence, outcome: Outcome, *, seed: int, confidence: float = 0.95) -> Saving:
    """Share of tokens saved, with a percentile interval over resampled questions."""
    rng, number = random.Random(f"bootstrap/{seed}"), len(evidence.ids)
    pairs = list(zip(outcome.tokens, evidence.baseline_tokens, strict=True))
    shares = []
    for _ in range(NUM_RESAMPLES):
        drawn = rng.choices(pairs, k=number)
        shares.append(1 - math.fsum(pair[0] for pair in drawn) / math.fsum(pair[1] for pair in drawn))
    shares.sort()
    tail = int((1 - confidence) / 2 * NUM_RESAMPLES)
    return Saving(
        share=evidence.compute_saving(outcome),
        low=shares[tail],
        high=shares[-1 - tail],
        confidence=confidence,
    )


def describe_reference(evidence: Evidence, outcome: Outcome) -> Reference:
    """How the setting behaves on these questions, in a form that later ones can be compared with."""
    spent = [0] * NUM_BINS
    lengths = [0] * (1 + max(_bin_length(tokens) for tokens in evidence.first_baseline_tokens))
    # One draw of each question: means over several would spread less, and look like other questions.
    for tokens, full in zip(outcome.first_tokens, evidence.first_baseline_tokens, strict=True):
        spent[min(NUM_BINS - 1, int(NUM_BINS * tokens / max(full, 1.0)))] += 1
        lengths[_bin_length(full)] += 1
    # The mean, so that a set with several draws of each question can be compared with one of single draws.
    num_early = round(math.fsum(outcome.early))
    return Reference(num_early=num_early, spent=tuple(spent), lengths=tuple(lengths))


def count_questions_needed(settings: CalibrationSettings, level: float, bound: Bound) -> int:
    """Least number of questions, none lost, that certify; within each group where it is by group."""
    if settings.method == "crc":
        return math.ceil(1 / settings.risk - 1 - 1e-9)
    return count_needed(settings.risk, level, bound=bound)


def rank_pareto(evidence: Evidence, loss: LossName) -> list[tuple[int, int]]:
    """Settings that no other one beats in both mean loss and saving, from the safest to the boldest."""
    places = [
        (
            math.fsum(evidence.compute_losses(outcome, loss)) / len(evidence.ids),
            -evidence.compute_saving(outcome),
            (path, position),
        )
        for path, outcomes in enumerate(evidence.paths)
        for position, outcome in enumerate(outcomes)
    ]
    order: list[tuple[int, int]] = []
    least_cost = math.inf
    for _, cost, place in sorted(places):
        if cost < least_cost:
            order.append(place)
            least_cost = cost
    return order


def list_warnings(
    evidence: Evidence, settings: CalibrationSettings, tested: Sequence[Setting], chosen: Setting | None
) -> list[str]:
    """What a reader of the certificate should know."""
    words = []
    level = _find_level(settings, tested)
    needed = count_questions_needed(settings, level, evidence.choose_bound(settings.loss))
    for name, number in _count_units(evidence, settings):
        if number < needed:
            words.append(
                f"{name} has {number} questions; a risk of {settings.risk:g} needs at least {needed} even where none "
                "is lost. Add questions, or promise less."
            )
    if chosen is None:
        reason = (
            "no setting saves tokens" if any(item.is_certified for item in tested) else "no setting passed"
        )
        words.append(f"{reason}: the policy is the full budget, which loses nothing by definition.")
    if settings.method == "crc":
        words.append("the promise is on average over calibration sets; it has no confidence.")
        if not is_monotone([outcome.lost for outcome in evidence.paths[0]]):
            words.append("some losses fall along the path; each question's running maximum took their place.")
    return words


def _count_units(evidence: Evidence, settings: CalibrationSettings) -> list[tuple[str, int]]:
    if not settings.by_group:
        return [("The calibration set", len(evidence.ids))]
    return [(f"Group {name!r}", len(members)) for name, members in evidence.index_groups().items()]


def _find_level(settings: CalibrationSettings, tested: Sequence[Setting]) -> float:
    return tested[0].level or 1 - settings.confidence


def _describe_group(
    losses: Sequence[float], settings: CalibrationSettings, bound: Bound, level: float
) -> GroupResult:
    return GroupResult(
        num_questions=len(losses),
        realised_risk=math.fsum(losses) / len(losses),
        p_value=None if settings.method == "crc" else p_value(losses, settings.risk, bound=bound),
        upper_bound=upper_bound(losses, 1 - level, bound=bound),
    )


def _bin_length(tokens: float) -> int:
    return int(max(tokens, 1.0)).bit_length()
