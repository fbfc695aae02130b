"""What deciding costs: processor time of the scheduler for a step, by how many requests wait.

Each timed step tells an end and, every twentieth time, a new program of 20 requests, and makes a new plan with 64
requests running. Estimates of a kind are told anew whenever twice as many branches have ended, and then all of its
programs are ranked again: `mean` has that spread over the steps, `median` is a step without it.

    python benchmarks/scheduling_cost.py [--waiting 256 100000] [--steps 200]
    python benchmarks/scheduling_cost.py --simulate 50000     # instead: so many programs of 20 requests, simulated
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path

from hf_dynasor.core import RequestKey
from hf_dynasor.scheduler import (
    SCHEDULING_POLICIES,
    Even,
    Limits,
    ProgramSpec,
    RequestSpec,
    Scheduler,
    make_scheduling_policy,
)
from hf_dynasor.scheduler.simulate import LARGE_MODEL, Poisson, Simulation, read_workload

WORKLOAD = Path(__file__).parent / "workloads" / "embedded_self_consistency.json"
SIMULATED_RATE = 8.0
"""Programs a second, near what the simulator's large engine does with 256 places."""
STEP_SECONDS = 0.018
"""A step of the simulator's large engine, for the share."""


def main() -> None:
    """Time every policy and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--waiting", type=int, nargs="+", default=[256, 1000, 10_000, 100_000])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--simulate", type=int, metavar="PROGRAMS", help="time the simulator instead")
    arguments = parser.parse_args()
    if arguments.simulate:
        print(json.dumps(_time_simulation(arguments.simulate)))
        return
    print(f"{'microseconds':<12}" + "".join(f"{n:>9,} waiting, mean" for n in arguments.waiting))
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for policy in sorted(SCHEDULING_POLICIES):
        rows[policy] = {}
        for num_waiting in arguments.waiting:
            times = _time_steps(policy, num_waiting, arguments.steps)
            rows[policy][str(num_waiting)] = {
                "median": round(1e6 * statistics.median(times), 1),
                "mean": round(1e6 * statistics.fmean(times), 1),
            }
        cells = "".join(f"{row['median']:>17.1f}{row['mean']:>7.0f}" for row in rows[policy].values())
        print(f"{policy:<12}{cells}", flush=True)
    worst = max(row[str(min(arguments.waiting))]["mean"] for row in rows.values()) / 1e6
    print(
        f"at {min(arguments.waiting)} waiting at most {worst / STEP_SECONDS:.2%} of a step of {STEP_SECONDS} s"
    )
    print(json.dumps({"benchmark": "scheduling_cost", "num_running": 64, "microseconds": rows}))


def _time_simulation(num_programs: int) -> dict[str, object]:
    """Processor time of simulating so many programs at their full budget, on an engine that is kept busy."""
    simulation = Simulation(
        workload=read_workload(WORKLOAD),
        arrivals=Poisson(rate=SIMULATED_RATE),
        num_programs=num_programs,
        scheduling=make_scheduling_policy("gang_sjf"),
        allocation=Even(),
        engine=LARGE_MODEL,
        limits=Limits(max_requests=256),
    )
    begin = time.process_time()
    result = simulation.run()
    seconds = time.process_time() - begin
    return {
        "benchmark": "scheduling_simulation",
        "num_programs": num_programs,
        "num_requests": result.num_requests,
        "num_steps": result.num_steps,
        "processor_seconds": round(seconds, 1),
        "microseconds_per_request": round(1e6 * seconds / result.num_requests, 1),
        "mean_latency": round(result.mean_latency, 3),
        "busy_share": result.summary()["busy_share"],
    }


def _time_steps(policy: str, num_waiting: int, num_steps: int) -> list[float]:
    """Processor time of telling an end, a reading and a new program, and planning, with 64 running."""
    scheduler = Scheduler(make_scheduling_policy(policy), limits=Limits(max_requests=64))
    for index in range(num_waiting // 20 + 4):
        _submit(scheduler, index, 0.0)
    now = 0.0
    for _ in range(3):
        scheduler.plan_step(now)
        scheduler.advance()
    times = []
    for step in range(num_steps):
        now += 0.02
        plan = scheduler.plan_step(now)
        ending = plan.decode[step % max(1, len(plan.decode))] if plan.decode else plan.prefill[0].key
        scheduler.advance()
        begin = time.process_time()
        scheduler.finished(ending, now, 40 + step % 30)
        if step % 20 == 0:
            _submit(scheduler, 10**6 + step, now)
        scheduler.plan_step(now)
        times.append(time.process_time() - begin)
        scheduler.advance()
    return times


def _submit(scheduler: Scheduler, index: int, now: float) -> None:
    name = str(index)
    scheduler.program_submitted(
        ProgramSpec(program_id=name, kind="sc", planned_units=20, deadline=now + 5 + math.sqrt(index)), now
    )
    for branch in range(20):
        key = RequestKey(program_id=name, request_id=str(branch))
        scheduler.submitted(RequestSpec(key=key, prompt_tokens=32 + index % 64), now)


if __name__ == "__main__":
    sys.exit(main())
