"""Record the lengths and answers of self-consistency samples, as a workload for the scheduling simulator.

The file holds for each question its prompt tokens, and for each sample its tokens, the number of its answer and
whether it is right; no text. 500 questions of 20 samples take about five minutes of processor time.

    python benchmarks/scheduling_record.py --output benchmarks/workloads/embedded_self_consistency.json
"""

from __future__ import annotations

import argparse
import json
import sys

import torch

from hf_dynasor.answers import group_answers, is_correct
from hf_dynasor.embedded.problems import generate_problems
from hf_dynasor.evaluation import Question, QuestionResult, evaluate
from hf_dynasor.recipe import Recipe
from hf_dynasor.scheduler.simulate import RecordedBranch, RecordedQuestion, Workload, write_workload
from hf_dynasor.serving import make_engine

QUESTION_SEED = 2026


def main() -> None:
    """Sample every question to its full budget and write one line for each."""
    arguments = _parse()
    torch.set_num_threads(1)
    problems = generate_problems(arguments.num_questions, seed=QUESTION_SEED, split="test")
    questions = [Question(id=item.id, question=item.question, answer=item.answer) for item in problems]
    recipe = Recipe(
        budget=arguments.budget, temperature=arguments.temperature, policy="even", seed=arguments.seed
    )
    with make_engine(arguments.model, engine=arguments.engine) as engine:
        report = evaluate(questions, recipe, engine)
    questions_recorded = tuple(_make_question(result) for result in report.results)
    write_workload(
        Workload(name=arguments.model, budget=arguments.budget, questions=questions_recorded),
        arguments.output,
    )
    print(json.dumps(report.to_dict()))


def _make_question(result: QuestionResult) -> RecordedQuestion:
    if result.answer is None:
        raise RuntimeError(f"Question {result.question.id} failed: {result.error}")
    paths = result.answer.paths
    groups = group_answers([path.answer for path in paths]).groups
    numbers = {index: number for number, group in enumerate(groups) for index in group.indices}
    return RecordedQuestion(
        id=result.question.id,
        prompt_tokens=round(result.usage.prompt / len(paths)),
        branches=tuple(
            RecordedBranch(
                num_tokens=path.num_tokens,
                group=numbers.get(index),
                is_correct=path.answer is not None and is_correct(path.answer, result.question.answer),
            )
            for index, path in enumerate(paths)
        ),
    )


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
