"""Solve a file of questions with a recipe and report accuracy and tokens. Knows engines only as a protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hf_dynasor.answers import is_correct
from hf_dynasor.clock import Clock, MonotonicClock
from hf_dynasor.core import Usage
from hf_dynasor.drivers import DEFAULT_TIMEOUT, ProgramOutcome, run_many
from hf_dynasor.engine import Engine
from hf_dynasor.errors import InputError
from hf_dynasor.evaluation.questions import Question
from hf_dynasor.evaluation.statistics import wilson_interval
from hf_dynasor.grants import AllocationPolicy, Answer
from hf_dynasor.program import ReasoningProgram
from hf_dynasor.recipe import Recipe, count_repeats


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionResult:
    """How one question went: with an answer, or with the error that ended it.

    Its `program_id` names the program that answered it among those of the engine.
    """

    question: Question
    answer: Answer | None
    is_correct: bool
    usage: Usage
    error: str | None = None
    program_id: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The row, ready for JSON."""
        row = {"id": self.question.id, "reference": self.question.answer, "is_correct": self.is_correct}
        if self.answer is None:
            return row | {"error": self.error, "usage": self.usage.to_dict()}
        return row | self.answer.to_dict()


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport:
    """Totals over all questions; a question that ended with an error counts as wrong.

    Args:
        results: One for each question, in the file's order.
        seconds: Wall time.
    """

    results: tuple[QuestionResult, ...]
    seconds: float

    @property
    def accuracy(self) -> float:
        """Share of the questions that were answered right."""
        return sum(result.is_correct for result in self.results) / len(self.results)

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """Wilson's 95% interval of the accuracy."""
        return wilson_interval(sum(result.is_correct for result in self.results), len(self.results))

    @property
    def answers(self) -> tuple[Answer, ...]:
        """The answers of the questions that did not end with an error."""
        return tuple(result.answer for result in self.results if result.answer is not None)

    @property
    def usage(self) -> Usage:
        """Tokens over all questions, those that ended with an error too."""
        return sum((result.usage for result in self.results), Usage())

    @property
    def sequential_tokens(self) -> int:
        """Sum over the questions of the longest chain of tokens that had to wait for each other."""
        return sum(answer.sequential_tokens for answer in self.answers)

    @property
    def early_stop_rate(self) -> float:
        """Share of the questions that ended before their budget was spent."""
        return sum(answer.is_early for answer in self.answers) / len(self.results)

    @property
    def errors(self) -> tuple[QuestionResult, ...]:
        """The questions that ended with an error."""
        return tuple(result for result in self.results if result.error is not None)

    def to_dict(self) -> dict[str, Any]:
        """The summary, ready for JSON."""
        return {
            "num_questions": len(self.results),
            "accuracy": round(self.accuracy, 6),
            "accuracy_interval": [round(value, 6) for value in self.accuracy_interval],
            "net_tokens": self.usage.net_tokens,
            "sequential_tokens": self.sequential_tokens,
            "early_stop_rate": round(self.early_stop_rate, 6),
            "usage": self.usage.to_dict(),
            "seconds": round(self.seconds, 3),
        }


def evaluate(
    questions: Sequence[Question],
    recipe: Recipe,
    engine: Engine,
    *,
    max_active: int = 16,
    timeout: float = DEFAULT_TIMEOUT,
    clock: Clock | None = None,
    on_result: Callable[[QuestionResult], None] | None = None,
) -> EvaluationReport:
    """Solve every question, many at a time, and grade the answers.

    Args:
        questions: At least one.
        recipe: Program, policy and sampling; each question's draws are seeded by the recipe and its id.
        engine: Where the requests go.
        max_active: Most questions in flight.
        timeout: Seconds to wait for the next completion.
        clock: For the wall time.
        on_result: Called as each question ends, for progress bars and files.

    Raises:
        InputError: There are no questions, or none of them could be solved (with the first one's error).
        EngineError: The engine died.
    """
    if not questions:
        raise InputError("Got no questions but expected at least one.")
    clock = clock or MonotonicClock()
    begin = clock.now()
    results: dict[int, QuestionResult] = {}
    program_ids: list[str] = []
    programs = _build_programs(recipe, questions, program_ids)
    for outcome in run_many(programs, engine, max_active=max_active, timeout=timeout):
        graded = _grade(questions[outcome.index], outcome, recipe)
        result = replace(graded, program_id=program_ids[outcome.index])
        results[outcome.index] = result
        if on_result is not None:
            on_result(result)
    ordered = tuple(results[index] for index in range(len(questions)))
    if all(result.error is not None for result in ordered):
        raise InputError(
            f"None of the {len(ordered)} questions could be solved; the first: {ordered[0].error}"
        )
    return EvaluationReport(results=ordered, seconds=max(0.0, clock.now() - begin))


def estimate_full_tokens(report: EvaluationReport) -> int:
    """Net tokens that the same questions would have cost at their full budgets, by each one's mean so far."""
    return sum(answer.full_budget_tokens for answer in report.answers)


def _build_programs(
    recipe: Recipe, questions: Sequence[Question], program_ids: list[str]
) -> Iterator[tuple[ReasoningProgram, AllocationPolicy]]:
    repeats = count_repeats(question.question for question in questions)
    for question, (text, repeat) in zip(questions, repeats, strict=True):
        program, policy = recipe.build(text, label=question.id, repeat=repeat)
        program_ids.append(program.program_id)
        yield program, policy


def _grade(question: Question, outcome: ProgramOutcome, recipe: Recipe) -> QuestionResult:
    if outcome.answer is None:
        return QuestionResult(
            question=question, answer=None, is_correct=False, usage=outcome.usage, error=str(outcome.error)
        )
    text = outcome.answer.text
    is_right = text is not None and is_correct(text, question.answer, format=recipe.answer_format)
    return QuestionResult(question=question, answer=outcome.answer, is_correct=is_right, usage=outcome.usage)
