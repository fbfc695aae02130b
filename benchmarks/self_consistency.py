"""Tokens saved at equal accuracy: self-consistency, static threshold (Table 1) against even allocation.

Both sides answer the same generated questions with the same seeds on the embedded reasoner; the accuracy
difference is paired, question by question. Prints a table and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass, replace

import torch

from hf_dynasor.embedded.problems import generate_problems
from hf_dynasor.engine import Engine
from hf_dynasor.evaluation import EvaluationReport, Question, evaluate, paired_difference
from hf_dynasor.recipe import Recipe
from hf_dynasor.serving import make_engine

QUESTION_SEED = 2026


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Both sides of one seed."""

    even: EvaluationReport
    static: EvaluationReport

    @property
    def saved(self) -> float:
        """Share of the net tokens that the threshold saved."""
        return 1 - self.static.usage.net_tokens / self.even.usage.net_tokens


def main() -> None:
    """Run both sides for each seed and report."""
    arguments = _parse()
    torch.set_num_threads(1)
    problems = generate_problems(arguments.num_questions, seed=QUESTION_SEED, split="test")
    questions = [Question(id=item.id, question=item.question, answer=item.answer) for item in problems]
    recipe = Recipe(budget=arguments.budget, temperature=arguments.temperature, policy="even")
    with make_engine(arguments.model, engine=arguments.engine) as engine:
        pairs = [_run_pair(questions, recipe, engine, seed) for seed in range(arguments.num_seeds)]
    _report(pairs, arguments)


def _run_pair(questions: list[Question], recipe: Recipe, engine: Engine, seed: int) -> Pair:
    even = evaluate(questions, replace(recipe, seed=seed), engine)
    static = evaluate(questions, replace(recipe, seed=seed, policy="static"), engine)
    pair = Pair(even=even, static=static)
    print(
        f"seed {seed}: even {even.accuracy:6.1%} {even.usage.net_tokens:>10,} tokens {even.seconds:6.0f} s | "
        f"static {static.accuracy:6.1%} {static.usage.net_tokens:>10,} tokens {static.seconds:6.0f} s | "
        f"saved {pair.saved:.1%}, {static.early_stop_rate:.0%} stopped early",
        flush=True,
    )
    return pair


def _report(pairs: list[Pair], arguments: argparse.Namespace) -> None:
    before = [float(result.is_correct) for pair in pairs for result in pair.even.results]
    after = [float(result.is_correct) for pair in pairs for result in pair.static.results]
    difference = paired_difference(before, after)
    row = {
        "benchmark": "self_consistency",
        "num_questions": arguments.num_questions,
        "num_seeds": len(pairs),
        "budget": arguments.budget,
        "temperature": arguments.temperature,
        "even_accuracy": round(statistics.mean(before), 4),
        "static_accuracy": round(statistics.mean(after), 4),
        "accuracy_difference": round(difference.mean, 4),
        "accuracy_difference_interval": [round(difference.low, 4), round(difference.high, 4)],
        "even_net_tokens": sum(pair.even.usage.net_tokens for pair in pairs),
        "static_net_tokens": sum(pair.static.usage.net_tokens for pair in pairs),
        "tokens_saved": round(statistics.mean(pair.saved for pair in pairs), 4),
        "tokens_saved_by_seed": [round(pair.saved, 4) for pair in pairs],
        "early_stop_rate": round(statistics.mean(pair.static.early_stop_rate for pair in pairs), 4),
        "sequential_ratio": round(
            sum(pair.static.sequential_tokens for pair in pairs)
            / sum(pair.even.sequential_tokens for pair in pairs),
            4,
        ),
        "seconds_ratio": round(
            sum(pair.static.seconds for pair in pairs) / sum(pair.even.seconds for pair in pairs), 4
        ),
    }
    print(
        f"saved {row['tokens_saved']:.1%} of the net tokens; accuracy {row['accuracy_difference'] * 100:+.2f} points "
        f"(paired 95% interval {difference.low * 100:+.2f} to {difference.high * 100:+.2f})"
    )
    print(json.dumps(row))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-questions", type=int, default=500)
    parser.add_argument("--num-seeds", type=int, default=3)
    parser.add_argument("--budget", type=int, default=20)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--engine", default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
