"""Fits allocation policies on recorded programs: curves, and the setting that saves most without losing accuracy.

These are the paper's own ways (§3): they promise nothing about new questions. `hf-dynasor calibrate` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from hf_dynasor.errors import InputError
from hf_dynasor.evaluation.policy_specs import PolicySpec
from hf_dynasor.evaluation.prefixes import Prefixes
from hf_dynasor.evaluation.replayed import ReplaySummary
from hf_dynasor.scheduler.allocation_curves import fit_curve

CURVES = ("initial_curve", "dynamic_curve")
COVERAGES = (1.0, 0.999, 0.998, 0.995, 0.99, 0.98, 0.97, 0.95, 0.93, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)


def count_needed(run: Prefixes) -> int | None:
    """Units from which on the vote is right up to the full budget; `None` where the full budget is wrong."""
    full = run.knob.maximum
    needed: int | None = None
    for total in range(full, 0, -1):
        if not run.is_right(total):
            break
        needed = total
    return needed


def collect_readings(
    runs: Iterable[Prefixes], *, signal: str = "entropy", detect_at: int = 5, is_repeated: bool = False
) -> Iterator[tuple[float, int]]:
    """Pairs of a reading and the units that its question needed in the end, over solvable questions.

    Args:
        runs: Questions.
        signal: Which signal is read.
        detect_at: Units at which it is read; no curve asks for fewer.
        is_repeated: Read after every further unit too, short of the full budget.
    """
    for run in runs:
        needed = count_needed(run)
        if needed is None or detect_at >= run.knob.maximum:
            continue
        for total in range(detect_at, run.knob.maximum if is_repeated else detect_at + 1):
            value = run.read(total).signals.get(signal)
            if value is not None:
                yield value, max(needed, detect_at)


def fit_policy(
    spec: PolicySpec, runs: Sequence[Prefixes], try_out: Callable[[PolicySpec], ReplaySummary]
) -> PolicySpec:
    """A policy with its curve, fitted on recorded questions; a policy without a curve is returned as it is.

    Args:
        spec: `initial_curve` or `dynamic_curve`. Its option `coverage` says which share of the readings the curve
            covers; without it, the least share is taken that loses no accuracy on these questions.
        runs: Of other questions than the policy is judged on.
        try_out: Replays a policy on the same questions.

    Raises:
        InputError: None of the questions is solved by the full budget.
    """
    if spec.name not in CURVES or spec.parameters.get("points"):
        return spec
    options: dict[str, Any] = dict(spec.parameters)
    coverage = options.pop("coverage", None)
    readings = list(
        collect_readings(
            runs,
            signal=options.get("signal", "entropy"),
            detect_at=options.get("detect_at", 5),
            is_repeated=spec.name == "dynamic_curve",
        )
    )
    if not readings:
        raise InputError("None of the questions is solved by the full budget: there is no curve to fit.")
    fitted = [
        replace(
            spec,
            parameters={**options, "points": fit_curve(readings, coverage=share)},
            label=spec.title,
        )
        for share in ([coverage] if coverage is not None else COVERAGES)
    ]
    return choose_lossless(fitted, try_out)


def choose_lossless(
    specs: Sequence[PolicySpec], try_out: Callable[[PolicySpec], ReplaySummary]
) -> PolicySpec:
    """Of several settings the one that saves most net tokens at no less than the full budget's accuracy.

    Where each loses some, the one that loses least.
    """
    best: tuple[float, int] | None = None
    chosen = specs[0]
    for spec in specs:
        summary = try_out(spec)
        loss = max(0.0, summary.baseline_accuracy - summary.accuracy)
        if best is None or (loss, summary.net_tokens) < best:
            best, chosen = (loss, summary.net_tokens), spec
    return chosen
