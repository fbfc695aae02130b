"""Records runs: an engine that keeps what it delivers, and a writer that puts one line a question into a file."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TextIO

from hf_dynasor.answers import AnswerFormat, canonicalise, is_correct
from hf_dynasor.core import Completion, Event, Prompt, Request, RequestKey
from hf_dynasor.engine import Ability, Engine, MeasuresRoom, ReportsProgress, Sink
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.evaluation.evaluate import QuestionResult
from hf_dynasor.evaluation.questions import Question
from hf_dynasor.evaluation.records import (
    SCHEMA,
    ProgramTrace,
    RecordedCompletion,
    RecordedPath,
    write_recipe,
)
from hf_dynasor.grants import Answer, Decision, GrantRecord, Knob, StopReason
from hf_dynasor.paths import PathRecord
from hf_dynasor.recipe import Recipe


class RecordingEngine:
    """Another engine, whose completions are kept until they are taken, program by program.

    Args:
        engine: Runs the requests; stays the caller's to close.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._completions: dict[str, list[RecordedCompletion]] = {}

    @property
    def name(self) -> str:
        """The other engine's."""
        return self._engine.name

    @property
    def abilities(self) -> frozenset[Ability]:
        """The other engine's."""
        return self._engine.abilities

    @property
    def progress(self) -> int:
        """The other engine's, or 0 where it reports none."""
        return self._engine.progress if isinstance(self._engine, ReportsProgress) else 0

    def count_room(self, prompt: Prompt) -> int | None:
        """The other engine's, or `None` where it tells none."""
        return self._engine.count_room(prompt) if isinstance(self._engine, MeasuresRoom) else None

    def submit(self, requests: Sequence[Request], sink: Sink) -> None:
        """Hand over, and listen to what comes back."""
        by_key = {request.key: request for request in requests}
        with self._lock:
            for key in by_key:
                self._completions.setdefault(key.program_id, [])
        self._engine.submit(requests, partial(self._note, by_key, sink))

    def cancel(self, keys: Sequence[RequestKey]) -> None:
        """Hand over."""
        self._engine.cancel(keys)

    def check_health(self) -> None:
        """Hand over."""
        self._engine.check_health()

    def close(self) -> None:
        """Close the other engine."""
        self._engine.close()

    def take(self, program_id: str) -> tuple[RecordedCompletion, ...]:
        """What one program was sent, in order; it is forgotten here, and what still comes for it is not kept."""
        with self._lock:
            return tuple(self._completions.pop(program_id, ()))

    def _note(self, by_key: dict[RequestKey, Request], sink: Sink, event: Event) -> None:
        if isinstance(event, Completion):
            record = RecordedCompletion.from_completion(by_key[event.key], event)
            with self._lock:
                if (kept := self._completions.get(event.key.program_id)) is not None:
                    kept.append(record)
        sink(event)


@dataclass(frozen=True, slots=True, kw_only=True)
class InGrants:
    """Spends the full budget, but in given grants: for traces of programs whose work depends on their grants.

    A tree that got 4 units and then 12 is not the tree of 16, so a policy that reads after 4 units can be replayed
    only on a trace that was recorded so.

    Args:
        sizes: Units of each grant; what they leave of the budget is granted at the end.

    Examples:
        >>> from hf_dynasor.grants import Knob
        >>> InGrants(sizes=(4,)).allocate(Knob(unit="width", maximum=16), ()).units
        4
    """

    sizes: tuple[int, ...]
    name: str = "in_grants"

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise ConfigurationError(f"Got {self.sizes = } but expected grants of at least 1 unit.")

    def allocate(self, knob: Knob, trace: Sequence[GrantRecord]) -> Decision:
        """The next size, or what is left where that is less or no size is; never a denial before the cap."""
        left = knob.maximum - (trace[-1].total if trace else 0)
        if not left:
            return Decision(units=0, stop_reason=StopReason.BUDGET)
        wanted = self.sizes[len(trace)] if len(trace) < len(self.sizes) else left
        return Decision(units=min(wanted, left))


def check_full_budget(recipe: Recipe) -> None:
    """Raise `ConfigurationError` for a recipe that may stop early, or that cannot be written down.

    A trace is a run to the full budget, and names its recipe so that a replay can build the program again.
    """
    if (policy := recipe.build_policy().name) not in ("even", "in_grants"):
        raise ConfigurationError(
            f"Got policy {policy!r} for a trace, which is a run to the full budget. Expected 'even'."
        )
    try:
        json.dumps(write_recipe(recipe))
    except TypeError as error:
        raise ConfigurationError(
            f"Got a recipe that no trace can name ({error}). Expected options by name, not by object."
        ) from None


class TraceWriter:
    """Writes one line for each question as it ends, and at once: a crash costs no line but the last.

    Give it to `evaluate` as `on_result`, together with the recording engine.

    Args:
        file: Where the lines go; stays the caller's to close.
        engine: What the questions run on.
        recipe: How they are solved; its policy must grant the full budget.

    Examples:
        >>> import io
        >>> from hf_dynasor.evaluation import Question, evaluate
        >>> from hf_dynasor.testing import ScriptedEngine
        >>> engine = RecordingEngine(ScriptedEngine(["So \\\\boxed{4}."] * 3))
        >>> recipe, file = Recipe(policy="even", budget=3), io.StringIO()
        >>> questions = [Question(id="a", question="What is 2+2?", answer="4")]
        >>> report = evaluate(questions, recipe, engine, on_result=TraceWriter(file, engine, recipe))
        >>> len(json.loads(file.getvalue())["completions"])
        3
    """

    def __init__(self, file: TextIO, engine: RecordingEngine, recipe: Recipe) -> None:
        check_full_budget(recipe)
        self._file = file
        self._engine = engine
        self._recipe = recipe

    def __call__(self, result: QuestionResult) -> None:
        """Write one question, with its error where it ended with one."""
        completions = self._engine.take(result.program_id)
        if result.answer is None:
            row = {"schema": SCHEMA, "id": result.question.id, "error": result.error}
        else:
            row = self._build(result.question, result.answer, result.is_correct, completions).to_dict()
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()

    def _build(
        self,
        question: Question,
        answer: Answer,
        is_right: bool,
        completions: tuple[RecordedCompletion, ...],
    ) -> ProgramTrace:
        grade = partial(_grade_path, reference=question.answer, format=self._recipe.answer_format)
        return ProgramTrace(
            id=question.id,
            question=question.question,
            reference=question.answer,
            group=question.group,
            model=self._engine.name,
            recipe=write_recipe(self._recipe),
            program=self._recipe.program,
            unit=answer.unit,
            budget=answer.units_spent,
            answer=answer.text,
            is_correct=is_right,
            sequential_tokens=answer.sequential_tokens,
            completions=completions,
            paths=tuple(map(grade, answer.paths)),
        )


def _grade_path(path: PathRecord, *, reference: str, format: AnswerFormat) -> RecordedPath:
    key = canonicalise(path.answer, format=format) if path.answer is not None else None
    return RecordedPath(
        request_id=path.request_id,
        parent=path.parent,
        unit=path.unit,
        answer=path.answer,
        key=(key.kind, key.value) if key is not None and key.value else None,
        is_correct=path.answer is not None and grade_answer(path.answer, reference, format),
        probability=path.probability,
        reward=path.reward,
        num_tokens=path.num_tokens,
        finish_reason=path.finish_reason.value,
        is_terminal=path.is_terminal,
    )


@lru_cache(maxsize=65536)
def grade_answer(answer: str, reference: str, format: AnswerFormat) -> bool:
    """`is_correct`, remembered: the same answer is graded once for all its samples and replays."""
    return is_correct(answer, reference, format=format)
