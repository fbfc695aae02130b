"""Chains of thought as a program: raw, guided, cut and probed, and several chains that stop together.

Every side answers the same generated questions over one engine. Net tokens count probes with their suffixes and
forced tokens. Prints a table, then one JSON line.

    OMP_NUM_THREADS=1 python benchmarks/chain_of_thought.py [--num-questions 300] [--sides probed-boundary ...]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from hf_dynasor.answers import is_correct
from hf_dynasor.core import Prompt, SamplingParams
from hf_dynasor.drivers import run_many
from hf_dynasor.embedded.problems import Problem, generate_problems
from hf_dynasor.engine import Engine
from hf_dynasor.evaluation import paired_difference, wilson_interval
from hf_dynasor.program import ReasoningProgram, derive_seed
from hf_dynasor.program_options import MIN_THINKING
from hf_dynasor.programs import ChainConsistency, ChainOfThought, ChainSettings
from hf_dynasor.scheduler import Even
from hf_dynasor.serving import load_model, make_engine
from hf_dynasor.stopping import AnswerConsistency, BoundaryConfidence

QUESTION_SEED = 2027
WIDTH = 5
RESUME = "\n\nWait, let me double check.\n\n"
# The rules are those of benchmarks/early_exit.py; their settings were chosen on other questions.
CONSISTENCY = AnswerConsistency(window=3, interval=16)
BOUNDARY = BoundaryConfidence(threshold=0.99, statistic="minimum", min_gap=16)
CHAINS: Mapping[str, ChainSettings] = {
    "raw": ChainSettings(mode="plain"),
    "guided": ChainSettings(mode="guided", resume=RESUME),
    "cut": ChainSettings(mode="cut", rule=AnswerConsistency(window=3, interval=1), resume=RESUME),
    "guided-late": ChainSettings(mode="guided", resume=RESUME, min_thinking=MIN_THINKING),
    "cut-late": ChainSettings(
        mode="cut", rule=AnswerConsistency(window=3, interval=1), resume=RESUME, min_thinking=MIN_THINKING
    ),
    # At the end of steps, once the thought is 64 tokens long, and with no text to resume with: chosen on questions of seed 4711.
    "guided-steps": ChainSettings(mode="guided", at_steps=True, min_thinking=64),
    "cut-steps": ChainSettings(mode="cut", at_steps=True, rule=BOUNDARY, min_thinking=64),
    "probed-never": ChainSettings(interval=16, suffix="short"),
    "probed-consistency": ChainSettings(rule=CONSISTENCY, suffix="short"),
    "probed-boundary": ChainSettings(rule=BOUNDARY, suffix="short"),
}
VOTES: Mapping[str, tuple[ChainSettings, bool]] = {
    "5 raw chains": (ChainSettings(mode="plain"), False),
    "5 raw chains, decided": (ChainSettings(mode="plain"), True),
    "5 probed chains": (ChainSettings(rule=BOUNDARY, suffix="short"), False),
    "5 probed chains, decided": (ChainSettings(rule=BOUNDARY, suffix="short"), True),
}
PAIRS = {"5 raw chains, decided": "5 raw chains", "5 probed chains": "5 raw chains"}
PAIRS["5 probed chains, decided"] = "5 raw chains"


@dataclass(slots=True, kw_only=True)
class Side:
    """What one way of answering came to."""

    correct: list[float] = field(default_factory=list)
    usage: dict[str, int] = field(default_factory=dict)
    num_early: int = 0


def main() -> None:
    """Run every side and report."""
    options = _parse()
    torch.set_num_threads(1)
    loaded = load_model(options.model, dtype="float32", device="cpu")
    problems = generate_problems(
        options.num_questions, seed=QUESTION_SEED, levels=(1, 2, 3, 4, 5, 6), split="test"
    )
    sides: dict[str, Side] = {}
    for name in options.sides:
        engine = make_engine(loaded, engine=options.engine)
        try:
            sides[name] = _run(engine, problems, name, options)
        finally:
            engine.close()
        print(f"{name}: {sum(sides[name].correct) / len(problems):.1%}, {sides[name].usage}", flush=True)
    _report(loaded.name, sides, options)


def _run(engine: Engine, problems: Sequence[Problem], name: str, options: argparse.Namespace) -> Side:
    make = _choose(name)
    side, correct = Side(), [0.0] * len(problems)
    programs = (
        (make(Prompt.chat(problem.question, enable_thinking=True), _sample(options, index)), Even())
        for index, problem in enumerate(problems)
    )
    for outcome in run_many(programs, engine, max_active=options.max_active):
        if outcome.error is not None or outcome.answer is None:
            raise SystemExit(f"question {outcome.index} ended with {outcome.error}")
        text, answer = outcome.answer.text, problems[outcome.index].answer
        correct[outcome.index] = float(text is not None and is_correct(text, answer))
        for key, value in outcome.usage.to_dict().items():
            side.usage[key] = side.usage.get(key, 0) + value
        side.num_early += outcome.answer.stop_reason.value == "certain"
    side.correct = correct
    return side


def _sample(options: argparse.Namespace, index: int) -> SamplingParams:
    return SamplingParams(
        temperature=options.temperature,
        max_new_tokens=options.max_new_tokens,
        seed=derive_seed(options.seed, index),
    )


def _choose(name: str) -> Callable[[Prompt, SamplingParams], ReasoningProgram]:
    if name in VOTES:
        settings, stop_decided = VOTES[name]
        return lambda prompt, sampling: ChainConsistency(
            prompt, budget=WIDTH, sampling=sampling, settings=settings, stop_decided=stop_decided
        )
    return lambda prompt, sampling: ChainOfThought(
        prompt, budget=sampling.max_new_tokens, sampling=sampling, settings=CHAINS[name]
    )


def _report(model: str, sides: Mapping[str, Side], options: argparse.Namespace) -> None:
    rows = [_summarise(name, side, sides.get(PAIRS.get(name, "raw"))) for name, side in sides.items()]
    print(f"\n{'':26} accuracy (95%)            difference (95%)             net tokens  early")
    for row in rows:
        low, high = row["accuracy_interval"]
        words = f"{row['side']:26} {row['accuracy']:6.1%} ({low:.1%} to {high:.1%})"
        if "difference" in row:
            first, last = row["difference_interval"]
            words += f"  {row['difference'] * 100:+5.1f} ({first * 100:+5.1f} to {last * 100:+5.1f}) points"
            words += f"  {row['token_ratio']:8.3f}"
        print(f"{words}  {row['early_rate']:5.0%}")
    settings = {name: value for name, value in vars(options).items() if name not in ("model", "sides")}
    print(json.dumps({"benchmark": "chain_of_thought", "model": model, **settings, "sides": rows}))


def _summarise(name: str, side: Side, base: Side | None) -> dict[str, Any]:
    num_right = int(sum(side.correct))
    low, high = wilson_interval(num_right, len(side.correct))
    row: dict[str, Any] = {
        "side": name,
        "accuracy": round(num_right / len(side.correct), 4),
        "accuracy_interval": [round(low, 4), round(high, 4)],
        "usage": side.usage,
        "early_rate": round(side.num_early / len(side.correct), 4),
    }
    if base is not None and base is not side:
        difference = paired_difference(base.correct, side.correct)
        row["compared_with"] = PAIRS.get(name, "raw")
        row["difference"] = round(difference.mean, 4)
        row["difference_interval"] = [round(difference.low, 4), round(difference.high, 4)]
        row["token_ratio"] = round(side.usage["net_tokens"] / base.usage["net_tokens"], 4)
    return row


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", default="embedded", help="'embedded', a folder, a .gguf file or a hub name"
    )
    parser.add_argument("--engine", default="generate", choices=["generate", "continuous"])
    parser.add_argument("--num-questions", type=int, default=300)
    parser.add_argument("--max-active", type=int, default=32)
    parser.add_argument("--max-new-tokens", type=int, default=768)
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sides", nargs="+", choices=[*CHAINS, *VOTES], default=[*CHAINS, *VOTES])
    return parser.parse_args()


if __name__ == "__main__":
    main()
