"""Planning past one machine: routing policies, saturation and failures over simulated replicas.

    python benchmarks/scale.py [--engine-steps STEPS.jsonl] [--cells FILE.jsonl] [--output FILE.json] [--plots FOLDER]

Programs of real lengths (the embedded model's samples, self-consistency with a static threshold) come to replicas whose
steps take as long as those of a real engine: --engine-steps names measured ones (`engine_steps.py` records them), by default
those of the embedded model on one processor core. `--engine-steps formula` takes the round-figure stand-in for an 8B model on
one large accelerator, which was not measured. The loads are shares of what a replica does at most, so they mean the same
for every engine. Prompts begin in one of 400 ways of
1,000 tokens, popular by Zipf's law; a replica keeps 40 of them. A cell that stands in --cells is not run again. Ends with one
JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_dynasor.evaluation.scheduling_study import measure_alone
from hf_dynasor.evaluation.workloads import open_workload
from hf_dynasor.scheduler import Limits, StaticThreshold, make_scheduling_policy
from hf_dynasor.scheduler.routing import ROUTING_POLICIES, make_routing_policy
from hf_dynasor.scheduler.simulate import (
    LARGE_MODEL,
    Arrivals,
    EngineFit,
    EngineModel,
    Failure,
    Fleet,
    Poisson,
    SharedBeginnings,
    Simulation,
    at_once,
    fit_engine,
    read_step_rows,
)

WORKLOAD = Path(__file__).parent / "workloads" / "embedded_self_consistency.json"
BEGINNINGS = SharedBeginnings(number=400, tokens=1000, skew=1.0, cache_tokens=40_000)
LIMITS = Limits(max_requests=64, max_tokens=2048)
STEPS = WORKLOAD.with_name("embedded_steps.jsonl")
NUM_REPLICAS = 16
LOADS = (0.3, 0.45, 0.6, 0.75, 0.9)
SIZE_LOAD = 0.6
FAILS_AFTER = 0.3
"""Share of the arrivals after which a replica dies."""
SLO_SCALE = 2.0
SHOWN = (
    "mean_latency", "p50_latency", "p90_latency", "p99_latency", "imbalance", "hit_rate", "busy_share", "num_restarted",
    "num_lost_tokens", "num_programs", "num_requests",
)  # fmt: skip


def list_cells(capacity: float) -> Iterator[dict[str, Any]]:
    """Every run: its part of the study, and what it is run with.

    Args:
        capacity: Programs a second that one replica ends when it is never idle.
    """
    for load in LOADS:
        for routing in sorted(ROUTING_POLICIES):
            rate = round(load * capacity * NUM_REPLICAS, 3)
            yield {
                "part": "routing",
                "routing": routing,
                "load": load,
                "rate": rate,
                "replicas": NUM_REPLICAS,
                "fails": False,
            }
    for replicas, fails in ((4, True), (16, True), (1, False), (4, False), (16, False), (64, False)):
        rate = round(SIZE_LOAD * capacity * replicas, 3)
        yield {
            "part": "size",
            "routing": "least_cost",
            "load": SIZE_LOAD,
            "rate": rate,
            "replicas": replicas,
            "fails": fails,
        }


def read_engine(steps: str) -> EngineFit:
    """The engine of each replica: fitted to measured steps, or the stand-in, which fits nothing."""
    if steps == "formula":
        return EngineFit(model=LARGE_MODEL, mean_error=0.0, num_rows=0)
    return fit_engine(read_step_rows(steps), name=Path(steps).stem)


def make_simulation(engine: EngineModel, arrivals: Arrivals, num_programs: int) -> Simulation:
    """Programs on one such engine."""
    return Simulation(
        workload=open_workload([str(WORKLOAD)]),
        arrivals=arrivals,
        num_programs=num_programs,
        scheduling=make_scheduling_policy("gang_sjf"),
        allocation=StaticThreshold(),
        engine=engine,
        limits=LIMITS,
    )


def measure_capacity(engine: EngineModel, num_programs: int = 300) -> float:
    """Programs a second of a replica that always has some waiting, and finds as many beginnings as it keeps."""
    fleet = Fleet(
        simulation=make_simulation(engine, at_once(num_programs), num_programs),
        num_replicas=1,
        routing=make_routing_policy("random"),
        beginnings=BEGINNINGS,
    )
    return num_programs / max(outcome.finished_at for outcome in fleet.run().result.outcomes)


def run_cell(cell: dict[str, Any], engine: EngineModel, num_programs: int, slo_base: float) -> dict[str, Any]:
    """One run's figures; the processor time that it took is told beside them."""
    if cell["part"] != "routing":
        num_programs = max(1, num_programs * cell["replicas"] // NUM_REPLICAS)
    fails_at = FAILS_AFTER * num_programs / cell["rate"]
    fleet = Fleet(
        simulation=make_simulation(engine, Poisson(rate=cell["rate"]), num_programs),
        num_replicas=cell["replicas"],
        routing=make_routing_policy(cell["routing"]),
        beginnings=BEGINNINGS,
        failures=(Failure(replica=0, at=fails_at),) if cell["fails"] else (),
    )
    begin = time.process_time()
    found = fleet.run()
    summary = found.summary()
    return {
        **cell,
        **{name: summary[name] for name in SHOWN},
        "attainment": round(found.result.attainment(SLO_SCALE, slo_base), 4),
        "processor_s": round(time.process_time() - begin, 1),
    }


def read_cells(path: Path | None) -> dict[str, dict[str, Any]]:
    """What was run before, by its settings."""
    if path is None or not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines() if line]
    return {name_cell(row): row for row in rows}


def name_cell(row: dict[str, Any]) -> str:
    """The settings of a run, as text."""
    return json.dumps([row[name] for name in ("part", "routing", "rate", "replicas", "fails", "load")])


def find_sustained(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """For each routing the highest load of the grid up to which 90% of the programs meet their deadlines."""
    sustained: dict[str, float | None] = {}
    for row in sorted((row for row in rows if row["part"] == "routing"), key=lambda row: row["load"]):
        held = sustained.setdefault(row["routing"], None)
        lower = [load for load in LOADS if load < row["load"]]
        if row["attainment"] >= 0.9 and (not lower or held == lower[-1]):
            sustained[row["routing"]] = row["load"]
    return sustained


def draw(rows: list[dict[str, Any]], folder: Path) -> None:
    """Latency and deadlines met by load, for each routing policy."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in rows if row["part"] == "routing"]
    figure, axes = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
    shown = (
        ("p90_latency", "P90 latency, s"),
        ("attainment", "deadlines met"),
        ("hit_rate", "shared prompts held"),
    )
    for axis, (name, label) in zip(axes, shown, strict=True):
        for routing in sorted(ROUTING_POLICIES):
            points = sorted((row["load"], row[name]) for row in rows if row["routing"] == routing)
            axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=routing)
        axis.set_xlabel(f"load of {NUM_REPLICAS} replicas")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_yscale("log")
    axes[2].legend(loc="center", bbox_to_anchor=(0.5, 0.69))
    figure.savefig(folder / "scale_routing.png", dpi=110)


def main() -> None:
    """Run what is missing, and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--engine-steps", default=str(STEPS), metavar="FILE.jsonl", help="measured steps, or 'formula'"
    )
    parser.add_argument("--num-programs", type=int, default=3000, help="of a run over 16 replicas")
    parser.add_argument("--cells", type=Path, help="where runs are kept, to go on there")
    parser.add_argument(
        "--most-seconds", type=float, help="of processor time; then it ends, to be called again"
    )
    parser.add_argument("--output", type=Path)
    parser.add_argument("--plots", type=Path)
    arguments = parser.parse_args()
    known = read_cells(arguments.cells)
    fit = read_engine(arguments.engine_steps)
    engine = fit.model
    base = measure_alone(open_workload([str(WORKLOAD)]), engine, LIMITS, seed=0)
    capacity = measure_capacity(engine)
    rows = []
    for cell in list_cells(capacity):
        if arguments.most_seconds and time.process_time() > arguments.most_seconds:
            raise SystemExit("There is more to run: call again with the same --cells.")
        row = known.get(name_cell(cell)) or run_cell(cell, engine, arguments.num_programs, base)
        if name_cell(cell) not in known and arguments.cells is not None:
            with arguments.cells.open("a") as file:
                file.write(json.dumps(row) + "\n")
        rows.append(row)
        print(
            f"{row['part']:8} {row['replicas']:3} {row['routing']:16} {row['load']:.0%} ({row['rate']:6g}/s)  mean {row['mean_latency']:6.2f} s, "
            f"P90 {row['p90_latency']:6.2f}, P99 {row['p99_latency']:6.2f}, met {row['attainment']:.1%}, "
            f"held {row['hit_rate']:.0%}, imbalance {row['imbalance']:.2f}, begun anew {row['num_restarted']}",
            flush=True,
        )
    if arguments.plots:
        draw(rows, arguments.plots)
    report = {
        "benchmark": "scale",
        "engine": engine.to_dict(),
        "fit_error": round(fit.mean_error, 4),
        "num_steps_fitted": fit.num_rows,
        "capacity": round(capacity, 3),
        "slo_scale": SLO_SCALE,
        "slo_base": round(base, 4),
        "sustained_load": find_sustained(rows),
        "processor_s": round(sum(row["processor_s"] for row in rows), 1),
        "cells": rows,
    }
    if arguments.output:
        arguments.output.write_text(json.dumps(report) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
