"""Programs in process, over the remote engine to our own server, and over it to `transformers serve`: what the way costs.

Self-consistency of up to 20 samples (static threshold) on the embedded model, one question after the other, each on all
sides before the next: in process (continuous batching), over `hf-dynasor serve`, and over `transformers serve
--continuous-batching`. Where seeds are honoured the answers must be equal. Then requests of one token, one after the other,
tell what a request costs before the model does anything. A server that is not asked is stopped (SIGSTOP). Quote the ratios; other work
on the machine counts for little in processor time, which is that of this process and of the server together.

    python benchmarks/remote.py [--questions 20] [--budget 20] [--requests 40] [--output FILE.json]

Prints a table and one line of JSON last.
"""

from __future__ import annotations

import argparse
import json
import queue
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from served import OtherServer, Process, Server

from hf_dynasor.answers import is_correct
from hf_dynasor.core import Completion, Event, Generate, Prompt, RequestKey, SamplingParams
from hf_dynasor.embedded import REASONER_PATH
from hf_dynasor.embedded.problems import generate_problems
from hf_dynasor.engine import Ability, Engine
from hf_dynasor.evaluation import wilson_interval
from hf_dynasor.serving import load_model, make_engine
from hf_dynasor.serving.remote import RemoteEngine
from hf_dynasor.serving.solver import Solver

HERE, OURS, THEIRS = "in process", "hf_dynasor", "transformers serve"
QUESTION_SEED = 41
TIMEOUT_S = 600.0


@dataclass
class Side:
    """One way to the model, and what was found over it."""

    name: str
    engine: Engine
    server: Process | None = None
    answers: list[str | None] = field(default_factory=list)
    net_tokens: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    processor_s: list[float] = field(default_factory=list)
    request_s: list[float] = field(default_factory=list)
    request_processor_s: list[float] = field(default_factory=list)

    @property
    def honours_seeds(self) -> bool:
        """Whether a request's seed decides its draws."""
        return Ability.SEEDS in self.engine.abilities

    def measure(self, work: Callable[[], Any]) -> tuple[Any, float, float]:
        """What came of the work, its seconds, and the processor time of both ends."""
        if self.server is not None:
            self.server.go_on()
        before, begin = self._read_processor_s(), time.perf_counter()
        found = work()
        seconds = time.perf_counter() - begin
        spent = self._read_processor_s() - before
        if self.server is not None:
            self.server.pause()
        return found, seconds, spent

    def _read_processor_s(self) -> float:
        return time.process_time() + (self.server.read_cpu_s() if self.server is not None else 0.0)


def solve(side: Side, question: str, budget: int) -> None:
    """One question on one side."""
    options = {"seed": 0} if side.honours_seeds else {}
    solver = Solver(
        side.engine, budget=budget, policy="static", temperature=0.7, max_new_tokens=128, **options
    )
    answer, seconds, spent = side.measure(partial(solver.solve, question))
    side.answers.append(answer.text)
    side.net_tokens.append(answer.usage.net_tokens)
    side.seconds.append(seconds)
    side.processor_s.append(spent)


def ask_for_a_token(side: Side, number: int) -> None:
    """One request that generates one token."""
    done: queue.Queue[Event] = queue.Queue()
    request = Generate(
        key=RequestKey(program_id="overhead", request_id=f"{number}"),
        prompt=Prompt.chat("What is 2+3?"),
        # Sampled as the programs are: `transformers serve` keeps to the settings of its first request.
        sampling=SamplingParams(max_new_tokens=1, temperature=0.7),
    )

    def run() -> None:
        side.engine.submit([request], done.put)
        while not isinstance(done.get(timeout=TIMEOUT_S), Completion):
            pass

    _, seconds, spent = side.measure(run)
    side.request_s.append(seconds)
    side.request_processor_s.append(spent)


def open_sides(stack: ExitStack) -> list[Side]:
    """The three ways, with servers of their own."""
    ours = Server("--model", "embedded", "--dtype", "float32", "--device", "cpu")
    stack.callback(ours.end)
    stack.callback(ours.go_on)
    theirs = OtherServer(str(REASONER_PATH), "--dtype", "float32")
    stack.callback(theirs.end)
    here = make_engine(
        load_model("embedded", dtype="float32", device="cpu"), engine="continuous", reward=None
    )
    sides = [Side(HERE, here)]
    for name, server, model in ((OURS, ours, None), (THEIRS, theirs, str(REASONER_PATH))):
        sides.append(Side(name, RemoteEngine(f"{server.address}/v1", model=model), server))
    for side in sides:
        stack.callback(side.engine.close)
        if side.server is not None:
            side.server.pause()
    return sides


def describe(side: Side, base: Side, references: list[str]) -> dict[str, Any]:
    """A side's figures, and as shares of those in process."""
    num_right = sum(is_correct(text, wanted) for text, wanted in zip(side.answers, references, strict=True))
    equal = sum(a == b for a, b in zip(side.answers, base.answers, strict=True))
    low, high = wilson_interval(num_right, len(references))

    def compare(name: str) -> float:
        return round(sum(getattr(side, name)) / sum(getattr(base, name)), 3)

    def compare_medians(name: str) -> float:
        return round(statistics.median(getattr(side, name)) / statistics.median(getattr(base, name)), 2)

    return {
        "honours_seeds": side.honours_seeds,
        "num_equal_answers": equal,
        "num_equal_tokens": sum(a == b for a, b in zip(side.net_tokens, base.net_tokens, strict=True)),
        "num_right": num_right,
        "accuracy_95": [round(low, 3), round(high, 3)],
        "net_tokens": sum(side.net_tokens),
        "net_tokens_ratio": compare("net_tokens"),
        "seconds_ratio": compare("seconds"),
        "processor_ratio": compare("processor_s"),
        "request_ms": round(1000 * statistics.median(side.request_s), 2),
        "request_ratio": compare_medians("request_s"),
        "request_processor_ratio": compare("request_processor_s"),
    }


def main() -> None:
    """Ask, compare, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--budget", type=int, default=20)
    parser.add_argument("--requests", type=int, default=40, help="of one token, to tell the overhead")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    problems = generate_problems(arguments.questions, seed=QUESTION_SEED, split="test")
    with ExitStack() as stack:
        sides = open_sides(stack)
        for side in sides:  # the first requests have kernels compiled for them
            solve(side, "What is 2+3?", arguments.budget)
            for results in (side.answers, side.net_tokens, side.seconds, side.processor_s):
                results.clear()
        for problem in problems:
            for side in sides:
                solve(side, problem.question, arguments.budget)
        for number in range(arguments.requests):
            for side in sides:
                ask_for_a_token(side, number)
        references = [problem.answer for problem in problems]
        rows = {side.name: describe(side, sides[0], references) for side in sides}
    for name, row in rows.items():
        print(
            f"{name:18}  equal {row['num_equal_answers']}/{len(problems)}, right {row['num_right']}, net tokens "
            f"{row['net_tokens']} ({row['net_tokens_ratio']} x), time {row['seconds_ratio']} x, processor "
            f"{row['processor_ratio']} x, a request {row['request_ms']} ms ({row['request_ratio']} x)"
        )
    report = {
        "benchmark": "remote",
        "num_questions": len(problems),
        "budget": arguments.budget,
        "num_requests": arguments.requests,
        "sides": rows,
    }
    if arguments.output:
        arguments.output.write_text(json.dumps(report) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
