"""One surface for the many ways of writing the same formula, and the shape around its parts.

`tidy` maps unicode, LaTeX spacing and font commands onto one plain spelling. `parse_shape` takes brackets,
commas, unions and matrices apart, so that tuples, intervals, lists and sets stay different things, and leaves
formulas without such structure (leaves) to whoever can compute. This module computes nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_DEPTH = 20

_UNICODE = {
    "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "π": r"\pi ", "θ": r"\theta ",
    "∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "°": r"^\circ ",
    "±": r"\pm ", "∅": r"\emptyset ", "∈": r"\in ", "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}",
    "⟨": r"\langle ", "⟩": r"\rangle ", "²": "^2", "³": "^3", "⁄": "/", "\u00a0": " ", "\u2009": " ", "\u202f": " ",
    "，": ",", "（": "(", "）": ")", "％": "%", "＄": "$",
}  # fmt: skip
_TRANSLATION = str.maketrans(_UNICODE)

_FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|sqrt|frac|log|ln|exp|pi|infty"
_BARE_FUNCTION = re.compile(rf"(?<![\\A-Za-z])({_FUNCTIONS})(?=[\s({{\d^_\\]|$|[xyz](?![A-Za-z]))")
_DOUBLED_BACKSLASH = re.compile(r"\\\\(?=[A-Za-z])")
_TEXT_COMMAND = re.compile(
    r"\\(?:text|math)(?:rm|bf|it|normal|sf|tt)?\s*\{([^{}]*)\}|\\(?:mbox|operatorname)\s*\{([^{}]*)\}"
)
_SIZE_COMMAND = re.compile(
    r"\\(?:(?:left|right)(?![A-Za-z])\.?|[bB]igg?[lrm]?(?![A-Za-z])|displaystyle(?![A-Za-z]))"
)
_SPACE_COMMAND = re.compile(r"(?<!\\)\\(?:[,;: ]|q?quad(?![A-Za-z]))|~")
_WRAPPERS = ((r"\(", r"\)"), (r"\[", r"\]"), ("$$", "$$"), ("$", "$"), ("`", "`"))
DELIMITED = re.compile(
    r"\$\$(.{1,400}?)\$\$|\\\((.{1,400}?)\\\)|\\\[(.{1,400}?)\\\]|\$([^$\n]{1,400})\$(?!\d)", re.DOTALL
)
"""A formula inside running text; its one group is what stands between the delimiters."""

_DOLLAR = re.compile(r"(?<!\\)\$")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_BOX = re.compile(r"\\f?boxed\s*\{|\\fbox\s*\{")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A formula taken apart: a leaf, or brackets around parts.

    Args:
        kind: `"leaf"`, `"set"` (order and repetition mean nothing), `"sequence"` (order means something),
            `"union"` or `"base"` (digits written in another base).
        text: The leaf's formula, or the two brackets of a sequence.
        parts: What is inside, in the order of the text.
    """

    kind: str
    text: str = ""
    parts: tuple[Shape, ...] = ()

    def leaves(self) -> list[str]:
        """The formulas that are left to compute, in the order of the text."""
        if self.kind == "leaf":
            return [self.text]
        return [leaf for part in self.parts for leaf in part.leaves()]


def unwrap(text: str) -> str:
    r"""Takes off what only displays an answer: math delimiters, boxes, Markdown emphasis, a full stop.

    Examples:
        >>> unwrap(r"$\boxed{18}$.")
        '18'
    """
    before = None
    while before != text:
        before = text
        text = text.strip().rstrip(".,;").rstrip().removeprefix("**").removesuffix("**").strip()
        for opening, closing in _WRAPPERS:
            if len(text) > len(opening + closing) and text.startswith(opening) and text.endswith(closing):
                inner = text[len(opening) : -len(closing)]
                is_one_piece = not _DOLLAR.search(inner) if "$" in opening else opening not in inner
                text = inner if is_one_piece else text
        box = _BOX.match(text)
        if box and match_braces(text).get(box.end() - 1) == len(text) - 1:
            text = text[box.end() : -1]
    return text


def tidy(text: str) -> str:
    r"""One plain spelling: ASCII commands, no sizes, fonts or fine spaces, functions with a backslash.

    Examples:
        >>> tidy(r"\left( 3, \dfrac{\pi}{2} \right)")
        '( 3, \\frac{\\pi}{2} )'
        >>> tidy("√13 sqrt(2)")
        '\\sqrt{13} \\sqrt{2}'
    """
    if not text.isascii():
        text = (
            re.sub(r"√\s*(\d+|[A-Za-z])", r"\\sqrt{\1}", text).replace("√", r"\sqrt").translate(_TRANSLATION)
        )
    if "matrix}" not in text:
        text = _DOUBLED_BACKSLASH.sub(r"\\", text)
    if "\\" in text or "~" in text or "{,}" in text:
        text = re.sub(r"\{,\}|,\s*\\!\s*", ",", text).replace(r"\!", "")
        text = _SPACE_COMMAND.sub(" ", _SIZE_COMMAND.sub("", text))
        text = re.sub(r"\\[dtc]frac", r"\\frac", text)
        text = _TEXT_COMMAND.sub(lambda match: f" {match[1] or match[2] or ''} ", text)
        text = (
            text.replace(r"\langle", "(")
            .replace(r"\rangle", ")")
            .replace(r"\lbrace", r"\{")
            .replace(r"\rbrace", r"\}")
        )
    text = _BARE_FUNCTION.sub(r"\\\1", text)
    return _brace_arguments(text).strip()


def match_braces(text: str) -> dict[int, int]:
    """Where each brace is closed, by the place where it opens; escaped braces do not count."""
    closings: dict[int, int] = {}
    opened: list[int] = []
    for brace in _BRACE.finditer(text):
        if brace[0] == "{":
            opened.append(brace.start())
        elif brace[0] == "}" and opened:
            closings[opened.pop()] = brace.start()
    return closings


def split_top(text: str, separator: re.Pattern[str]) -> list[str]:
    """Splits where no bracket is open.

    Examples:
        >>> split_top("(1,2),3", re.compile(","))
        ['(1,2)', '3']
    """
    pieces, depth, start, place = [], 0, 0, 0
    while place < len(text):
        match = separator.match(text, place) if depth == 0 else None
        if match:
            pieces.append(text[start:place])
            start = place = match.end()
            continue
        step = 2 if text[place] == "\\" and place + 1 < len(text) else 1
        symbol = text[place + step - 1]
        depth = max(0, depth + (symbol in "([{") - (symbol in ")]}"))
        place += step
    return [*pieces, text[start:]]


_COMMA = re.compile(r"\s*[,;]\s*")
_LIST_SEPARATOR = re.compile(r"\s*[,;](?:\s*(?:and|or)(?![a-z]))?\s*|\s+(?:and|or)\s+")
_UNION = re.compile(r"\s*\\cup(?![A-Za-z])\s*")
_EQUALS = re.compile(r"(?<![<>!:=])=(?!=)")
_MEMBER = re.compile(r"^[A-Za-z]\s*\\in(?![A-Za-z])")
_THOUSANDS = re.compile(r"(?<![\d,.])(\d{1,3}(?:,\d{3})+)(?![\d,])")
_BASE = re.compile(r"^(\d[0-9A-F]*)\s*_\s*(?:\{\s*(\d+)\s*\}|(\d+))$")
_NAME = re.compile(r"^\\?[A-Za-z]+(?:_\{?\w+\}?)?'?(?:\s*\([\w,\s]*\))?$|^\([A-Za-z](?:\s*,\s*[A-Za-z])+\)$")
_MATRIX = re.compile(r"^\\begin\{([pbvBV]?matrix)\}(.*)\\end\{\1\}$", re.DOTALL)
_BRACKETS = (
    (r"\{", r"\}", "set"),
    ("(", ")", "()"),
    ("(", "]", "(]"),
    ("[", ")", "[)"),
    ("[", "]", "[]"),
    ("{", r"\}", "set"),
    (r"\{", "}", "set"),
    ("{", "}", "set"),
)


def parse_shape(text: str, *, keeps_names: bool = False) -> Shape:
    """Takes a tidied formula apart into sets, sequences, unions and leaves.

    Args:
        text: The formula, after `tidy`.
        keeps_names: Whether `x = 5` stays an equation. Without it, what is stated about one name is the answer.

    Examples:
        >>> parse_shape("(1,2]").text
        '(]'
        >>> parse_shape("3, 5 and 7").kind
        'set'
    """
    text = text.strip() if keeps_names else _drop_left_side(text.strip())
    if matrix := _MATRIX.match(text):
        return _parse_matrix(matrix[2])
    if len(pieces := split_top(text, _UNION)) > 1:
        return Shape(kind="union", parts=tuple(parse_shape(piece) for piece in pieces))
    text = _THOUSANDS.sub(lambda match: match[1].replace(",", ""), text) if _is_unbracketed(text) else text
    if len(pieces := [piece for piece in split_top(text, _LIST_SEPARATOR) if piece.strip()]) > 1:
        names = {split_top(piece, _EQUALS)[0].strip() for piece in pieces if "=" in piece}
        return Shape(
            kind="set", parts=tuple(parse_shape(piece, keeps_names=len(names) > 1) for piece in pieces)
        )
    if base := _BASE.match(text):
        return Shape(kind="base", text=f"{base[1].lstrip('0') or '0'}_{int(base[2] or base[3])}")
    return _parse_brackets(text) or Shape(kind="leaf", text=text)


def _parse_brackets(text: str) -> Shape | None:
    """The shape of a text that one pair of brackets encloses; None where there is no such pair."""
    for opening, closing, kind in _BRACKETS:
        if not (text.startswith(opening) and text.endswith(closing) and len(text) > len(opening)):
            continue
        inner = text[len(opening) : -len(closing)]
        if not _is_balanced(inner):
            continue
        parts = tuple(parse_shape(piece) for piece in split_top(inner, _COMMA)) if inner.strip() else ()
        if len(parts) == 1 and kind != "[]":
            return parts[0]
        return (
            Shape(kind="set", parts=parts)
            if kind == "set"
            else Shape(kind="sequence", text=kind, parts=parts)
        )
    return None


def _parse_matrix(body: str) -> Shape:
    rows = [row for row in re.split(r"\\\\", body) if row.strip()]
    cells = [tuple(parse_shape(cell) for cell in split_top(row, re.compile("&"))) for row in rows]
    parts = tuple(Shape(kind="sequence", text="||", parts=row) for row in cells)
    return Shape(kind="sequence", text="||", parts=parts)


def _drop_left_side(text: str) -> str:
    """`x = 5`, `5 = x`, `f(x) = 5`, `2 + 3 = 5` and `x \\in S` state what is on one side; equations stay whole."""
    text = _MEMBER.sub("", text).strip()
    sides = [side.strip() for side in split_top(text, _EQUALS)]
    if len(sides) < 2 or not all(sides) or len(split_top(text, _COMMA)) > 1:
        return text
    if _NAME.match(sides[-1]) and len(sides) == 2 and not _NAME.match(sides[0]):
        return sides[0]
    is_statement = all(
        _NAME.match(side) or not re.search(r"(?<![\\A-Za-z])[A-Za-z]", side) for side in sides[:-1]
    )
    return sides[-1] if is_statement else text


def _is_balanced(inner: str) -> bool:
    """Whether every bracket that opens in `inner` closes in it, whatever its kind (intervals mix kinds)."""
    depth = 0
    for symbol in inner:
        depth += (symbol in "([{") - (symbol in ")]}")
        if depth < 0:
            return False
    return depth == 0


def _is_unbracketed(text: str) -> bool:
    return not text.startswith(("(", "[", "{", r"\{", r"\langle", r"\lbrace"))


def _brace_arguments(text: str) -> str:
    """`\\sqrt(..)`, `\\sqrt2`, `\\frac12` and `^(..)` with the braces that LaTeX leaves out or wants."""
    for marker in (r"\sqrt", "^"):
        place = text.find(marker + "(")
        while place >= 0:
            start = place + len(marker)
            end = _find_parenthesis(text, start)
            if end is None:
                break
            text = f"{text[:start]}{{{text[start + 1 : end]}}}{text[end + 1 :]}"
            place = text.find(marker + "(", start)
    text = re.sub(r"\\sqrt\s*(\d)", r"\\sqrt{\1}", text)
    text = re.sub(r"\\frac\s*(\d)", r"\\frac{\1}", text)
    return re.sub(r"(\\frac\s*\{[^{}]*\})\s*(\d)", r"\1{\2}", text)


def _find_parenthesis(text: str, start: int) -> int | None:
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place
    return None
