"""Programs in the real engine, scheduled by each policy, and the same in the simulator fitted to that engine.

64 self-consistency programs of the embedded model arrive at random, the same for all; the engine runs 16 requests at a
time, so that programs queue. Each policy runs with the whole budget for everybody ("even") and with certaindex (a
static threshold). Then the simulator runs the same programs, its engine model fitted to the measured steps: to those
of all runs together ("common"), and to those of the same run ("own").

Time stands still while programs parse and vote. `--clock cpu`, the default, is the processor time of the engine's thread. A
shared machine changes its speed from one minute to the next, and a queue multiplies that; so all runs are under way
at once, each with an engine of its own, and take turns of `--slice` seconds: what slows one slows all. `--slice 0` runs one
after the other. `--clock normalised` also times a fixed piece of work (half small products, half Python) ten times a
second of the engine's, and counts the seconds of a machine on which it always takes 4 ms: so runs of several processes
(`--raw`, `--only`) can be put together. `--clock work` counts 4 ms for each real step of the engine and 0.2 ms for each token that it draws
(round figures of an idle core): the engine, its tokens and its decisions are real, and nothing else changes the time.
About four minutes of processor time on one thread.

    python benchmarks/engine_scheduling.py [--output benchmarks/results/engine_scheduling_cpu.json] [--raw runs.json]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from engine_clock import EngineClock, Outcome, Rotation, Turn
from engine_scheduling_report import (
    MAX_TOKENS,
    MAX_WAIT_S,
    QUESTION_SEED,
    describe_run,
    evaluate,
    format_table,
    make_recipe,
    make_workload,
)

from hf_dynasor.embedded.problems import generate_problems
from hf_dynasor.program_run import ProgramRun
from hf_dynasor.recipe import Recipe
from hf_dynasor.scheduler import Ageing
from hf_dynasor.scheduler.simulate import Poisson, StepRow
from hf_dynasor.serving import ContinuousBatchingEngine, LoadedModel, load_model

POLICIES = ("fcfs", "lpm", "gang", "gang_sjf")
ALLOCATIONS = ("even", "static")
RUNS = tuple(product(ALLOCATIONS, POLICIES))
NUM_BLOCKS = 1024
WATCH_S = 0.002
TIMEOUT_S = 3600.0


class EngineRun:
    """All programs through one real engine.

    Args:
        loaded: The model.
        policy: Who goes first.
        recipe: The programs.
        times: When they come.
        options: Clock and places.
        rotation: Whose turn it is, with others.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        policy: str,
        recipe: Recipe,
        times: Sequence[float],
        options: argparse.Namespace,
        rotation: Rotation | None = None,
    ) -> None:
        self._clock = EngineClock(options.clock, rotation)
        self._num_programs = len(times)
        self.engine = engine = ContinuousBatchingEngine(
            loaded,
            scheduler=policy,
            ageing=Ageing(max_wait_s=MAX_WAIT_S),
            clock=self._clock,
            num_blocks=NUM_BLOCKS,
            max_batch_requests=options.max_requests,
            max_batch_tokens=MAX_TOKENS,
            num_step_rows=100_000,
            reward=None,
        )
        problems = generate_problems(len(times), seed=QUESTION_SEED, split="test")

        def start(problem: Any, sink: Any) -> ProgramRun:
            program, allocation = recipe.build(problem.question)
            return ProgramRun(program, engine, allocation, sink)

        self._turn = Turn([(at, partial(start, item)) for at, item in zip(times, problems, strict=True)])
        self._clock.attach(engine, self._turn)

    @property
    def yardsticks(self) -> list[float]:
        """What the clock's yardstick took, in seconds, in the order of time."""
        return self._clock.yardsticks

    @property
    def is_over(self) -> bool:
        """Whether every program has its answer."""
        return len(self._turn.outcomes) == self._num_programs

    @property
    def outcomes(self) -> list[Outcome]:
        """What became of the programs, in the order of their arrival."""
        return [self._turn.outcomes[index] for index in range(self._num_programs)]

    def watch(self) -> None:
        """Skip the time in which nothing runs, and see that the engine lives."""
        if self._turn.is_idle and (next_arrival := self._turn.next_arrival) is not None:
            self._clock.skip_to(next_arrival)
        self.engine.check_health()


def run_engines(runs: Sequence[EngineRun]) -> None:
    """Run all to their ends."""
    deadline = time.monotonic() + TIMEOUT_S
    while not all(run.is_over for run in runs):
        if time.monotonic() > deadline:
            raise SystemExit(f"The runs did not end within {TIMEOUT_S:g} s.")
        for run in runs:
            run.watch()
        time.sleep(WATCH_S)


def find_capacity(loaded: LoadedModel, recipe: Recipe, options: argparse.Namespace) -> float:
    """Programs a second that the engine does at the full budget with all places taken, from a few at once."""
    count = 8
    run = EngineRun(loaded, "fcfs", recipe, [0.0] * count, options)
    with run.engine:
        run_engines([run])
        steps: tuple[StepRow, ...] = run.engine.step_rows
    full = [step.seconds for step in steps if step.num_requests == options.max_requests]
    tokens_a_second = options.max_requests * len(full) / sum(full)
    return tokens_a_second * count / sum(outcome.answer.usage.net_tokens for outcome in run.outcomes)


def main() -> None:
    """Run the engine, fit the simulator, run it, compare."""
    options = _parse()
    torch.set_num_threads(1)
    raw = measure(options)
    if missing := {name_run(*RUNS[0]), name_run("static", "gang_sjf")} - set(raw["runs"]):
        print(
            f"{len(raw['runs'])} runs are kept in {options.raw}; to compare, run {', '.join(sorted(missing))} too."
        )
        return
    result = evaluate(raw, options)
    print(format_table(result))
    print(json.dumps(result))
    if options.output:
        Path(options.output).write_text(json.dumps(result) + "\n")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The runs of the real engine that are not kept yet, with those that are, ready for JSON."""
    kept = Path(options.raw) if options.raw else None
    if kept is not None and kept.is_file():
        raw: dict[str, Any] = json.loads(kept.read_text())
    else:
        raw = {"runs": {}}
    wanted = [run for run in RUNS if not options.only or name_run(*run) in options.only]
    left = [run for run in wanted if name_run(*run) not in raw["runs"]]
    if left:
        _measure_left(raw, left, options)
    if kept is not None:
        kept.write_text(json.dumps(raw))
    return raw


def _measure_left(raw: dict[str, Any], left: Sequence[tuple[str, str]], options: argparse.Namespace) -> None:
    loaded = load_model(device="cpu")
    recipes = {name: make_recipe(name, options) for name in ALLOCATIONS}
    if "times" not in raw:
        raw["capacity"] = options.capacity or find_capacity(loaded, recipes["even"], options)
        rate = options.load * raw["capacity"]
        raw["times"] = Poisson(rate=rate).draw(options.num_programs, random.Random("arrivals"))
    rotation = Rotation(options.slice) if options.slice else None
    for group in [left] if rotation else [[each] for each in left]:
        with ExitStack() as stack:
            runs = [
                EngineRun(loaded, policy, recipes[allocation], raw["times"], options, rotation)
                for allocation, policy in group
            ]
            for run in runs:
                stack.enter_context(run.engine)
            run_engines(runs)
            for (allocation, policy), run in zip(group, runs, strict=True):
                raw["runs"][name_run(allocation, policy)] = _keep(policy, allocation, run)
                if allocation == "even" and "workload" not in raw:
                    raw["workload"] = make_workload(run.outcomes).to_dict()


def _keep(policy: str, allocation: str, run: EngineRun) -> dict[str, Any]:
    steps = run.engine.step_rows
    row = describe_run(policy, allocation, run.outcomes, steps)
    if run.yardsticks:
        row["yardstick_ms"] = round(1000 * statistics.fmean(run.yardsticks), 3)
    return {"row": row, "steps": [list(asdict(step).values()) for step in steps]}


def name_run(allocation: str, policy: str) -> str:
    """What a run is called on the command line."""
    return f"{policy}+{allocation}"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-programs", type=int, default=64)
    parser.add_argument("--budget", type=int, default=20)
    parser.add_argument("--max-requests", type=int, default=16, help="requests of a step")
    parser.add_argument("--load", type=float, default=1.5, help="of the engine's capacity at the full budget")
    parser.add_argument("--capacity", type=float, help="programs a second, instead of measuring it")
    parser.add_argument("--clock", default="cpu", choices=("cpu", "normalised", "work"))
    parser.add_argument(
        "--slice", type=float, default=0.25, metavar="S", help="turns of the runs; 0: one after the other"
    )
    parser.add_argument("--output", metavar="FILE.json")
    parser.add_argument("--raw", metavar="FILE.json", help="keep what is measured, and go on from it")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[name_run(*run) for run in RUNS],
        help="measure these now, with --raw; the comparison follows once all are there",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
