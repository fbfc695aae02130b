"""The paper's figures on scheduling, in shape, in the simulator on real lengths, each beside its baseline.

    python benchmarks/scheduling.py [--workload FILE...] [--plots FOLDER]

Attainment of deadlines against rate and against SLO scale, accuracy against attainment, mean latency and sustained
rate broken down, finish-time fairness. The threshold is calibrated on one half of the questions, figures are taken on
the other. Prints tables and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_dynasor.evaluation.scheduling_study import (
    Contender,
    Study,
    make_contenders,
    prepare_study,
)
from hf_dynasor.evaluation.workloads import open_workload
from hf_dynasor.scheduler.simulate import SimulationResult, quantile

EMBEDDED = Path(__file__).parent / "workloads" / "embedded_self_consistency.json"
BREAKDOWN = (
    "lpm", "gang", "lpm in waves", "gang in waves", "gang_sjf in waves", "lpm + certaindex", "gang + certaindex", "gang_sjf + certaindex",
    "oracle + certaindex",
)  # fmt: skip
SERVED = ("lpm", "app_fifo", "gang_sjf", "gang_sjf + certaindex", "sjf + certaindex", "deadline + certaindex")
BASELINE, OURS = "lpm", "gang_sjf + certaindex"
SCALES = (0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0)


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


def main() -> None:
    """Measure, print, draw, and end with the JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", nargs="+", help="by default the embedded model's samples")
    parser.add_argument("--budget", type=int)
    parser.add_argument("--num-programs", type=int, default=250)
    parser.add_argument("--scale", type=float, default=2.0)
    parser.add_argument("--plots", help="folder for pictures")
    arguments = parser.parse_args()
    print(json.dumps(run_figures(arguments)))


if __name__ == "__main__":
    sys.exit(main())
