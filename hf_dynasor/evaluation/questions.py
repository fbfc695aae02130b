"""Question files: JSON lines with `question` and `answer`. A broken line is reported, the rest is kept."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hf_dynasor.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question with its reference answer and, where the file names one, its group (domain, difficulty)."""

    id: str
    question: str
    answer: str
    group: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenLine:
    """A line that could not be read: its number (from 1) and why."""

    number: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.number}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionFile:
    """What a file held."""

    questions: tuple[Question, ...]
    broken_lines: tuple[BrokenLine, ...]


def read_questions(path: str | Path) -> QuestionFile:
    """Read a JSON-lines file of questions.

    Each line is an object with `question` (text), `answer` (text or number) and, if it likes, `id` and `group` (or
    `level`); other fields are left alone. Empty lines are skipped.

    Raises:
        InputError: The file cannot be read, or no line of it can.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").split(
            "\n"
        )  # not splitlines: U+2028 may stand inside a text
    except OSError as error:
        raise InputError(
            f"Cannot read {path}: {error.strerror}. Expected a JSON-lines file of questions."
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"Cannot read {path}: byte {error.start} is not UTF-8. Expected a JSON-lines file."
        ) from None
    return parse_questions(lines, source=str(path))


def parse_questions(lines: Iterable[str], *, source: str = "input") -> QuestionFile:
    """Read lines of JSON; see `read_questions`.

    Examples:
        >>> file = parse_questions(['{"question": "2+2?", "answer": 4}', 'oops'])
        >>> file.questions[0].answer, str(file.broken_lines[0])
        ('4', 'line 2: not JSON (Expecting value, column 1)')
    """
    questions: list[Question] = []
    broken: list[BrokenLine] = []
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            question = _parse_line(line, number)
            if question.id in seen:
                raise InputError(f"id {question.id!r} was used above; expected a unique id")
        except InputError as error:
            broken.append(BrokenLine(number=number, reason=str(error)))
            continue
        seen.add(question.id)
        questions.append(question)
    if not questions:
        first = f"; first: {broken[0]}" if broken else ""
        raise InputError(f"Found no question in {source} ({len(broken)} broken lines{first}).")
    return QuestionFile(questions=tuple(questions), broken_lines=tuple(broken))


def _parse_line(line: str, number: int) -> Question:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON ({error.msg}, column {error.colno})") from None
    except (RecursionError, ValueError) as error:  # too deep; a number of thousands of digits
        raise InputError(f"not JSON that can be read ({error})") from None
    if not isinstance(row, dict):
        raise InputError(f"a JSON {type(row).__name__}, expected an object with question and answer")
    question, answer = row.get("question"), row.get("answer")
    if not isinstance(question, str) or not question.strip():
        raise InputError(f"question is {question!r}, expected a text that is not empty")
    if _has_surrogate(question):
        raise InputError("question holds half of a surrogate pair, which is no character")
    is_number = isinstance(answer, int | float) and not isinstance(answer, bool) and math.isfinite(answer)
    if not is_number and not (isinstance(answer, str) and answer.strip()):
        raise InputError(f"answer is {answer!r}, expected a text or a number")
    name, group = row.get("id"), row.get("group", row.get("level"))
    return Question(
        id=f"line-{number}" if name is None else str(name),
        question=question,
        answer=str(answer),
        group=None if group is None else str(group),
    )


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
