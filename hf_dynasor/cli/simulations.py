"""`hf-dynasor simulate`: programs of recorded lengths through the scheduler, under a virtual clock."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_dynasor.errors import ConfigurationError, InputError
from hf_dynasor.evaluation.policy_specs import parse_policy_spec
from hf_dynasor.evaluation.scheduling_study import measure_alone
from hf_dynasor.evaluation.workloads import DEFAULT_PROMPT_TOKENS, open_workload
from hf_dynasor.scheduler import SCHEDULING_POLICIES, Ageing, Limits, make_scheduling_policy
from hf_dynasor.scheduler.routing import ROUTING_POLICIES, make_routing_policy
from hf_dynasor.scheduler.simulate import (
    LARGE_MODEL,
    Arrivals,
    Bursts,
    EngineModel,
    Failure,
    Fleet,
    Poisson,
    RecordedArrivals,
    SharedBeginnings,
    Simulation,
    SimulationResult,
    at_once,
    fit_engine,
    read_step_rows,
)

SIMULATE_EPILOG = """\
WORKLOAD is a workload file, or traces: samples, chains, or what `hf-dynasor eval ... --trace` wrote. Runs of long
chains on the same questions are pooled, one branch a run. Times are those of the engine model; a round-figure stand-in
for an 8B model on one large accelerator is the default, and --engine-steps fits one to measured steps, each a line
{"num_requests", "num_context_tokens", "num_prefill_tokens", "seconds"}.

examples:
  hf-dynasor simulate --workload traces.jsonl --policy gang_sjf --allocation static --rate 2
  hf-dynasor simulate --workload traces.jsonl --policy lpm --allocation even --rate 2 --json
  hf-dynasor simulate --workload traces.jsonl --policy deadline --rate 2 --slo-scale 2 --outcomes programs.jsonl
  hf-dynasor simulate --workload traces.jsonl --rate 40 --replicas 16 --routing least_cost --shared-prompts 200
  hf-dynasor simulate --workload traces.jsonl --rate 40 --replicas 16 --fail-at 60 --json

--json ends with one line: {policy, allocation, rate, slo_scale, slo_base, attainment, tightest_scale, num_programs,
num_requests, num_steps, num_tokens, accuracy, mean_latency, p50_latency, p90_latency, p99_latency, mean_wait, max_wait,
busy_share, num_preemptions, engine}; the same options and seed give the same line. A deadline is --slo-scale times
difficulty (1 always right, 2 sometimes, 3 never) times --slo-base, by default the mean latency of a program alone.

With --replicas there are so many engines, each with a scheduler of its own, and --routing sends each program to one of
them when it comes; the line then also has {num_replicas, routing, imbalance, hit_rate, num_restarted,
num_lost_tokens}, and busy_share is the mean over the replicas."""


def add_simulate_options(
    parser: argparse.ArgumentParser, natural: Callable[[str], int], seconds: Callable[[str], float]
) -> None:
    """What `simulate` takes."""
    group = parser.add_argument_group("programs")
    group.add_argument("--workload", nargs="+", required=True, metavar="FILE", help="lengths and answers")
    group.add_argument("--budget", type=natural, help="branches of a program (default: all recorded)")
    group.add_argument("--allocation", default="static", metavar="NAME|FILE", help="default: static")
    group.add_argument("--num-programs", type=natural, default=500, help="default: 500")
    group.add_argument(
        "--prompt-tokens", type=natural, default=DEFAULT_PROMPT_TOKENS, help="where a trace does not say"
    )
    group = parser.add_argument_group("arrivals")
    group.add_argument("--rate", type=seconds, help="programs a second (default: all at once)")
    group.add_argument("--burst", type=natural, default=1, help="programs that come together (default: 1)")
    group.add_argument("--arrivals", metavar="FILE", help="recorded times in seconds, one a line")
    group.add_argument("--seed", type=int, default=0)
    group = parser.add_argument_group("scheduling")
    known = ", ".join(sorted(SCHEDULING_POLICIES))
    group.add_argument("--policy", default="gang_sjf", help=f"one of: {known} (default: gang_sjf)")
    group.add_argument("--max-wait", type=seconds, default=300.0, help="ageing, in seconds (default: 300)")
    group.add_argument("--slo-scale", type=seconds, default=2.0, help="default: 2")
    group.add_argument("--slo-base", type=seconds, help="in seconds (default: a program alone)")
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--engine-steps", metavar="FILE.jsonl", help="measured steps, to fit the engine model to"
    )
    group.add_argument("--max-requests", type=natural, default=64, help="of a step (default: 64)")
    group.add_argument("--max-tokens", type=natural, default=2048, help="of a step (default: 2048)")
    group.add_argument("--num-blocks", type=natural, help="of 16 tokens (default: no limit)")
    group = parser.add_argument_group("replicas")
    group.add_argument("--replicas", type=natural, default=1, help="engines (default: 1)")
    known = ", ".join(sorted(ROUTING_POLICIES))
    group.add_argument("--routing", default="least_cost", help=f"one of: {known} (default: least_cost)")
    group.add_argument(
        "--shared-prompts", type=natural, metavar="N", help="prompts begin in one of N ways (default: unlike)"
    )
    group.add_argument("--shared-tokens", type=natural, default=1000, help="of each (default: 1000)")
    group.add_argument(
        "--fail-at",
        type=seconds,
        metavar="S",
        help="when a replica dies, to be noticed after 5 s and back after 60",
    )
    parser.add_argument("--outcomes", metavar="FILE.jsonl", help="write one line for each program")
    parser.add_argument("--json", action="store_true", help="print one JSON line")


def run_simulate(arguments: argparse.Namespace) -> int:
    """Simulate and report."""
    simulation = _make_simulation(arguments)
    if arguments.replicas > 1:
        fleet = _make_fleet(simulation, arguments).run()
        result, more = fleet.result, {"routing": arguments.routing, **fleet.summary()}
    else:
        _check_alone(arguments)
        result, more = simulation.run(), {}
    row = _describe(simulation, result, arguments) | more
    if arguments.outcomes:
        _write_outcomes(result, arguments.outcomes)
    print(json.dumps(row) if arguments.json else _format(row))
    return 0


def _make_simulation(arguments: argparse.Namespace) -> Simulation:
    workload = open_workload(
        arguments.workload, budget=arguments.budget, prompt_tokens=arguments.prompt_tokens
    )
    engine = _make_engine(arguments.engine_steps)
    limits = Limits(
        max_requests=arguments.max_requests, max_tokens=arguments.max_tokens, num_blocks=arguments.num_blocks
    )
    return Simulation(
        workload=workload,
        arrivals=_make_arrivals(arguments),
        num_programs=arguments.num_programs,
        scheduling=make_scheduling_policy(arguments.policy),
        allocation=parse_policy_spec(arguments.allocation).build_width(),
        engine=engine,
        limits=limits,
        ageing=Ageing(max_wait_s=arguments.max_wait),
        slo_scale=arguments.slo_scale,
        slo_base=arguments.slo_base or measure_alone(workload, engine, limits, seed=arguments.seed),
        seed=arguments.seed,
    )


def _make_fleet(simulation: Simulation, arguments: argparse.Namespace) -> Fleet:
    shared, fail_at = arguments.shared_prompts, arguments.fail_at
    return Fleet(
        simulation=simulation,
        num_replicas=arguments.replicas,
        routing=make_routing_policy(arguments.routing),
        beginnings=None
        if shared is None
        else SharedBeginnings(number=shared, tokens=arguments.shared_tokens),
        failures=() if fail_at is None else (Failure(replica=0, at=fail_at),),
    )


def _check_alone(arguments: argparse.Namespace) -> None:
    for option in ("shared_prompts", "fail_at"):
        if getattr(arguments, option) is not None:
            name = option.replace("_", "-")
            raise ConfigurationError(
                f"Got --{name} with one replica. Expected --replicas of at least 2 beside it."
            )


def _make_engine(steps: str | None) -> EngineModel:
    return LARGE_MODEL if steps is None else fit_engine(read_step_rows(steps), name=Path(steps).stem).model


def _make_arrivals(arguments: argparse.Namespace) -> Arrivals:
    if arguments.arrivals is not None:
        if arguments.rate is not None:
            raise ConfigurationError(
                "Got --rate with --arrivals: recorded times have their own. Expected one."
            )
        return RecordedArrivals(times=_read_times(arguments.arrivals))
    if arguments.rate is None:
        return at_once(arguments.num_programs)
    if arguments.burst > 1:
        return Bursts(rate=arguments.rate, size=arguments.burst)
    return Poisson(rate=arguments.rate)


def _read_times(path: str) -> tuple[float, ...]:
    try:
        return tuple(float(line) for line in Path(path).read_text(encoding="utf-8").split())
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}.") from None
    except ValueError as error:
        raise InputError(f"{path} holds no times ({error}). Expected seconds, one a line.") from None


def _describe(
    simulation: Simulation, result: SimulationResult, arguments: argparse.Namespace
) -> dict[str, Any]:
    scale, base = arguments.slo_scale, simulation.slo_base
    return {
        "workload": simulation.workload.name,
        "policy": simulation.scheduling.name,
        "allocation": arguments.allocation,
        "rate": arguments.rate,
        "slo_scale": scale,
        "slo_base": round(base, 6),
        "attainment": round(result.attainment(scale, base), 6),
        "tightest_scale": round(result.tightest_scale(base), 6),
        **result.summary(),
        "engine": simulation.engine.to_dict(),
    }


def _format(row: dict[str, Any]) -> str:
    rate = "all at once" if row["rate"] is None else f"{row['rate']:g} programs/s"
    return _format_replicas(row) + (
        f"{row['num_programs']} programs of {row['workload']}, {rate}, policy {row['policy']}, "
        f"allocation {row['allocation']}, {row['engine']['name']}\n"
        f"latency      mean {row['mean_latency']:.2f} s, P50 {row['p50_latency']:.2f}, "
        f"P90 {row['p90_latency']:.2f}, P99 {row['p99_latency']:.2f}\n"
        f"deadlines    {row['attainment']:.1%} met at scale {row['slo_scale']:g} (base {row['slo_base']:.2f} s); "
        f"90% meet scale {row['tightest_scale']:.2f}\n"
        f"accuracy     {row['accuracy']:.1%} with {row['num_tokens']:,} tokens in {row['num_requests']:,} requests\n"
        f"engine       busy {row['busy_share']:.0%} of the time, {row['num_steps']:,} steps, "
        f"{row['num_preemptions']:,} preemptions"
    )


def _format_replicas(row: dict[str, Any]) -> str:
    if "num_replicas" not in row:
        return ""
    lost = f", {row['num_restarted']:,} programs begun anew" if row["num_restarted"] else ""
    return (
        f"{row['num_replicas']} replicas, routing {row['routing']}, the busiest {row['imbalance']:.2f} x the mean, "
        f"{row['hit_rate']:.0%} of shared prompts held{lost}\n"
    )


def _write_outcomes(result: SimulationResult, path: str) -> None:
    try:
        with Path(path).open("w", encoding="utf-8") as file:
            for outcome in result.outcomes:
                file.write(json.dumps(outcome.to_dict()) + "\n")
    except OSError as error:
        raise InputError(
            f"Cannot write {path}: {error.strerror}. Choose a file in a folder that exists."
        ) from None


__all__ = ["SIMULATE_EPILOG", "add_simulate_options", "run_simulate"]
