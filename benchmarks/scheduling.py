"""Scheduling in the simulator on real lengths: the paper's figures in shape, and the bars.

    python benchmarks/scheduling.py figures [--workload FILE...] [--plots FOLDER]
    python benchmarks/scheduling.py bars [--traces ../shared/data/traces] [--only embedded aime24]

`figures` draws the ablations on one workload, each beside its baseline. `bars` finds, on several workloads, the rate
that each contender sustains at 90% of deadlines met, and the tightest deadlines that it holds at the baseline's rate.
Thresholds are calibrated on one half of the questions, figures are taken on the other. Each ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hf_dynasor.evaluation.scheduling_study import (
    MAX_LOSS,
    Contender,
    Study,
    bound_loss,
    make_contenders,
    make_study,
    prepare_study,
    split_positions,
)
from hf_dynasor.evaluation.workloads import open_depth_workload, open_workload
from hf_dynasor.scheduler import Even, Limits, StaticThreshold
from hf_dynasor.scheduler.depth import ConfidenceExit, FullDepth
from hf_dynasor.scheduler.simulate import SimulationResult, Workload, quantile
from hf_dynasor.scheduler.simulate.programs import replay_allocation

EMBEDDED = Path(__file__).parent / "workloads" / "embedded_self_consistency.json"
BREAKDOWN = (
    "lpm", "gang", "lpm in waves", "gang in waves", "gang_sjf in waves", "lpm + certaindex", "gang + certaindex", "gang_sjf + certaindex",
    "oracle + certaindex",
)  # fmt: skip
SERVED = ("lpm", "app_fifo", "gang_sjf", "gang_sjf + certaindex", "sjf + certaindex", "deadline + certaindex")
BASELINE, OURS, BOUND = "lpm", "gang_sjf + certaindex", "oracle + certaindex"
BARS = (BASELINE, "lpm + certaindex", OURS, BOUND)
SCALES = (0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0)
CONFIDENCES = (0.9, 0.95, 0.98, 0.99, 0.995, 0.999)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A workload of the bars.

    Args:
        name: What it is called.
        files: Trace files under the traces folder; none for the embedded model's samples.
        budget: Branches of a program.
        num_programs: Programs of a run.
        max_requests: Places of the engine.
        is_depth: Whether certaindex ends chains (probability of the answer) instead of counting samples.
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


# --- figures ----------------------------------------------------------------------------------------------------------


def run_figures(arguments: argparse.Namespace) -> dict[str, Any]:
    """The paper's ablations on one workload."""
    workload = open_workload(arguments.workload or [EMBEDDED], budget=arguments.budget)
    study, certain = prepare_study(workload, num_programs=arguments.num_programs)
    contenders = make_contenders(certain)
    rates = {
        name: study.sustained_rate(contenders[name], arguments.scale, start=1 / study.base, precision=0.05)
        for name in BREAKDOWN
    }
    rate = rates[BASELINE]
    if rate is None:
        raise SystemExit(f"The baseline holds no deadline of scale {arguments.scale}: raise --scale.")
    grid = [round(rate * factor, 4) for factor in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0)]
    runs = {
        name: {each: study.run(contenders[name], each, arguments.scale) for each in grid} for name in SERVED
    }
    loaded, overloaded = grid[3], grid[6]
    row = {
        "benchmark": "scheduling_figures",
        "workload": workload.name,
        "calibrated": {"detect_at": certain.detect_at, **certain.thresholds.to_dict()},
        "slo_scale": arguments.scale,
        "slo_base": round(study.base, 4),
        "attainment_by_rate": {
            name: {str(each): round(result.attainment(arguments.scale, study.base), 4) for each, result in by_rate.items()}
            for name, by_rate in runs.items()
        },
        "attainment_by_scale": {
            "rate": loaded,
            **{
                name: {str(scale): round(by_rate[loaded].attainment(scale, study.base), 4) for scale in SCALES}
                for name, by_rate in runs.items()
            },
        },
        "accuracy_by_attainment": {"rate": loaded, **_sweep_budgets(study, contenders, loaded, arguments.scale)},
        "mean_latency": {
            "rate": overloaded,
            **{name: round(study.run(contenders[name], overloaded).mean_latency, 4) for name in BREAKDOWN},
        },
        "sustained_rate": {name: value and round(value, 4) for name, value in rates.items()},
        "fairness": {
            "rate": overloaded,
            **{name: _describe_fairness(by_rate[overloaded]) for name, by_rate in runs.items()},
        },
    }  # fmt: skip
    _print_figures(row)
    if arguments.plots:
        from hf_dynasor.evaluation.scheduling_plots import plot_figures

        plot_figures(row, arguments.plots)
    return row


def _sweep_budgets(
    study: Study, contenders: dict[str, Contender], rate: float, scale: float
) -> dict[str, list[dict[str, float]]]:
    """Accuracy against attainment at caps of a quarter, a half, three quarters and all of the budget."""
    full = study.workload.budget
    caps = sorted({max(1, round(full * part / 4)) for part in (1, 2, 3, 4)})
    curves: dict[str, list[dict[str, float]]] = {}
    for name in (BASELINE, OURS):
        curves[name] = []
        for cap in caps:
            result = replace(study, workload=replace(study.workload, budget=cap)).run(
                contenders[name], rate, scale
            )
            curves[name].append(
                {
                    "budget": cap,
                    "attainment": round(result.attainment(scale, study.base), 4),
                    "accuracy": round(result.accuracy, 4),
                }
            )
    return curves


def _describe_fairness(result: SimulationResult) -> dict[str, float]:
    values = result.fairness()
    return {f"p{share}": round(quantile(values, share / 100), 6) for share in (10, 50, 90, 99)}


def _print_figures(row: dict[str, Any]) -> None:
    print(
        f"{row['workload']}: calibrated {row['calibrated']}, base {row['slo_base']} s, scale {row['slo_scale']}"
    )
    print("\nattainment by rate (fig. 9a)")
    for name, by_rate in row["attainment_by_rate"].items():
        print(f"  {name:<24}" + "".join(f"{rate:>8}: {value:.2f}" for rate, value in by_rate.items()))
    for title, key in (
        ("attainment by SLO scale (fig. 9b)", "attainment_by_scale"),
        ("mean latency, s (fig. 10)", "mean_latency"),
        ("latency for each token, s (fig. 14)", "fairness"),
    ):
        print(f"\n{title} at {row[key]['rate']} programs/s")
        for name, value in row[key].items():
            if name != "rate":
                print(f"  {name:<24}{value}")
    print("\naccuracy and attainment by budget (fig. 9c)")
    for name, points in row["accuracy_by_attainment"].items():
        if name != "rate":
            print(f"  {name:<24}{points}")
    print("\nsustained rate at 90% (fig. 11)")
    for name, value in row["sustained_rate"].items():
        print(f"  {name:<24}{value}")


# --- bars -------------------------------------------------------------------------------------------------------------


def run_bars(arguments: argparse.Namespace) -> dict[str, Any]:
    """Sustained rates and tightest deadlines on each workload."""
    rows = {}
    for case in CASES:
        if arguments.only and case.name not in arguments.only:
            continue
        files = [Path(arguments.traces) / name for name in case.files] or [EMBEDDED]
        missing = [str(path) for path in files if not path.is_file()]
        if missing:
            print(f"{case.name}: left out, there is no {missing[0]}", flush=True)
            continue
        study, contenders, how = _prepare_case(case, files)
        rows[case.name] = _measure_case(case, study, contenders) | {"certaindex": how}
    return {"benchmark": "scheduling_bars", "max_loss": MAX_LOSS, "workloads": rows}


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
    """Chains that end once the probability of the answer exceeds a threshold, calibrated on half of the questions."""
    full = open_depth_workload(files, FullDepth())
    calibration, test = split_positions(len(full.questions))
    before = replay_allocation(_all_branches(full.keep(calibration, "")), Even()).accuracies
    for confidence in CONFIDENCES:
        exiting = open_depth_workload(files, ConfidenceExit(threshold=confidence))
        after = replay_allocation(_all_branches(exiting.keep(calibration, "")), Even()).accuracies
        if bound_loss(before, after) <= MAX_LOSS or confidence == CONFIDENCES[-1]:
            break
    study = make_study(full.keep(test, ""), num_programs=case.num_programs, limits=limits)
    shorter = exiting.keep(test, "")
    contenders = {
        name: replace(contender, workload=shorter if "certaindex" in name else None)
        for name, contender in make_contenders(StaticThreshold(), BARS).items()
    }
    return study, contenders, f"answer probability > {confidence}"


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


def _all_branches(workload: Workload) -> Workload:
    """Each branch a question of its own, so that every one of them counts."""
    questions = tuple(
        replace(question, id=f"{question.id}/{index}", branches=(branch,))
        for question in workload.questions
        for index, branch in enumerate(question.branches)
    )
    return replace(workload, questions=questions)


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
    accuracies = {
        name: round(study.run(contender, start).accuracy, 4) for name, contender in contenders.items()
    }
    return {"slo_base": round(study.base, 4), "accuracy": accuracies, "scales": by_scale}


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
    """Run one of the two and end with its JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    figures = commands.add_parser("figures")
    figures.add_argument("--workload", nargs="+")
    figures.add_argument("--budget", type=int)
    figures.add_argument("--num-programs", type=int, default=400)
    figures.add_argument("--scale", type=float, default=2.0)
    figures.add_argument("--plots")
    figures.set_defaults(run=run_figures)
    bars = commands.add_parser("bars")
    bars.add_argument("--traces", default="../shared/data/traces")
    bars.add_argument("--only", nargs="+", choices=[case.name for case in CASES])
    bars.set_defaults(run=run_bars)
    arguments = parser.parse_args()
    print(json.dumps(arguments.run(arguments)))


if __name__ == "__main__":
    sys.exit(main())
