"""Calibration: from replays of many settings to the one that saves most among those that hold, with a certificate.

Choosing the best of the certified on the same questions is sound: with the promised confidence *all* certified
settings hold at once. Only the savings of the chosen one are told a little too well, since it was chosen by them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

from hf_dynasor.errors import ConfigurationError, InputError, name_unknown
from hf_dynasor.evaluation.calibration_evidence import Evidence, Outcome
from hf_dynasor.evaluation.calibration_report import describe_certificate, rank_pareto
from hf_dynasor.scheduler.calibration import METHODS, Method, Setting, choose
from hf_dynasor.scheduler.calibration_certificate import LOSSES, Certificate, LossName
from hf_dynasor.scheduler.policy_file import PolicyFile, PolicyKind

RUN_TO_CAP: dict[PolicyKind, str] = {"width": "even", "depth": "thinking_budget", "width_depth": "full"}
"""The full budget itself as a policy, by kind: with its default options none of them stops anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSettings:
    """What is to be promised, and how it is tested.

    Args:
        risk: Mean loss over all questions that is to stay out of reach, in (0, 1).
        confidence: Chance over calibration sets that it does, in (0, 1); not read by `crc`.
        loss: `paired` (right at the full budget and wrong when stopped) or `accuracy` (the plain drop).
        method: `ltt`, `bonferroni` or `crc`.
        by_group: Promise it within every group of questions.
        pilot: Share of the questions, in [0, 1), that only choose the order in which settings are tested on the
            others; 0 walks each path from conservative to aggressive.
        seed: Of the pilot's split and of the bootstrap.
    """

    risk: float = 0.02
    confidence: float = 0.9
    loss: LossName = "paired"
    method: Method = "ltt"
    by_group: bool = False
    pilot: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("risk", "confidence"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value < 1:
                raise ConfigurationError(f"Got {name} = {value!r} but expected a number in (0, 1).")
        if self.loss not in get_args(LossName):
            raise name_unknown("loss", self.loss, LOSSES)
        if self.method not in METHODS:
            raise name_unknown("method", self.method, METHODS)
        if not 0 <= self.pilot < 1:
            raise ConfigurationError(f"Got {self.pilot = } but expected a share in [0, 1).")
        if self.method == "crc" and (self.loss == "accuracy" or self.pilot):
            raise ConfigurationError(
                "Method 'crc' needs losses in [0, 1] that never fall along one path: expected loss 'paired' and no "
                "pilot. Choose 'ltt' for the others."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which setting was chosen.

    Args:
        evidence: What the test saw: without the pilot's questions, in the order that was tested.
        tested: Every setting after the test.
        chosen: The one that saves most among the certified; `None` where none is certified or none saves.
    """

    evidence: Evidence
    tested: tuple[Setting, ...]
    chosen: Setting | None

    @property
    def outcome(self) -> Outcome | None:
        """The chosen setting on the questions of the test."""
        return None if self.chosen is None else self.evidence.paths[self.chosen.path][self.chosen.position]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The policy to use, with its certificate, and how every setting fared."""

    policy: PolicyFile
    certificate: Certificate
    selection: Selection


def calibrate(
    evidence: Evidence,
    settings: CalibrationSettings,
    *,
    kind: PolicyKind = "width",
    model: str | None = None,
    budget: int | None = None,
) -> Calibration:
    """Choose a setting under a guarantee, and say what it rests on.

    Args:
        evidence: From `collect_evidence`.
        settings: What is to be promised.
        kind: Of the policy, for its file.
        model, budget: Whose traces they are and their full budget, for the certificate.

    Raises:
        InputError: Fewer than two questions, or a full budget that is right no more often than `risk`: then losing
            every answer would keep the promise, and the certificate would mean nothing.
    """
    check_evidence(evidence, settings)
    selection = select(evidence, settings)
    outcome = selection.outcome
    certificate = describe_certificate(
        selection.evidence, settings, selection.tested, selection.chosen, outcome
    )
    certificate = replace(certificate, model=model, budget=budget)
    policy = PolicyFile(
        kind=kind,
        name=RUN_TO_CAP[kind] if outcome is None else outcome.name,
        parameters={} if outcome is None else outcome.parameters,
        certificate=certificate,
    )
    return Calibration(policy=policy, certificate=certificate, selection=selection)


def check_evidence(evidence: Evidence, settings: CalibrationSettings) -> None:
    """Refuse evidence that can certify nothing of meaning; see `calibrate`."""
    if len(evidence.ids) < 2:
        raise InputError(
            f"Got {len(evidence.ids)} question but expected at least 2. One tells nothing of others."
        )
    accuracy = evidence.baseline_accuracy
    if accuracy == 0:
        raise InputError(
            f"The full budget is right on none of {len(evidence.ids)} questions, so stopping cannot lose anything "
            "and a certificate would mean nothing. Check the labels, or take questions that the model can solve."
        )
    if accuracy <= settings.risk:
        raise InputError(
            f"The full budget is right on {accuracy:.1%} of the questions, no more than the risk of "
            f"{settings.risk:.1%}: losing all of them would keep the promise. Choose a smaller risk."
        )


def select(evidence: Evidence, settings: CalibrationSettings) -> Selection:
    """Test every setting and choose; the part of a calibration that random splits repeat."""
    if settings.pilot:
        evidence = _order_by_pilot(evidence, settings)
    groups = tuple(evidence.index_groups().values()) if settings.by_group else ()
    tested = choose(
        [[evidence.compute_losses(outcome, settings.loss) for outcome in path] for path in evidence.paths],
        method=settings.method,
        risk=settings.risk,
        confidence=settings.confidence,
        bound=evidence.choose_bound(settings.loss),
        groups=groups,
    )
    return Selection(evidence=evidence, tested=tested, chosen=_choose_best(evidence, tested))


def _choose_best(evidence: Evidence, tested: Sequence[Setting]) -> Setting | None:
    best, best_saving = None, 0.0
    for setting in tested:
        saving = evidence.compute_saving(evidence.paths[setting.path][setting.position])
        if setting.is_certified and saving > best_saving:
            best, best_saving = setting, saving
    return best


def _order_by_pilot(evidence: Evidence, settings: CalibrationSettings) -> Evidence:
    """One path, ordered on some of the questions; the evidence of the others, which the test may use."""
    positions = list(range(len(evidence.ids)))
    random.Random(f"pilot/{settings.seed}").shuffle(positions)
    num_pilot = math.ceil(settings.pilot * len(positions))
    if num_pilot >= len(positions) - 1:
        raise InputError(
            f"Got {settings.pilot = } of {len(positions)} questions: none would be left to test on. Choose less."
        )
    order = rank_pareto(evidence.take(sorted(positions[:num_pilot])), settings.loss)
    rest = evidence.take(sorted(positions[num_pilot:]))
    return replace(rest, paths=(tuple(rest.paths[path][position] for path, position in order),))
