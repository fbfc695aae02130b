"""The simulator beside what the real engine did: fits, comparisons, the table. Part of `engine_scheduling.py`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

from engine_clock import Outcome

from hf_dynasor.answers import group_answers, is_correct
from hf_dynasor.embedded.problems import generate_problems
from hf_dynasor.recipe import Recipe
from hf_dynasor.scheduler import Ageing, Limits, make_scheduling_policy
from hf_dynasor.scheduler.simulate import (
    EngineFit,
    EngineModel,
    RecordedArrivals,
    RecordedBranch,
    RecordedQuestion,
    Simulation,
    StepRow,
    Workload,
    fit_engine,
    quantile,
)

STEP_FIELDS = ("num_requests", "num_context_tokens", "num_prefill_tokens", "seconds")
QUESTION_SEED = 2026
MAX_TOKENS = 512
MAX_WAIT_S = 1e6


def make_workload(outcomes: Sequence[Outcome]) -> Workload:
    """What the programs of an even run cost and answered, for the simulator."""
    problems = generate_problems(len(outcomes), seed=QUESTION_SEED, split="test")
    questions = []
    for outcome, problem in zip(outcomes, problems, strict=True):
        paths = outcome.answer.paths
        groups = group_answers([path.answer for path in paths]).groups
        numbers = {index: number for number, group in enumerate(groups) for index in group.indices}
        branches = tuple(
            RecordedBranch(
                num_tokens=path.num_tokens,
                group=numbers.get(index),
                is_correct=path.answer is not None and is_correct(path.answer, problem.answer),
            )
            for index, path in enumerate(paths)
        )
        prompt_tokens = round(outcome.answer.usage.prompt / len(paths))
        questions.append(RecordedQuestion(id=problem.id, prompt_tokens=prompt_tokens, branches=branches))
    return Workload(name="embedded, as it ran", budget=len(questions[0].branches), questions=tuple(questions))


def simulate(
    workload: Workload, policy: str, allocation: Any, times: Sequence[float], model: EngineModel, places: int
) -> list[float]:
    """Latencies of the same programs in the simulator."""
    result = Simulation(
        workload=workload,
        arrivals=RecordedArrivals(times=tuple(times)),
        num_programs=len(times),
        scheduling=make_scheduling_policy(policy),
        allocation=allocation,
        engine=model,
        limits=Limits(max_requests=places, max_tokens=MAX_TOKENS),
        ageing=Ageing(max_wait_s=MAX_WAIT_S),
        keeps_order=True,
        siblings_wait=True,
    ).run()
    return result.latencies


def describe(latencies: Sequence[float]) -> dict[str, float]:
    """Mean and P90, in seconds."""
    return {
        "mean": round(sum(latencies) / len(latencies), 3),
        "p90": round(quantile(latencies, 0.9), 3),
    }


def compare(row: dict[str, Any], **simulated: dict[str, float]) -> dict[str, Any]:
    """The row with the simulator's figures, fitted to this run and to all runs, and how far they are off."""
    for name, figures in simulated.items():
        errors = {key: round(value / row["engine"][key] - 1, 4) for key, value in figures.items()}
        row = {**row, f"simulator_{name}_fit": figures, f"error_{name}_fit": errors}
    return row


def make_recipe(allocation: str, options: argparse.Namespace) -> Recipe:
    """Self-consistency with this allocation."""
    return Recipe(budget=options.budget, policy=allocation, seed=0)


def evaluate(raw: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Fit the simulator to the steps and compare."""
    kept = list(raw["runs"].values())
    kept.sort(key=lambda run: (run["row"]["allocation"], run["row"]["policy"]))
    runs = [[StepRow(**dict(zip(STEP_FIELDS, step, strict=True))) for step in run["steps"]] for run in kept]
    workload = Workload.from_dict(raw["workload"])
    every = [step for run in runs for step in run]
    # A processor core has no requests for free, so the model is linear.
    common = fit_engine(every, name="embedded, one thread", saturating=False)
    rows = []
    for row, steps in zip([run["row"] for run in kept], runs, strict=True):
        allocation = make_recipe(row["allocation"], options).build_policy()
        run = partial(
            simulate, workload, row["policy"], allocation, raw["times"], places=options.max_requests
        )
        own = fit_engine(steps, name="embedded, this run", saturating=False)
        rows.append(
            compare(row, own=describe(run(model=own.model)), common=describe(run(model=common.model)))
        )
    return _summarise(rows, options, capacity=raw["capacity"], fit=common)


def describe_run(
    policy: str, allocation: str, outcomes: Sequence[Outcome], steps: Sequence[StepRow]
) -> dict[str, Any]:
    return {
        "policy": policy,
        "allocation": allocation,
        "engine": describe([outcome.latency for outcome in outcomes]),
        "net_tokens": sum(outcome.answer.usage.net_tokens for outcome in outcomes),
        "num_samples": sum(len(outcome.answer.paths) for outcome in outcomes),
        "num_steps": len(steps),
        "mean_step_ms": round(1000 * sum(step.seconds for step in steps) / len(steps), 3),
    }


def _summarise(
    rows: list[dict[str, Any]], options: argparse.Namespace, *, capacity: float, fit: EngineFit
) -> dict[str, Any]:
    base = rows[0]["engine"]["mean"]
    ours = next(row for row in rows if (row["policy"], row["allocation"]) == ("gang_sjf", "static"))
    worst = {
        fit_name: max(abs(error) for row in rows for error in row[f"error_{fit_name}_fit"].values())
        for fit_name in ("own", "common")
    }
    return {
        "benchmark": "engine_scheduling",
        "num_programs": options.num_programs,
        "budget": options.budget,
        "max_requests": options.max_requests,
        "clock": options.clock,
        "slice_s": options.slice,
        "rate": round(options.load * capacity, 4),
        "load_of_even": options.load,
        "capacity": round(capacity, 4),
        "model": fit.model.to_dict(),
        "fit_error": round(fit.mean_error, 4),
        "rows": [{**row, "to_fcfs_even": round(row["engine"]["mean"] / base, 3)} for row in rows],
        "bar": {"most": 0.4, "is": round(ours["engine"]["mean"] / base, 3)},
        "largest_error": worst,
        "pairs_ranked_otherwise": {fit_name: _list_inversions(rows, fit_name) for fit_name in worst},
    }


def _list_inversions(rows: Sequence[dict[str, Any]], fit_name: str) -> list[list[str]]:
    """Pairs of runs whose means the simulator ranks the other way, with how far they are apart in the engine."""
    found = []
    for index, one in enumerate(rows):
        for other in rows[index + 1 :]:
            engine = one["engine"]["mean"] - other["engine"]["mean"]
            simulated = [row[f"simulator_{fit_name}_fit"]["mean"] for row in (one, other)]
            if engine * (simulated[0] - simulated[1]) < 0:
                names = [f"{row['policy']} {row['allocation']}" for row in (one, other)]
                found.append([*names, f"{abs(engine) / one['engine']['mean']:.1%} apart"])
    return found


def format_table(result: dict[str, Any]) -> str:
    lines = [
        "policy     allocation   engine mean    P90   to fcfs even   simulator mean    P90   off by          common fit off by"
    ]
    for row in result["rows"]:
        engine, simulator, error = row["engine"], row["simulator_own_fit"], row["error_own_fit"]
        common = row["error_common_fit"]
        lines.append(
            f"{row['policy']:<10} {row['allocation']:<10} {engine['mean']:>13.2f} {engine['p90']:>6.2f} "
            f"{row['to_fcfs_even']:>14.3f} {simulator['mean']:>16.2f} {simulator['p90']:>6.2f}   "
            f"{error['mean']:+.1%} {error['p90']:+.1%}   {common['mean']:+.1%} {common['p90']:+.1%}"
        )
    return "\n".join(lines)
