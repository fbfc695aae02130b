"""Reading JSON lines and their fields, with errors that name the file, the line and the field.

A broken line is put on a list and left out; the rest of its file is read.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from hf_dynasor.errors import InputError
from hf_dynasor.evaluation.questions import BrokenLine
from hf_dynasor.evaluation.trace_files import open_text

MAX_LINE_CHARS = 50_000_000
"""Longest line that is parsed, so that a broken file cannot take all the memory."""


ReadT = TypeVar("ReadT")


def read_rows(path: Path, broken: list[BrokenLine]) -> list[Row]:
    """Every object of a JSON-lines file, which may be compressed with gzip. Empty lines are skipped.

    Args:
        path: The file.
        broken: Gets the lines that are no JSON objects.

    Raises:
        InputError: The file cannot be read, or no line of it can.
    """
    rows = []
    try:
        with open_text(path) as file:
            for number, line in _lines(file):
                place = f"{path.name}, line {number}"
                try:
                    rows.append(Row(_parse(line, place), place, number=number))
                except InputError as error:
                    broken.append(_leave_out(place, number, error))
    except UnicodeDecodeError as error:
        raise InputError(
            f"Cannot read {path}: byte {error.start} is not UTF-8. Expected JSON lines."
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        words = getattr(error, "strerror", None) or str(error)
        raise InputError(f"Cannot read {path}: {words}. Expected a JSON-lines file of traces.") from None
    if not rows:
        first = f" ({len(broken)} broken lines; first: {broken[0]})" if broken else ""
        raise InputError(f"{path} holds no trace{first}. Expected one JSON object a line.")
    return rows


def keep_readable(rows: Iterable[Row], read: Callable[[Row], ReadT], broken: list[BrokenLine]) -> list[ReadT]:
    """What is read of each row; rows with a field that is not as expected are left out.

    Args:
        rows: From `read_rows`.
        read: Reads one; raises `InputError`.
        broken: Gets the lines that cannot be read.
    """
    kept = []
    for row in rows:
        try:
            kept.append(read(row))
        except InputError as error:
            broken.append(_leave_out(row.place, row.number, error))
    return kept


def _leave_out(place: str, number: int, error: InputError) -> BrokenLine:
    words = str(error).removeprefix(place).lstrip(":, ")
    return BrokenLine(number=number, reason=f"{words} ({place.rpartition(', line ')[0]})")


class Row:
    """One object of a file; its `get_*` check a field's type and range."""

    __slots__ = ("fields", "number", "place")

    def __init__(self, fields: Any, place: str, *, number: int = 0) -> None:
        if not isinstance(fields, dict):
            raise InputError(f"{place}: a JSON {type(fields).__name__}; expected an object.")
        self.fields: dict[str, Any] = fields
        self.place = place
        self.number = number

    def error(self, name: str, expected: str) -> InputError:
        """What to raise for a field that is not as expected."""
        value = repr(self.fields.get(name, "nothing"))
        value = value if len(value) <= 80 else f"{value[:77]}..."
        return InputError(f"{self.place}: {name} is {value}; expected {expected}.")

    def get_text(self, name: str) -> str:
        """A text or a number, as text; never empty."""
        text = self.get_answer(name)
        if text is None or not text.strip():
            raise self.error(name, "a text that is not empty")
        return text

    def get_answer(self, name: str) -> str | None:
        """A text or a number, as text; `None` where the field is null or missing."""
        value = self.fields.get(name)
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.error(name, "a text, a number or null")
        return str(int(value)) if value == int(value) else str(value)

    def get_count(self, name: str, *, least: int = 0) -> int:
        """A whole number of at least `least`."""
        value = self.fields.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.error(name, f"a whole number of at least {least}")
        return value

    def get_truth(self, name: str) -> bool:
        """True or false; 1 and 0 count as such."""
        value = self.fields.get(name)
        if value not in (True, False):
            raise self.error(name, "true or false")
        return bool(value)

    def get_number(self, name: str) -> float | None:
        """A finite number, or `None` where it is null or missing."""
        value = self.fields.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.error(name, "a finite number or null")
        return float(value)

    def get_list(self, name: str) -> list[Any]:
        """A list."""
        value = self.fields.get(name)
        if not isinstance(value, list):
            raise self.error(name, "a list")
        return value

    def get_rows(self, name: str) -> list[Row]:
        """A list of objects."""
        return [Row(item, f"{self.place}, {name}[{index}]") for index, item in enumerate(self.get_list(name))]


def _lines(file: Any) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(file, 1):
        if len(line) > MAX_LINE_CHARS:
            raise InputError(
                f"{file.name}, line {number} has {len(line)} characters; expected at most {MAX_LINE_CHARS}."
            )
        if line.strip():
            yield number, line


def _parse(line: str, place: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{place}: not JSON ({error.msg}, column {error.colno}).") from None
    except (RecursionError, ValueError) as error:
        raise InputError(f"{place}: not JSON that can be read ({error}).") from None
