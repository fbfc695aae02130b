"""Do certificates hold? Random splits of recorded traces: calibrate on one part, look at the other.

Every setting is replayed once; a split is then only a set of questions. A certificate promises the risk over all
questions of its kind, of which the whole trace file stands for here, so two rates are counted: how often the risk of
the chosen setting over all questions is above the promised one, and how often the realised risk on the held-out
questions alone is. The second one has the noise of few questions in it.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hf_dynasor.evaluation.calibrate import CalibrationSettings, select
from hf_dynasor.evaluation.calibrate_traces import ReplayOptions, find_budget, find_kind, replay_setting
from hf_dynasor.evaluation.calibration_evidence import Evidence, Outcome, collect_evidence
from hf_dynasor.evaluation.calibration_grids import list_settings
from hf_dynasor.evaluation.trace_sets import open_traces
from hf_dynasor.scheduler.calibration_bounds import log_binomial_tail

Damage = Callable[[Evidence, random.Random], Evidence]


@dataclass(frozen=True)
class Case:
    """A policy on recorded traces.

    Args:
        file: Of the traces.
        policies: As `calibrate --policy` takes them.
        risk: To be promised.
        share: Of the questions that calibrate.
        options: Of the replay.
    """

    file: str
    policies: tuple[str, ...]
    risk: float
    share: float = 0.5
    options: ReplayOptions = field(default_factory=ReplayOptions)


_STATIC = tuple(
    f"static:entropy={entropy},detect_at={detect_at}"
    for entropy, detect_at in ((0.99, 8), (0.99, 4), (0.99, 3), (0.99, 2), (0.01, 3), (0.01, 4))
)
_GIVING_UP = tuple(
    f"evidence:threshold={threshold},give_up=0.8"
    for threshold in (16, 14, 12, 10, 9, 8.5, 8.25, 8, 7.5, 7, 6)
)
CASES = {
    "static, last letters": Case("gpt35_last_letters", _STATIC, 0.015, 0.8),
    "boundary confidence, R1-7B": Case("boundary_r1_qwen_7b_math500_seed42", ("boundary_confidence",), 0.03),
    "boundary confidence, Qwen3-8B": Case("boundary_qwen3_8b_math500_seed42", ("boundary_confidence",), 0.02),
    "evidence, R1-7B": Case("boundary_r1_qwen_7b_math500_seed42", ("evidence",), 0.04),
    "evidence, Qwen3-8B": Case("boundary_qwen3_8b_math500_seed42", ("evidence",), 0.025),
    "evidence, giving up at 0.8, R1-7B": Case("boundary_r1_qwen_7b_math500_seed42", _GIVING_UP, 0.04),
    "consistency windows, R1-7B": Case("probed_r1_qwen_7b_math500_seed42", ("consistency",), 0.05),
    "joint settled majority, AIME": Case(
        "qwen3_8b_aime24", ("settled_majority",), 0.15, 0.7, ReplayOptions(draws=5)
    ),
}
SHIFTS = {
    "boundary confidence: R1-7B to Qwen3-8B": (
        "boundary confidence, R1-7B",
        "boundary_qwen3_8b_math500_seed42",
    ),
    "boundary confidence: Qwen3-8B to R1-7B": (
        "boundary confidence, Qwen3-8B",
        "boundary_r1_qwen_7b_math500_seed42",
    ),
    "boundary confidence: R1-7B, MATH to AIME": (
        "boundary confidence, R1-7B",
        "boundary_r1_qwen_7b_aime24_seed42",
    ),
    "boundary confidence: R1-7B, MATH to AMC": (
        "boundary confidence, R1-7B",
        "boundary_r1_qwen_7b_amc23_seed42",
    ),
    "consistency: R1-7B to Qwen3-8B": ("consistency windows, R1-7B", "probed_qwen3_8b_math500_seed42"),
    "consistency: R1-7B, MATH to AIME": ("consistency windows, R1-7B", "probed_r1_qwen_7b_aime24_seed42"),
}


def gather(folder: Path, case: Case) -> Evidence:
    """Every setting of a case on all of its questions."""
    traces = open_traces([folder / f"{case.file}.jsonl"])
    kind, budget = find_kind(traces, case.options), find_budget(traces, case.options)
    paths = list_settings(kind, case.policies, budget=budget)
    return collect_evidence([[replay_setting(traces, spec, case.options) for spec in path] for path in paths])


def try_splits(
    evidence: Evidence,
    case: Case,
    num_splits: int,
    *,
    damage: Damage | None = None,
    target: Evidence | None = None,
) -> dict[str, Any]:
    """Calibrate on a random part of the questions, again and again; count the broken promises.

    Args:
        evidence: What is split.
        case: What is promised.
        num_splits: How often.
        damage: What befalls the calibration questions.
        target: Whose questions are looked at instead of the held-out ones.
    """
    rows = [_try_split(evidence, case, seed, damage, target) for seed in range(num_splits)]
    number = round(case.share * len(evidence.ids))
    return {
        "risk": case.risk,
        "num_calibration": number,
        "num_held_out": len(target.ids) if target else len(evidence.ids) - number,
        "certified": _mean([row["certified"] for row in rows]),
        "broken_over_all": _mean([row["risk_over_all"] > case.risk for row in rows]),
        "broken_held_out": _mean([row["risk_held_out"] > case.risk for row in rows]),
        "mean_risk_over_all": _mean([row["risk_over_all"] for row in rows]),
        "highest_risk_over_all": round(max(row["risk_over_all"] for row in rows), 4),
        "saved_calibration": _mean([row["saved_calibration"] for row in rows]),
        "saved_held_out": _mean([row["saved_held_out"] for row in rows]),
    }


def _try_split(
    evidence: Evidence, case: Case, seed: int, damage: Damage | None, target: Evidence | None
) -> dict[str, float]:
    positions = list(range(len(evidence.ids)))
    rng = random.Random(f"split/{seed}")
    rng.shuffle(positions)
    number = round(case.share * len(positions))
    calibration = evidence.take(positions[:number])
    if damage is not None:
        calibration = damage(calibration, rng)
    held_out = target or evidence.take(positions[number:])
    chosen = select(calibration, CalibrationSettings(risk=case.risk)).chosen
    if chosen is None:
        return dict.fromkeys(
            ("certified", "risk_over_all", "risk_held_out", "saved_calibration", "saved_held_out"), 0.0
        )
    before, over_all, after = (
        part.paths[chosen.path][chosen.position] for part in (calibration, target or evidence, held_out)
    )
    return {
        "certified": 1.0,
        "risk_over_all": math.fsum(over_all.lost) / len(over_all.lost),
        "risk_held_out": math.fsum(after.lost) / len(after.lost),
        "saved_calibration": calibration.compute_saving(before),
        "saved_held_out": held_out.compute_saving(after),
    }


def mistake_references(share: float) -> Damage:
    """Wrong references: what was right counts as wrong and the other way round, for this share of the questions."""

    def damage(evidence: Evidence, rng: random.Random) -> Evidence:
        is_hit = [rng.random() < share for _ in evidence.ids]

        def flip(outcome: Outcome) -> Outcome:
            won = [
                max(0.0, correct - full + lost)
                for correct, full, lost in zip(
                    outcome.correct, evidence.baseline_correct, outcome.lost, strict=True
                )
            ]
            return replace(
                outcome,
                lost=_where(is_hit, won, outcome.lost),
                correct=_where(is_hit, [1 - value for value in outcome.correct], outcome.correct),
            )

        return replace(
            evidence,
            baseline_correct=_where(
                is_hit, [1 - value for value in evidence.baseline_correct], evidence.baseline_correct
            ),
            paths=tuple(tuple(flip(outcome) for outcome in path) for path in evidence.paths),
        )

    return damage


def misgrade_stops(share: float) -> Damage:
    """A careless grader: this share of the right answers of stopped questions is called wrong."""

    def damage(evidence: Evidence, rng: random.Random) -> Evidence:
        is_hit = [rng.random() < share for _ in evidence.ids]

        def flip(outcome: Outcome) -> Outcome:
            found = [
                float(full and early)
                for full, early in zip(evidence.baseline_correct, outcome.early, strict=True)
            ]
            return replace(outcome, lost=_where(is_hit, found, outcome.lost))

        return replace(
            evidence, paths=tuple(tuple(flip(outcome) for outcome in path) for path in evidence.paths)
        )

    return damage


def split_by_length(evidence: Evidence) -> tuple[Evidence, Evidence]:
    """The half with shorter full runs, and the one with longer."""
    order = sorted(range(len(evidence.ids)), key=lambda index: evidence.baseline_tokens[index])
    half = len(order) // 2
    return evidence.take(order[:half]), evidence.take(order[half:])


def find_most_broken(num_splits: int, chance: float = 0.1) -> float:
    """Upper end of the 95% binomial interval of the share of splits, where each breaks with this chance."""
    count = 0
    while math.exp(log_binomial_tail(count, num_splits, chance)) < 0.975:
        count += 1
    return round(count / num_splits, 4)


def main() -> None:
    """Run everything and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("traces", type=Path, help="folder of recorded traces")
    parser.add_argument("--num-splits", type=int, default=200)
    parser.add_argument("--output", type=Path, help="write the JSON here too")
    arguments = parser.parse_args()
    evidence = {}
    for name, case in CASES.items():
        evidence[name] = gather(arguments.traces, case)
        print(f"{name}: {len(evidence[name].ids)} questions", flush=True)
    result: dict[str, Any] = {
        "benchmark": "certificates",
        "num_splits": arguments.num_splits,
        "confidence": 0.9,
        "most_broken": find_most_broken(arguments.num_splits),
        "splits": {
            name: try_splits(evidence[name], case, arguments.num_splits) for name, case in CASES.items()
        },
        "label_noise": _try_noise(evidence, arguments.num_splits),
        "shifts": _try_shifts(arguments.traces, evidence, arguments.num_splits),
    }
    for part in ("splits", "label_noise", "shifts"):
        print_table(part, result[part])
    line = json.dumps(result)
    if arguments.output:
        arguments.output.write_text(line + "\n")
    print(line)


def _try_noise(evidence: dict[str, Evidence], num_splits: int) -> dict[str, Any]:
    name = "boundary confidence, R1-7B"
    kinds = {"wrong references": mistake_references, "careless grader": misgrade_stops}
    return {
        f"{kind}, {share:.0%}": try_splits(evidence[name], CASES[name], num_splits, damage=make(share))
        for kind, make in kinds.items()
        for share in (0.02, 0.1, 0.3)
    }


def _try_shifts(folder: Path, evidence: dict[str, Evidence], num_splits: int) -> dict[str, Any]:
    results = {}
    for title, (name, file) in SHIFTS.items():
        target = gather(folder, replace(CASES[name], file=file))
        results[title] = try_splits(evidence[name], CASES[name], num_splits, target=target)
    for name in ("boundary confidence, R1-7B", "consistency windows, R1-7B"):
        short, long = split_by_length(evidence[name])
        case = replace(CASES[name], share=0.9)
        results[f"{name}: short runs to long ones"] = try_splits(short, case, num_splits, target=long)
    return results


def print_table(title: str, rows: dict[str, dict[str, Any]]) -> None:
    """A table for people."""
    print(f"\n{title:<44} risk  certified  broken: all  held out   saved: calibration  held out")
    for name, row in rows.items():
        print(
            f"{name:<44} {row['risk']:.3f}  {row['certified']:>8.1%}  {row['broken_over_all']:>10.1%}  "
            f"{row['broken_held_out']:>8.1%}  {row['saved_calibration']:>17.1%}  {row['saved_held_out']:>8.1%}"
        )


def _where(is_hit: Sequence[bool], first: Sequence[float], second: Sequence[float]) -> tuple[float, ...]:
    return tuple(a if hit else b for hit, a, b in zip(is_hit, first, second, strict=True))


def _mean(values: Sequence[float]) -> float:
    return round(math.fsum(values) / len(values), 4)


if __name__ == "__main__":
    main()
