"""Figure 12: the best accuracy that keeps the deadlines, in the simulator, at rising rates of arrivals.

At each rate both contenders may choose their cap: the one with the highest accuracy at which 90% of the deadlines are
met. Each half of the questions is served under a threshold that the other half calibrated, so that all are tested; a
question's accuracy is that of many random orders of its recorded branches, and the difference is paired by question.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hf_dynasor.evaluation.scheduling_calibration import calibrate_static, split_positions
from hf_dynasor.evaluation.scheduling_study import Contender, Study, make_contenders, make_study
from hf_dynasor.evaluation.statistics import paired_difference
from hf_dynasor.evaluation.workloads import open_workload
from hf_dynasor.scheduler.simulate import Workload

EMBEDDED = Path(__file__).parents[1] / "workloads" / "embedded_self_consistency.json"
LETTERS = "gpt35_last_letters.jsonl"
BASELINE, OURS = "lpm", "gang_sjf + certaindex"
FACTORS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
CAPS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20)
SCALE, LEAST = 2.0, 0.9
NUM_DRAWS, ARRIVALS = 64, (0, 1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Half:
    """One half of the questions, with contenders that the other half calibrated."""

    study: Study
    contenders: dict[str, Contender]
    calibrated: dict[str, float]

    def cut(self, cap: int) -> Study:
        """The study under a smaller budget."""
        return replace(self.study, workload=replace(self.study.workload, budget=cap))


def measure_online(traces: Path | None) -> list[dict[str, Any]]:
    """Each workload at every rate; recorded samples of another model where their file is there."""
    workloads = [open_workload([EMBEDDED])]
    if traces is not None and (traces / LETTERS).is_file():
        workloads.append(open_workload([traces / LETTERS], budget=20))
    return [_measure(workload) for workload in workloads]


def _measure(workload: Workload) -> dict[str, Any]:
    halves = split_halves(workload)
    rate = statistics.fmean(_find_rate(half) for half in halves)
    accuracies = {
        (name, cap): [
            value
            for half in halves
            for value in half.cut(cap).accuracies(half.contenders[name], draws=NUM_DRAWS)
        ]
        for name in (BASELINE, OURS)
        for cap in CAPS
    }
    return {
        "workload": workload.name,
        "num_questions": len(workload.questions),
        "slo_scale": SCALE,
        "baseline_rate": round(rate, 4),
        "calibrated": [half.calibrated for half in halves],
        "accuracy_by_cap": {
            name: {str(cap): round(statistics.fmean(accuracies[name, cap]), 4) for cap in CAPS}
            for name in (BASELINE, OURS)
        },
        "rates": [_compare(halves, factor, rate * factor, accuracies) for factor in FACTORS],
    }


def split_halves(workload: Workload) -> list[Half]:
    """Both halves, each with a threshold from the other."""
    parts = [workload.keep(places, "") for places in split_positions(len(workload.questions))]
    found = []
    for tested, other in (parts, reversed(parts)):
        certain = calibrate_static(other)
        if certain is None:
            raise SystemExit(f"No threshold bounds the loss of accuracy on {workload.name}.")
        contenders = make_contenders(certain, (BASELINE, OURS))
        calibrated = {"detect_at": certain.detect_at, **certain.thresholds.to_dict()}
        found.append(Half(study=make_study(tested), contenders=contenders, calibrated=calibrated))
    return found


def _find_rate(half: Half) -> float:
    """What the baseline sustains at its full budget."""
    found = half.study.sustained_rate(
        half.contenders[BASELINE], SCALE, start=1 / half.study.base, precision=0.05
    )
    if found is None:
        raise SystemExit("The baseline holds no deadline.")
    return found


def _compare(
    halves: Sequence[Half], factor: float, rate: float, accuracies: dict[tuple[str, int], list[float]]
) -> dict[str, Any]:
    best = {name: _choose_cap(halves, name, rate, accuracies) for name in (BASELINE, OURS)}
    row: dict[str, Any] = {"factor": factor, "rate": round(rate, 4)}
    for name, chosen in best.items():
        row[name] = None
        if chosen is not None:
            cap, attainment = chosen
            mean = statistics.fmean(accuracies[name, cap])
            row[name] = {"cap": cap, "attainment": round(attainment, 4), "accuracy": round(mean, 4)}
    base, ours = best[BASELINE], best[OURS]
    if base is not None and ours is not None:
        found = paired_difference(accuracies[BASELINE, base[0]], accuracies[OURS, ours[0]])
        row["points"] = round(100 * found.mean, 2)
        row["points_interval"] = [round(100 * found.low, 2), round(100 * found.high, 2)]
    return row


def _choose_cap(
    halves: Sequence[Half], name: str, rate: float, accuracies: dict[tuple[str, int], list[float]]
) -> tuple[int, float] | None:
    """The most accurate cap that keeps the deadlines, with its attainment; `None` where none does."""
    for cap in sorted(CAPS, key=lambda cap: -statistics.fmean(accuracies[name, cap])):
        attainment = statistics.fmean(
            replace(half.cut(cap), seed=seed).attainment(half.contenders[name], rate, SCALE)
            for half in halves
            for seed in ARRIVALS
        )
        if attainment >= LEAST:
            return cap, attainment
    return None
