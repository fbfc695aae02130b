"""What deciding costs: processor time of the scheduler for a step, by how many requests wait.

Each timed step tells an end and, every twentieth time, a new program of 20 requests, and makes a new plan with 64
requests running. Estimates of a kind are told anew whenever twice as many branches have ended, and then all of its
programs are ranked again: `mean` has that spread over the steps, `median` is a step without it.

    python benchmarks/scheduling_cost.py [--waiting 256 100000] [--steps 200]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time

from hf_dynasor.core import RequestKey
from hf_dynasor.scheduler import (
    SCHEDULING_POLICIES,
    Limits,
    ProgramSpec,
    RequestSpec,
    Scheduler,
    make_scheduling_policy,
)

STEP_SECONDS = 0.018
"""A step of the simulator's large engine, for the share."""


def main() -> None:
    """Time every policy and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--waiting", type=int, nargs="+", default=[256, 1000, 10_000, 100_000])
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
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
