"""The members of an answer that is a set, a list or a tuple, whatever brackets stand around it."""

from __future__ import annotations

import re

_SEPARATOR = re.compile(r"[()\[\]{}]|,(?!\d{3}(?!\d))|;|\band\b")


def split_members(text: str) -> list[str]:
    r"""The members of a set, list or tuple, whatever brackets stand around it: `{1, 2}`, `(1,2)`, `1, 2 and 3`.

    A comma inside brackets separates nothing, and one between the digits of a number as `1,234` does not either
    where three digits follow and no space does.

    Examples:
        >>> split_members(r"\{1, (2,3)\}"), split_members("red, green and blue"), split_members("{}")
        (['1', '(2,3)'], ['red', 'green', 'blue'], [])
    """
    text = text.strip().replace(r"\{", "{").replace(r"\}", "}")
    text = re.sub(r"\\(?:left|right)(?![A-Za-z])", "", text).strip()
    if text in (r"\emptyset", "∅", r"\varnothing"):
        return []
    if len(text) >= 2 and text[0] + text[-1] in ("{}", "()", "[]") and _closes_at_end(text):
        text = text[1:-1]
    members, depth, start = [], 0, 0
    for match in _SEPARATOR.finditer(text):
        depth += match[0] in ("(", "[", "{")
        depth -= match[0] in (")", "]", "}")
        if depth == 0 and match[0] not in ("(", "[", "{", ")", "]", "}"):
            members.append(text[start : match.start()])
            start = match.end()
    return [member.strip() for member in [*members, text[start:]] if member.strip()]


def _closes_at_end(text: str) -> bool:
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if depth == 0:
            return place == len(text) - 1
    return False
