"""Sustained rates and tightest deadlines in the simulator on real lengths, against `lpm` without certaindex.

    python benchmarks/scheduling_bars.py [--traces ../shared/data/traces] [--only embedded aime24] [--resume bars.json]

For each workload and SLO scale: the rate at which each contender meets 90% of the deadlines, and the tightest scale
that 90% of the programs meet at the baseline's rate and at ours. Thresholds are calibrated on one half of the
questions, figures are taken on the other; single chains in five parts, each with a threshold from the four others. A
workload whose traces are not there is left out, and said so. `--resume` keeps each workload as it ends, and goes on
there. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hf_dynasor.evaluation.scheduling_calibration import MAX_LOSS, cross_calibrate, split_positions
from hf_dynasor.evaluation.scheduling_study import (
    Contender,
    Study,
    make_contenders,
    make_study,
    prepare_study,
)
from hf_dynasor.evaluation.statistics import paired_difference
from hf_dynasor.evaluation.workloads import open_depth_workload, open_workload
from hf_dynasor.scheduler import Even, Limits, StaticThreshold
from hf_dynasor.scheduler.depth import FullDepth
from hf_dynasor.scheduler.depth_evidence import EvidenceExit
from hf_dynasor.scheduler.simulate import Workload

EMBEDDED = Path(__file__).parent / "workloads" / "embedded_self_consistency.json"
BASELINE, OURS, BOUND = "lpm", "gang_sjf + certaindex", "oracle + certaindex"
BARS = (BASELINE, "lpm + certaindex", OURS, BOUND)
EVIDENCE = (6.5, 7.5, 8.5, 9.5, 11.0, 12.0, 13.0, 14.0, 16.0)
NUM_PARTS = 5
DRAWS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A workload of the bars.

    Args:
        name: What it is called.
        files: Trace files under the traces folder; none for the embedded model's samples.
        budget: Branches of a program.
        num_programs: Programs of a run.
        max_requests: Places of the engine.
        is_depth: Whether certaindex ends chains (evidence for the answer) instead of counting samples.
        stop_decided: Whether certaindex is read at every end, and what cannot change the vote is given up, instead of
            at a detection point: for widths too small to be split into grants.
        scales: SLO scales.
    """

    name: str
    files: tuple[str, ...] = ()
    budget: int
    num_programs: int
    max_requests: int = 64
    is_depth: bool = False
    stop_decided: bool = False
    scales: tuple[float, ...] = (1.5, 2.0, 3.0)


CASES = (
    Case(name="embedded", budget=20, num_programs=300),
    Case(
        name="aime24",
        files=("qwen3_8b_aime24.jsonl",),
        budget=32,
        num_programs=90,
        max_requests=48,
        scales=(1.5, 3.0),
    ),
    Case(name="last_letters", files=("gpt35_last_letters.jsonl",), budget=40, num_programs=200),
    Case(
        name="probed_width_3",
        files=tuple(
            f"probed_r1_qwen_7b_{data}_seed{seed}.jsonl"
            for data in ("math500", "amc23", "aime24")
            for seed in (42, 43, 44)
        ),
        budget=3,
        num_programs=400,
        stop_decided=True,
        scales=(2.0, 3.0, 6.0),
    ),
    Case(
        name="probed_depth",
        files=tuple(
            f"probed_r1_qwen_7b_{data}_seed{seed}.jsonl"
            for data in ("math500", "amc23", "aime24")
            for seed in (42, 43)
        ),
        budget=1,
        num_programs=600,
        is_depth=True,
        scales=(2.0, 3.0, 6.0),
    ),
)


def run_bars(arguments: argparse.Namespace) -> dict[str, Any]:
    """Sustained rates and tightest deadlines on each workload."""
    kept = Path(arguments.resume) if arguments.resume else None
    rows = json.loads(kept.read_text()) if kept is not None and kept.is_file() else {}
    for case in CASES:
        if case.name in rows or (arguments.only and case.name not in arguments.only):
            continue
        files = [Path(arguments.traces) / name for name in case.files] or [EMBEDDED]
        missing = [str(path) for path in files if not path.is_file()]
        if missing:
            print(f"{case.name}: left out, there is no {missing[0]}", flush=True)
            continue
        study, contenders, how = _prepare_case(case, files)
        rows[case.name] = _measure_case(case, study, contenders) | {"certaindex": how}
        if kept is not None:
            kept.write_text(json.dumps(rows))
    in_order = {case.name: rows[case.name] for case in CASES if case.name in rows}
    return {"benchmark": "scheduling_bars", "max_loss": MAX_LOSS, "num_draws": DRAWS, "workloads": in_order}


def _prepare_case(case: Case, files: Sequence[Path]) -> tuple[Study, dict[str, Contender], str]:
    limits = Limits(max_requests=case.max_requests, num_blocks=25_000)
    if case.is_depth:
        return _prepare_depth(case, files, limits)
    workload = open_workload(files, budget=case.budget, name=case.name)
    if case.stop_decided:
        return _prepare_decided(case, workload, limits)
    study, certain = prepare_study(workload, num_programs=case.num_programs, limits=limits)
    how = f"entropy > {certain.thresholds.entropy} at {certain.detect_at}"
    return study, make_contenders(certain, BARS), how


def _prepare_depth(
    case: Case, files: Sequence[Path], limits: Limits
) -> tuple[Study, dict[str, Contender], str]:
    """Chains that end once the evidence for their answer is enough, by a threshold chosen without their question."""
    full = open_depth_workload(files, FullDepth())
    rules = {
        str(threshold): open_depth_workload(files, EvidenceExit(threshold=threshold, give_up=None))
        for threshold in EVIDENCE
    }
    found = cross_calibrate(full, rules, num_parts=NUM_PARTS)
    study = make_study(full, num_programs=case.num_programs, limits=limits)
    contenders = {
        name: replace(contender, workload=found.workload if "certaindex" in name else None)
        for name, contender in make_contenders(StaticThreshold(), BARS).items()
    }
    chosen = ", ".join(
        name if is_bounded else f"{name} (loss not bounded)" for name, is_bounded in found.chosen
    )
    return study, contenders, f"evidence in nats > {chosen}, for each of {NUM_PARTS} parts by the others"


def _prepare_decided(
    case: Case, workload: Workload, limits: Limits
) -> tuple[Study, dict[str, Contender], str]:
    """Nothing is calibrated, since a decided vote loses nothing; the test half is the same as for the others."""
    _, test = split_positions(len(workload.questions))
    study = make_study(workload.keep(test, ""), num_programs=case.num_programs, limits=limits)
    contenders = {
        name: replace(contender, stop_decided="certaindex" in name)
        for name, contender in make_contenders(Even(), BARS).items()
    }
    return study, contenders, "vote decided"


def _measure_case(case: Case, study: Study, contenders: dict[str, Contender]) -> dict[str, Any]:
    print(f"\n{case.name}: base {study.base:.2f} s, {len(study.workload.questions)} questions", flush=True)
    by_scale: dict[str, Any] = {}
    start = 1 / study.base
    for scale in case.scales:
        rates: dict[str, float | None] = {}
        for name, contender in contenders.items():
            rates[name] = study.sustained_rate(contender, scale, start=start, precision=0.06)
            start = rates[BASELINE] or start
        by_scale[str(scale)] = _compare(study, contenders, scale, rates)
    return {
        "slo_base": round(study.base, 4),
        "accuracy": _compare_accuracy(study, contenders, start),
        "scales": by_scale,
    }


def _compare_accuracy(study: Study, contenders: dict[str, Contender], rate: float) -> dict[str, Any]:
    """Accuracy of the baseline and of ours, and the difference, paired question by question, with its interval.

    Over many draws of each question's branches: which of them a single run draws moves its accuracy by more than the
    loss that is looked for. What the programs of one run answered stands beside it.
    """
    before, after = (study.accuracies(contenders[name], draws=DRAWS) for name in (BASELINE, OURS))
    row = _describe_difference(before, after)
    once = [
        [float(outcome.is_correct) for outcome in study.run(contenders[name], rate).outcomes]
        for name in (BASELINE, OURS)
    ]
    row["in_one_run"] = _describe_difference(*once)
    print(f"  accuracy {json.dumps(row)}", flush=True)
    return row


def _describe_difference(before: Sequence[float], after: Sequence[float]) -> dict[str, Any]:
    difference = paired_difference(before, after)
    return {
        BASELINE: round(sum(before) / len(before), 4),
        OURS: round(sum(after) / len(after), 4),
        "difference": round(difference.mean, 4),
        "interval": [round(difference.low, 4), round(difference.high, 4)],
    }


def _compare(
    study: Study, contenders: dict[str, Contender], scale: float, rates: dict[str, float | None]
) -> dict[str, Any]:
    """Ratios of rates at one SLO, and of SLOs at the baseline's rate and at ours."""
    base = rates[BASELINE]
    row: dict[str, Any] = {}
    for name, rate in rates.items():
        row[name] = {"rate": rate and float(f"{rate:.5g}")}
        if base and rate:
            row[name]["rate_ratio"] = round(rate / base, 3)
    for label, at in (("at_its_rate", base), ("at_our_rate", rates[OURS])):
        if at is None:
            continue
        held = {
            name: study.run(contenders[name], at, scale).tightest_scale(study.base)
            for name in (BASELINE, OURS, BOUND)
        }
        row[f"slo_{label}"] = {name: round(value, 4) for name, value in held.items()} | {
            "ratio": round(held[BASELINE] / held[OURS], 3)
        }
    print(f"  scale {scale}: " + json.dumps(row), flush=True)
    return row


def main() -> None:
    """Measure every workload and end with the JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--traces", default="../shared/data/traces")
    parser.add_argument("--only", nargs="+", choices=[case.name for case in CASES])
    parser.add_argument("--resume", metavar="FILE.json", help="keep what is measured, and go on from it")
    print(json.dumps(run_bars(parser.parse_args())))


if __name__ == "__main__":
    sys.exit(main())
