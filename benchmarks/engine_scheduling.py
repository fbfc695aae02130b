"""Programs in the real engine, scheduled by each policy, and the same in the simulator fitted to that engine.

64 self-consistency programs of the embedded model arrive at random, the same for all; the engine runs 16 requests at a
time, so that programs queue. Each policy runs with the whole budget for everybody ("even") and with certaindex (a
static threshold). Then the simulator runs the same programs, its engine model fitted to the measured steps: to those
of the same run ("own"), and to those of all runs together ("common"), which a machine that changes its speed between
runs makes worse.

Time stands still while programs parse and vote. `--clock work`, the default, counts 4 ms for each real step of the
engine and 0.2 ms for each token that it draws (what an idle core measures, in round figures): the engine, its tokens and
its decisions are real, and other work on the machine changes nothing. `--clock cpu` is the processor time of the engine's
thread; on a shared machine a step then takes 7 to 11 ms from one minute to the next, and a queue multiplies that. About
six minutes of processor time on one thread; `--only` splits it over processes, `--from-raw` puts their files together.

    python benchmarks/engine_scheduling.py [--output benchmarks/results/engine_scheduling.json] [--raw runs.json]
"""

from __future__ import annotations

import argparse
import json
import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from hf_dynasor.answers import group_answers, is_correct
from hf_dynasor.core import Event
from hf_dynasor.embedded.problems import generate_problems
from hf_dynasor.grants import Answer
from hf_dynasor.program_run import ProgramRun
from hf_dynasor.recipe import Recipe
from hf_dynasor.scheduler import Ageing, Limits, make_scheduling_policy
from hf_dynasor.scheduler.simulate import (
    EngineFit,
    EngineModel,
    Poisson,
    RecordedArrivals,
    RecordedBranch,
    RecordedQuestion,
    Simulation,
    StepRow,
    Workload,
    fit_engine,
    quantile,
)
from hf_dynasor.serving import ContinuousBatchingEngine, LoadedModel, load_model

POLICIES = ("fcfs", "lpm", "gang", "gang_sjf")
ALLOCATIONS = ("even", "static")
STEP_FIELDS = ("num_requests", "num_context_tokens", "num_prefill_tokens", "seconds")
QUESTION_SEED = 2026
MAX_TOKENS = 512
MAX_WAIT_S = 1e6
STEP_S, TOKEN_S = 0.004, 0.0002
"""What the clock `work` counts for a step and for a token."""
WATCH_S = 0.002
TIMEOUT_S = 3600.0


class EngineClock:
    """Seconds of the engine's thread, or of its work; skips what is idle, and stands still while programs work."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._engine: ContinuousBatchingEngine | None = None
        self._thread: threading.Thread | None = None
        self._offset = 0.0
        self._turn: Turn | None = None
        self._lock = threading.RLock()
        self._is_busy = False

    def attach(self, engine: ContinuousBatchingEngine, turn: Turn) -> None:
        """From now on, beginning at 0; `turn` is called whenever the engine asks for the time."""
        self._engine, self._thread, self._turn = engine, engine.thread, turn
        self._offset = -self._read()

    def now(self) -> float:
        """The time; programs have their turn first if the engine asks."""
        with self._lock:
            if self._turn is not None and not self._is_busy and threading.current_thread() is self._thread:
                self._run_turn(self._turn)
            return self._offset + self._read() if self._thread else 0.0

    def skip_to(self, seconds: float) -> None:
        """Nothing runs before that time: let programs have their turn then."""
        with self._lock:
            if self._turn is not None and self._turn.is_idle:
                self._offset += max(0.0, seconds - self._offset - self._read())
                self._run_turn(self._turn)

    def _run_turn(self, turn: Turn) -> None:
        self._is_busy = True
        before = self._read()
        turn.run(self._offset + before)
        self._is_busy = False
        self._offset -= self._read() - before

    def _read(self) -> float:
        if self._kind == "work":
            assert self._engine is not None
            return STEP_S * self._engine.progress + TOKEN_S * self._engine.num_tokens_drawn
        assert self._thread is not None
        return time.clock_gettime(time.pthread_getcpuclockid(self._thread.ident or 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One program: seconds from its arrival to its answer, and the answer."""

    latency: float
    answer: Answer


class Turn:
    """What drivers do: start programs that arrived, hand over completions. Whoever holds the clock runs it."""

    def __init__(self, runs: Sequence[tuple[float, Any]], clock: EngineClock) -> None:
        self._waiting = deque(runs)
        self._clock = clock
        self._events: deque[Event] = deque()
        self._active: dict[str, tuple[int, float, ProgramRun]] = {}
        self.outcomes: dict[int, Outcome] = {}
        self.num_started = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in flight."""
        return not self._active

    @property
    def next_arrival(self) -> float | None:
        """When the next program comes; `None` after the last."""
        return self._waiting[0][0] if self._waiting else None

    def run(self, now: float) -> None:
        """Everything that can be done at this time."""
        while self._waiting and self._waiting[0][0] <= now:
            arrived_at, start = self._waiting.popleft()
            program_run = start(self._events.append)
            self._active[program_run.program_id] = (self.num_started, arrived_at, program_run)
            self.num_started += 1
            program_run.start()
        while self._events:
            event = self._events.popleft()
            index, arrived_at, program_run = self._active[event.key.program_id]
            program_run.deliver(event)
            if program_run.answer is not None:
                del self._active[event.key.program_id]
                self.outcomes[index] = Outcome(latency=now - arrived_at, answer=program_run.answer)


def run_engine(
    loaded: LoadedModel, policy: str, recipe: Recipe, times: Sequence[float], options: argparse.Namespace
) -> tuple[list[Outcome], tuple[StepRow, ...]]:
    """All programs through the real engine."""
    clock = EngineClock(options.clock)
    with ContinuousBatchingEngine(
        loaded,
        scheduler=policy,
        ageing=Ageing(max_wait_s=MAX_WAIT_S),
        clock=clock,
        max_batch_requests=options.max_requests,
        max_batch_tokens=MAX_TOKENS,
        num_step_rows=100_000,
        reward=None,
    ) as engine:
        problems = generate_problems(len(times), seed=QUESTION_SEED, split="test")

        def start(problem: Any, sink: Any) -> ProgramRun:
            program, allocation = recipe.build(problem.question)
            return ProgramRun(program, engine, allocation, sink)

        turn = Turn([(at, partial(start, item)) for at, item in zip(times, problems, strict=True)], clock)
        clock.attach(engine, turn)
        deadline = time.monotonic() + TIMEOUT_S
        while len(turn.outcomes) < len(times) and time.monotonic() < deadline:
            if turn.is_idle and (next_arrival := turn.next_arrival) is not None:
                clock.skip_to(next_arrival)
            engine.check_health()
            time.sleep(WATCH_S)
        return [turn.outcomes[index] for index in range(len(times))], engine.step_rows


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


def find_capacity(loaded: LoadedModel, recipe: Recipe, options: argparse.Namespace) -> float:
    """Programs a second that the engine does at the full budget with all places taken, from a few at once."""
    count = 8
    outcomes, steps = run_engine(loaded, "fcfs", recipe, [0.0] * count, options)
    full = [step.seconds for step in steps if step.num_requests == options.max_requests]
    tokens_a_second = options.max_requests * len(full) / sum(full)
    return tokens_a_second * count / sum(outcome.answer.usage.net_tokens for outcome in outcomes)


def main() -> None:
    """Run the engine, fit the simulator, run it, compare."""
    options = _parse()
    torch.set_num_threads(1)
    raw = join(options.from_raw) if options.from_raw else measure(options)
    if options.raw:
        Path(options.raw).write_text(json.dumps(raw))
    if options.only:
        return
    result = evaluate(raw, options)
    print(_format(result))
    print(json.dumps(result))
    if options.output:
        Path(options.output).write_text(json.dumps(result) + "\n")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All runs of the real engine, ready for JSON."""
    loaded = load_model(device="cpu")
    recipes = {name: make_recipe(name, options) for name in ALLOCATIONS}
    capacity = find_capacity(loaded, recipes["even"], options)
    times = Poisson(rate=options.load * capacity).draw(options.num_programs, random.Random("arrivals"))
    rows: list[dict[str, Any]] = []
    runs: list[list[list[float]]] = []
    workload = None
    for allocation, policy in product(ALLOCATIONS, POLICIES):
        if options.only and f"{policy}+{allocation}" not in options.only:
            continue
        outcomes, steps = run_engine(loaded, policy, recipes[allocation], times, options)
        if workload is None and allocation == "even":
            workload = make_workload(outcomes)
        runs.append([list(asdict(step).values()) for step in steps])
        rows.append(_describe_run(policy, allocation, outcomes, steps))
        print(json.dumps(rows[-1]), flush=True)
    return {
        "capacity": capacity,
        "times": times,
        "rows": rows,
        "steps": runs,
        "workload": workload and workload.to_dict(),
    }


def join(paths: Sequence[str]) -> dict[str, Any]:
    """What several processes measured, each some of the runs, in the order of one."""
    parts = [json.loads(Path(path).read_text()) for path in paths]
    if any(part["times"] != parts[0]["times"] for part in parts):
        raise SystemExit("The files hold different arrivals.")
    pairs = [pair for part in parts for pair in zip(part["rows"], part["steps"], strict=True)]
    pairs.sort(key=lambda pair: (ALLOCATIONS.index(pair[0]["allocation"]), POLICIES.index(pair[0]["policy"])))
    workload = next(part["workload"] for part in parts if part["workload"])
    rows, steps = zip(*pairs, strict=True)
    return {**parts[0], "rows": rows, "steps": steps, "workload": workload}


def make_recipe(allocation: str, options: argparse.Namespace) -> Recipe:
    """Self-consistency with this allocation."""
    return Recipe(budget=options.budget, policy=allocation, seed=0)


def evaluate(raw: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Fit the simulator to the steps and compare."""
    runs = [[StepRow(**dict(zip(STEP_FIELDS, step, strict=True))) for step in run] for run in raw["steps"]]
    workload = Workload.from_dict(raw["workload"])
    every = [step for run in runs for step in run]
    # A processor core has no requests for free, so the model is linear.
    common = fit_engine(every[:: len(runs)], name="embedded, one thread", saturating=False)
    rows = []
    for row, steps in zip(raw["rows"], runs, strict=True):
        allocation = make_recipe(row["allocation"], options).build_policy()
        run = partial(
            simulate, workload, row["policy"], allocation, raw["times"], places=options.max_requests
        )
        own = fit_engine(steps, name="embedded, this run", saturating=False)
        rows.append(
            compare(row, own=describe(run(model=own.model)), common=describe(run(model=common.model)))
        )
    return _summarise(rows, options, capacity=raw["capacity"], fit=common)


def _describe_run(
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
        "rate": round(options.load * capacity, 4),
        "load_of_even": options.load,
        "capacity": round(capacity, 4),
        "model": fit.model.to_dict(),
        "fit_error": round(fit.mean_error, 4),
        "rows": [{**row, "to_fcfs_even": round(row["engine"]["mean"] / base, 3)} for row in rows],
        "bar": {"most": 0.4, "is": round(ours["engine"]["mean"] / base, 3)},
        "largest_error": worst,
        "pairs_ranked_otherwise": _list_inversions(rows),
    }


def _list_inversions(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Pairs of runs whose means the simulator ranks the other way, with how far they are apart in the engine."""
    found = []
    for index, one in enumerate(rows):
        for other in rows[index + 1 :]:
            engine = one["engine"]["mean"] - other["engine"]["mean"]
            if engine * (one["simulator_own_fit"]["mean"] - other["simulator_own_fit"]["mean"]) < 0:
                names = [f"{row['policy']} {row['allocation']}" for row in (one, other)]
                found.append([*names, f"{abs(engine) / one['engine']['mean']:.1%} apart"])
    return found


def _format(result: dict[str, Any]) -> str:
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


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-programs", type=int, default=64)
    parser.add_argument("--budget", type=int, default=20)
    parser.add_argument("--max-requests", type=int, default=16, help="requests of a step")
    parser.add_argument("--load", type=float, default=1.5, help="of the engine's capacity at the full budget")
    parser.add_argument("--clock", default="work", choices=("work", "cpu"))
    parser.add_argument("--output", metavar="FILE.json")
    parser.add_argument("--raw", metavar="FILE.json", help="write everything that was measured")
    parser.add_argument("--only", nargs="+", metavar="POLICY+ALLOCATION", help="measure these, with --raw")
    parser.add_argument(
        "--from-raw", nargs="+", metavar="FILE.json", help="do the simulator's half on what was measured"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
