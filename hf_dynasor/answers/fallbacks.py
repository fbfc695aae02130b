"""What is taken where a completion names no answer: its last number, lone letter, yes or no, formula or line.

Models repeat themselves, so only the end of a text is looked at, and every look is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeAlias

from hf_dynasor.answers.notation import DELIMITED
from hf_dynasor.answers.numeric import find_numbers

Span: TypeAlias = tuple[int, int]
"""Where something starts and ends in a text, in characters."""

MAX_SHORT = 100
"""Longest text, in characters, that can be an answer as a whole."""

MAX_TAIL = 20_000
"""Characters at the end of a text in which its last number, letter, truth or formula is looked for."""

_NEAR_TAIL = 400

_LETTER = re.compile(r"\(([A-Za-z])\)|(?<![\w'’])([B-HJ-Z])(?![\w'’])|(?<![\w'’])(A)(?=[).:,]|\s*$)")
_TRUTH = re.compile(r"\b(yes|no|true|false)\b", re.IGNORECASE)
_MEMBERS = re.compile(r"\\?[{(\[][^{}()\[\]\n]{1,400}[})\]]")
_WORD = re.compile(r"(?<!\\)\b(?!(?:sin|cos|tan|log|ln|exp|sqrt|pi)\b)[A-Za-z]{2,}")


def find_last_number(text: str) -> Span | None:
    """The last number of a text."""
    for size in (_NEAR_TAIL, MAX_TAIL):
        if numbers := find_numbers(text, start=_find_tail(text, size)):
            return numbers[-1].start, numbers[-1].end
    return None


def _find_tail(text: str, size: int) -> int:
    """Where the last `size` characters start, past the word that this cuts in two."""
    start = max(0, len(text) - size)
    space = text.find(" ", start) if start else -1
    return start if space < 0 else space + 1


def _find_last(pattern: re.Pattern[str], text: str) -> Span | None:
    last = _take_last(pattern.finditer(text, _find_tail(text, MAX_TAIL)))
    return last.span(last.lastindex or 0) if last else None


def _take_last(matches: Iterable[re.Match[str]]) -> re.Match[str] | None:
    last = None
    for match in matches:
        last = match
    return last


def _find_letter(text: str) -> Span | None:
    return _find_last(_LETTER, text)


def _find_truth(text: str) -> Span | None:
    return _find_last(_TRUTH, text)


def _find_formula(text: str) -> Span | None:
    return _find_last(DELIMITED, text) or _find_anything(text)


def _find_line(text: str) -> Span | None:
    """The last line that is not blank."""
    stripped = text.rstrip()
    return (len(stripped) - len(stripped.splitlines()[-1]), len(stripped)) if stripped else None


def _find_short(text: str) -> Span | None:
    """The whole text, where it is so short that it can be nothing but an answer: `Paris`, `x^2+1`, not `It is 17`."""
    if len(text) > MAX_SHORT or len(text.split()) > 3 or (_WORD.search(text) and find_last_number(text)):
        return None
    return (0, len(text)) if text else None


def _find_anything(text: str) -> Span | None:
    return _find_short(text) or find_last_number(text)


def _find_set(text: str) -> Span | None:
    """The last brackets with members in them, else the last formula."""
    return _find_last(_MEMBERS, text) or _find_formula(text)


def find_nothing(text: str) -> Span | None:
    """Nothing: code is found by its own rules, before any other is asked."""
    return None


FALLBACKS = {
    "auto": _find_anything,
    "number": find_last_number,
    "math": _find_formula,
    "choice": _find_letter,
    "yes_no": _find_truth,
    "set": _find_set,
    "code": find_nothing,
    "text": _find_line,
}
"""The fallback of each format, by the format's name."""
