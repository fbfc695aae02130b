"""Whether a certificate still fits: new traces, run to the full budget, against what was promised.

Two questions are asked apart. Is the risk above the promised one? That is an exact one-sided test on the new
questions alone. And do the questions look different: does the policy stop as often, spend as much, are the full
runs as long? A shift says that the certificate rests on other questions than those that come now, even where none
was lost yet.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

from hf_dynasor.errors import ConfigurationError, InputError
from hf_dynasor.evaluation.calibration_evidence import Evidence
from hf_dynasor.evaluation.calibration_report import describe_reference
from hf_dynasor.scheduler.calibration_bounds import p_value_above, upper_bound
from hf_dynasor.scheduler.calibration_certificate import Certificate, Reference

NUM_PERMUTATIONS = 1999


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """One way in which new questions may differ from those of the certificate.

    Args:
        before, after: Mean bin at calibration and now; for the stop rate the rate itself.
        p_value: Of a permutation test of the largest gap between the two cumulative counts.
    """

    before: float
    after: float
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReport:
    """What new traces say of a certificate.

    Args:
        num_questions: New questions.
        risk: Promised.
        realised_risk: Mean loss on the new questions.
        risk_p_value: Chance of losses as high as these if the risk were the promised one.
        upper_bound: What the new questions alone would promise, at the certificate's confidence (95% if it has
            none).
        shifts: By name: `stop_rate`, `spent`, `length`.
        level: Chance of a false alarm that each of the two questions may use.
    """

    num_questions: int
    risk: float
    realised_risk: float
    risk_p_value: float
    upper_bound: float
    shifts: Mapping[str, Shift]
    level: float

    @property
    def is_broken(self) -> bool:
        """Whether the risk is above the promised one, beyond chance."""
        return self.risk_p_value <= self.level

    @property
    def is_shifted(self) -> bool:
        """Whether the questions look different, beyond chance; the tests share the level."""
        return any(shift.p_value <= self.level / len(self.shifts) for shift in self.shifts.values())

    def to_dict(self) -> dict[str, Any]:
        """The report, ready for JSON."""
        return {
            "num_questions": self.num_questions,
            "risk": self.risk,
            "realised_risk": self.realised_risk,
            "risk_p_value": self.risk_p_value,
            "upper_bound": self.upper_bound,
            "is_broken": self.is_broken,
            "is_shifted": self.is_shifted,
            "shifts": {name: asdict(shift) for name, shift in self.shifts.items()},
            "level": self.level,
        }


def check_drift(
    certificate: Certificate,
    evidence: Evidence,
    *,
    level: float = 0.05,
    seed: int = 0,
    num_permutations: int = NUM_PERMUTATIONS,
) -> DriftReport:
    """Test new questions against a certificate.

    Args:
        certificate: What was promised.
        evidence: The certified policy alone, replayed on the new questions.
        level: Chance of a false alarm, in (0, 1), for the risk and for the shifts each.
        seed: Of the permutations.
        num_permutations: Their number; no p-value of a shift is below one over it.

    Raises:
        InputError: These are the questions that the certificate was made on, or more than one setting.
        ConfigurationError: A level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ConfigurationError(f"Got {level = } but expected a number in (0, 1).")
    if evidence.fingerprint == certificate.fingerprint:
        raise InputError(
            "These are the traces that the certificate was calibrated on, which say nothing of drift. "
            "Expected new ones."
        )
    if len(evidence.paths) != 1 or len(evidence.paths[0]) != 1:
        raise InputError("Got several settings but expected the certified one alone.")
    outcome = evidence.paths[0][0]
    losses = evidence.compute_losses(outcome, certificate.loss)
    bound = evidence.choose_bound(certificate.loss)
    return DriftReport(
        num_questions=len(losses),
        risk=certificate.risk,
        realised_risk=math.fsum(losses) / len(losses),
        risk_p_value=p_value_above(losses, certificate.risk, bound=bound),
        upper_bound=upper_bound(losses, certificate.confidence or 0.95, bound=bound),
        shifts=compare_references(
            certificate.reference,
            describe_reference(evidence, outcome),
            certificate.num_questions,
            len(losses),
            random.Random(f"drift/{seed}"),
            num_permutations,
        ),
        level=level,
    )


def compare_references(
    before: Reference,
    after: Reference,
    num_before: int,
    num_after: int,
    rng: random.Random,
    num_permutations: int = NUM_PERMUTATIONS,
) -> dict[str, Shift]:
    """Permutation tests of how often the policy stops, how much it spends, and how long the full runs are."""
    return {
        "stop_rate": _compare(
            (num_before - before.num_early, before.num_early),
            (num_after - after.num_early, after.num_early),
            rng,
            num_permutations,
        ),
        "spent": _compare(before.spent, after.spent, rng, num_permutations),
        "length": _compare(before.lengths, after.lengths, rng, num_permutations),
    }


def _compare(before: Sequence[int], after: Sequence[int], rng: random.Random, num_permutations: int) -> Shift:
    width = max(len(before), len(after))
    first = [*before, *(0,) * (width - len(before))]
    second = [*after, *(0,) * (width - len(after))]
    seen = _find_gap(first, second)
    pool = [index for index in range(width) for _ in range(first[index] + second[index])]
    num_higher = 0
    for _ in range(num_permutations):
        drawn = [0] * width
        for index in rng.sample(pool, sum(second)):
            drawn[index] += 1
        rest = [a + b - c for a, b, c in zip(first, second, drawn, strict=True)]
        num_higher += _find_gap(rest, drawn) >= seen - 1e-12
    return Shift(
        before=_mean_bin(first), after=_mean_bin(second), p_value=(1 + num_higher) / (1 + num_permutations)
    )


def _find_gap(first: Sequence[int], second: Sequence[int]) -> float:
    """Largest difference of the cumulative shares (Kolmogorov and Smirnov's statistic)."""
    num_first, num_second = max(1, sum(first)), max(1, sum(second))
    cumulative = zip(accumulate(first), accumulate(second), strict=True)
    return max(abs(a / num_first - b / num_second) for a, b in cumulative)


def _mean_bin(counts: Sequence[int]) -> float:
    return sum(index * count for index, count in enumerate(counts)) / max(1, sum(counts))
