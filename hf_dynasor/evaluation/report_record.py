"""Records full runs for a report, each once and resumable: what smaller budgets and policies do is replayed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from hf_dynasor.engine import Engine
from hf_dynasor.errors import InputError
from hf_dynasor.evaluation.evaluate import QuestionResult, evaluate
from hf_dynasor.evaluation.questions import Question
from hf_dynasor.evaluation.recording import RecordingEngine, TraceWriter
from hf_dynasor.recipe import Recipe, count_repeats


def record_trace(
    path: Path,
    questions: Sequence[Question],
    recipe: Recipe,
    engine: Engine,
    *,
    max_active: int = 32,
    on_result: Callable[[QuestionResult], None] | None = None,
) -> int:
    """Run the questions that a trace file does not hold yet, and add them to it.

    A run that was cut off goes on where it ended: a line is written as each question ends, and a last line that
    was cut off is dropped. Each question draws the same samples whether or not others ran before it.

    Args:
        path: The trace file; it and its folder are made where they are not there.
        questions: All of them, those that are recorded too.
        recipe: How they are solved, to the full budget.
        engine: Stays the caller's to close.
        max_active: Most questions in flight.
        on_result: Called as each question ends.

    Returns:
        How many questions were run now.

    Raises:
        InputError: Two questions have one text (their draws would depend on which is left), or none could be solved.
        EngineError: The engine died; what was written stays.
    """
    if any(repeat for _, repeat in count_repeats(question.question for question in questions)):
        raise InputError("Got the same question twice. Expected each once, so that a run can be resumed.")
    done = _drop_broken_lines(path)
    left = [question for question in questions if question.id not in done]
    if not left:
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    recording = RecordingEngine(engine)
    with path.open("a", encoding="utf-8") as file:
        writer = TraceWriter(file, recording, recipe)

        def note(result: QuestionResult) -> None:
            writer(result)
            if on_result is not None:
                on_result(result)

        evaluate(left, recipe, recording, max_active=max_active, on_result=note)
    return len(left)


def _drop_broken_lines(path: Path) -> frozenset[str]:
    """The questions that a file holds; what is no whole line, or tells of an error, is taken out of it."""
    if not path.exists():
        return frozenset()
    kept, done = [], set()
    lines = path.read_text(encoding="utf-8").split("\n")
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "error" not in row and row.get("id") not in done:
            kept.append(line)
            done.add(str(row.get("id")))
    text = "".join(line + "\n" for line in kept)
    if text != "\n".join(lines):
        unfinished = path.with_suffix(".part")
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    return frozenset(done)


__all__ = ["record_trace"]
