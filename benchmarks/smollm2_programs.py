"""Every program to its end on SmolLM2-135M-Instruct: word problems (a file) and one-digit sums, as they come out.

The model can hardly do either: what is checked is that nothing breaks on a real vocabulary, chat template and
size, and what it costs. Prints a row as each program ends, and ends with one JSON line of those that were run.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from smollm2 import find_model, make_sums

from hf_dynasor.engine import Engine
from hf_dynasor.evaluation import EvaluationReport, Question, evaluate, read_questions
from hf_dynasor.programs import PROGRAMS
from hf_dynasor.recipe import Recipe
from hf_dynasor.serving import make_engine

STEPS = {"delimiter": "\n"}
PROBES = {"interval": 16, "suffix": "short", "rule": "answer_consistency"}
OPTIONS = {
    "rebase": STEPS,
    "mcts": STEPS | {"num_parallel": 2},
    "beam": STEPS,
    "chain_of_thought": PROBES,
    "chain_consistency": PROBES,
}
SUM_TOKENS = 48
MAX_ACTIVE = 48


def main() -> int:
    """Run every program on both sets and report."""
    arguments = _parse()
    torch.set_num_threads(1)
    sets = {"one_digit_sums": (make_sums(arguments.num_sums), SUM_TOKENS)}
    if arguments.word_problems is not None:
        problems = read_questions(arguments.word_problems).questions[: arguments.num_word_problems]
        sets["word_problems"] = (list(problems), arguments.max_new_tokens)
    row: dict[str, object] = {"benchmark": "smollm2_programs", "budget": arguments.budget}
    row["max_new_tokens"] = {name: limit for name, (_, limit) in sets.items()}
    with make_engine(find_model(), engine=arguments.engine, dtype=arguments.dtype) as engine:
        row["engine"] = engine.name
        for program in arguments.programs:
            for name, (questions, limit) in sets.items():
                report = _run(program, questions, limit, arguments.budget, engine)
                row[f"{program}/{name}"] = report.to_dict() | {"errors": len(report.errors)}
                _tell(program, name, report)
                print(json.dumps(row), file=sys.stderr, flush=True)
    print(json.dumps(row))
    return 0


def _run(
    program: str, questions: list[Question], limit: int, budget: int, engine: Engine
) -> EvaluationReport:
    """One program; the budget of one chain of thought is its tokens."""
    recipe = Recipe(
        program=program,
        policy="even",
        budget=limit if program == "chain_of_thought" else budget,
        max_new_tokens=limit,
        seed=0,
        instruction="",
        program_options=OPTIONS.get(program, {}),
    )
    return evaluate(questions, recipe, engine, max_active=MAX_ACTIVE)


def _tell(program: str, name: str, report: EvaluationReport) -> None:
    low, high = report.accuracy_interval
    print(
        f"{program:18} {name:15} {len(report.results):3} questions  accuracy {report.accuracy:6.1%} "
        f"({low:.1%} to {high:.1%})  net {report.usage.net_tokens:,}  probe {report.usage.probe:,}  "
        f"errors {len(report.errors)}  {report.seconds:.0f} s",
        flush=True,
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--word-problems", type=Path, metavar="FILE.jsonl", help="such as ASDiv")
    parser.add_argument("--num-word-problems", type=int, default=10)
    parser.add_argument("--num-sums", type=int, default=40)
    parser.add_argument("--budget", type=int, default=4, help="samples, width, iterations or chains")
    parser.add_argument("--max-new-tokens", type=int, default=96, help="of a word problem's path")
    parser.add_argument("--programs", nargs="+", choices=sorted(PROGRAMS), default=sorted(PROGRAMS))
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--engine", default="continuous")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
