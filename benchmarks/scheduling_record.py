"""Record the lengths and answers of self-consistency samples, as a workload for the scheduling simulator.

Each line of the file is a question: its id, level, prompt tokens, the right answer, and for each sample its
tokens, its answer and whether it is right. 500 questions of 20 samples take about five minutes of processor time.

    python benchmarks/scheduling_record.py --output embedded_samples.jsonl
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from hf_dynasor.answers import is_correct
from hf_dynasor.embedded.problems import generate_problems
from hf_dynasor.evaluation import Question, QuestionResult, evaluate
from hf_dynasor.recipe import Recipe
from hf_dynasor.serving import make_engine

QUESTION_SEED = 2026


def main() -> None:
    """Sample every question to its full budget and write one line for each."""
    arguments = _parse()
    torch.set_num_threads(1)
    problems = generate_problems(arguments.num_questions, seed=QUESTION_SEED, split="test")
    levels = {item.id: item.level for item in problems}
    questions = [Question(id=item.id, question=item.question, answer=item.answer) for item in problems]
    recipe = Recipe(
        budget=arguments.budget, temperature=arguments.temperature, policy="even", seed=arguments.seed
    )
    with make_engine(arguments.model, engine=arguments.engine) as engine:
        report = evaluate(questions, recipe, engine)
    with Path(arguments.output).open("w", encoding="utf-8") as file:
        for result in report.results:
            row = _make_row(result, levels[result.question.id])
            file.write(json.dumps(row, separators=(",", ":")) + "\n")
    print(json.dumps(report.to_dict()))


def _make_row(result: QuestionResult, level: int) -> dict[str, object]:
    if result.answer is None:
        raise RuntimeError(f"Question {result.question.id} failed: {result.error}")
    paths = result.answer.paths
    return {
        "id": result.question.id,
        "level": level,
        "answer": result.question.answer,
        "prompt_tokens": round(result.usage.prompt / len(paths)),
        "samples": [
            [
                path.num_tokens,
                path.answer,
                int(path.answer is not None and is_correct(path.answer, result.question.answer)),
            ]
            for path in paths
        ],
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", required=True)
    parser.add_argument("--num-questions", type=int, default=500)
    parser.add_argument("--budget", type=int, default=20)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--engine", default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
