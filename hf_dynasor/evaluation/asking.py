"""Asks every question of a data set with every seed, and grades what comes back. Knows engines only as a protocol."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from hf_dynasor.drivers import DEFAULT_TIMEOUT, ProgramOutcome, run_many
from hf_dynasor.engine import Engine
from hf_dynasor.errors import InputError
from hf_dynasor.evaluation.evaluate import QuestionResult
from hf_dynasor.evaluation.graders import Grade
from hf_dynasor.evaluation.predictions import Prediction
from hf_dynasor.evaluation.tasks import TaskItem
from hf_dynasor.grants import AllocationPolicy
from hf_dynasor.program import ReasoningProgram
from hf_dynasor.recipe import Recipe, count_repeats


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One question with one seed.

    Args:
        item: The question.
        seed: Of the recipe; `None` draws afresh.
        repeat: How often the same prompt came before in the data set: sets its draws apart from theirs. It is counted
            over the whole data set, so a part of it draws the same.
    """

    item: TaskItem
    seed: int | None
    repeat: int

    @property
    def key(self) -> tuple[str, int | None]:
        """What names its prediction."""
        return self.item.question.id, self.seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What came of an `Ask`: the prediction for records, and the result that a trace is written from."""

    prediction: Prediction
    result: QuestionResult


def list_asks(items: Sequence[TaskItem], seeds: Sequence[int | None]) -> tuple[Ask, ...]:
    """Every question with every seed, seed by seed.

    Raises:
        InputError: No question, no seed, one twice, or two questions of one name.
    """
    if not items:
        raise InputError("Got no questions but expected at least one.")
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"Got the seeds {list(seeds)} but expected at least one, each of them once.")
    names = [item.question.id for item in items]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"Got two questions with the id {twice!r}. Expected each once.")
    repeats = [repeat for _, repeat in count_repeats(item.question.question for item in items)]
    return tuple(
        Ask(item=item, seed=seed, repeat=repeat)
        for seed in seeds
        for item, repeat in zip(items, repeats, strict=True)
    )


def solve_asks(
    asks: Sequence[Ask],
    recipe: Recipe,
    engine: Engine,
    grade: Grade,
    *,
    max_active: int = 16,
    timeout: float = DEFAULT_TIMEOUT,
) -> Iterator[Asked]:
    """Run a program for each ask, many at a time; yield each as it ends.

    A question that cannot be asked ends alone, with its error.

    Args:
        asks: What to ask.
        recipe: Program, policy and sampling; its seed is that of each ask.
        engine: Where the requests go.
        grade: Whether an answer is right.
        max_active: Most programs in flight.
        timeout: Seconds that the engine may go without any progress.

    Raises:
        EngineError: The engine died.
    """
    programs: list[ReasoningProgram] = []
    for outcome in run_many(_build(asks, recipe, programs), engine, max_active=max_active, timeout=timeout):
        yield _describe(asks[outcome.index], programs[outcome.index], outcome, grade)


def _build(
    asks: Iterable[Ask], recipe: Recipe, programs: list[ReasoningProgram]
) -> Iterator[tuple[ReasoningProgram, AllocationPolicy]]:
    for ask in asks:
        asked = ask.item.question
        seeded = replace(recipe, seed=ask.seed)
        program, policy = seeded.build(asked.question, label=asked.id, repeat=ask.repeat)
        programs.append(program)
        yield program, policy


def _describe(ask: Ask, program: ReasoningProgram, outcome: ProgramOutcome, grade: Grade) -> Asked:
    answer = outcome.answer
    result = QuestionResult(
        question=ask.item.question,
        answer=answer,
        is_correct=answer is not None and answer.text is not None and grade(answer.text, ask.item),
        usage=outcome.usage,
        error=None if outcome.error is None else str(outcome.error),
        program_id=program.program_id,
    )
    knob = program.knob
    prediction = Prediction.from_result(
        result, seed=ask.seed, budget=knob.maximum, unit=knob.unit, question=ask.item.text
    )
    return Asked(prediction=prediction, result=result)
