"""Which answers are the same: every answer has one key, and equal keys mean the same answer.

The key of an answer depends on that answer alone, so "has the same key" is reflexive, symmetric and transitive
whatever the answers are. There is no tolerance here: a grader's "close enough" belongs to
`hf_dynasor.answers.grading`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from hf_dynasor.answers.code import MAX_CODE, canonicalise_code
from hf_dynasor.answers.formulas import DEFAULT_TIMEOUT, FORMULAS, is_safe
from hf_dynasor.answers.members import split_members
from hf_dynasor.answers.notation import Shape, parse_shape, tidy, unwrap
from hf_dynasor.answers.numeric import find_numbers, parse_integer, parse_number, strip_unit
from hf_dynasor.errors import ConfigurationError, name_unknown

AnswerFormat: TypeAlias = Literal["auto", "number", "math", "choice", "yes_no", "set", "code", "text"]
AnswerKind: TypeAlias = Literal["number", "math", "choice", "yes_no", "set", "code", "text"]

MAX_LEAVES = 64
MAX_LENGTH = 2000
"""Longest answer, in characters, that is read as anything but text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerKey:
    """What an answer says, without how it is written. Equal keys are the same answer.

    Args:
        kind: What the answer turned out to be. `"text"` is also the kind of a formula that cannot be computed
            within its bound.
        value: An exact rational (`"18"`, `"1/2"`), the upper-case letter of a choice, `"yes"` or `"no"`, a
            canonical formula, a sorted set of members, a digest of code, or casefolded words. Empty where the answer says nothing.
    """

    kind: AnswerKind
    value: str


def check_format(format: str) -> None:
    """Raises a [`ConfigurationError`] for a format that does not exist."""
    if format not in get_args(AnswerFormat):
        raise name_unknown("answer format", format, get_args(AnswerFormat))


def canonicalise(
    answer: str, *, format: AnswerFormat = "auto", timeout: float = DEFAULT_TIMEOUT
) -> AnswerKey:
    r"""The key under which equal answers meet.

    Numbers are exact: `1,234` is `1234`, `0.5` is `1/2` is `\frac12`, and `12345` is not `12346`. Units, currency
    and percent signs are left out (`$18`, `18 dollars` and `18` agree, so do `50%` and `50`; `0.5` does not).
    `(1,2)`, `[1,2]` and `{1,2}` are three answers; in `{1,2}` and in a bare list `1,2` the order means nothing.
    `x = 5` states 5. Digits in another base (`52_8`) are no decimal number.

    Args:
        answer: An extracted answer, not a whole completion.
        format: What the answer is read as. `"auto"` decides from this one string. A string that cannot be read
            in the asked format becomes text.
        timeout: Seconds of processor time that the formula process may take, start-up not included. After that
            the key is the formula's text, until the formula is read again with a longer timeout.

    Returns:
        The key. It is never an error that an answer is odd.

    Raises:
        ConfigurationError: If `format` is unknown or `timeout` is not positive.

    Examples:
        >>> canonicalise("9 (apples)")
        AnswerKey(kind='number', value='9')
        >>> canonicalise("0.50") == canonicalise(r"\frac12")
        True
        >>> canonicalise("(1,2)") == canonicalise("[1,2]")
        False
    """
    check_format(format)
    if not timeout > 0:
        raise ConfigurationError(f"Got timeout = {timeout} but expected seconds above 0.")
    if format in ("auto", "number", "math") and (integer := parse_integer(answer)) is not None:
        return AnswerKey(kind="number", value=str(integer))
    if format == "code":
        return _read_code(answer)
    if len(answer) > MAX_LENGTH:
        return AnswerKey(kind="text", value=" ".join(answer.casefold().split()))
    return _READERS[format](answer, timeout) or AnswerKey(kind="text", value=_normalise_words(answer))


def _read_auto(answer: str, timeout: float) -> AnswerKey | None:
    bare = tidy(unwrap(answer))
    if (number := parse_number(bare)) is not None:
        return AnswerKey(kind="number", value=str(number))
    bare = strip_unit(bare)
    if choice := _CHOICE.fullmatch(bare):
        return AnswerKey(kind="choice", value=choice[1])
    if truth := _TRUTHS.get(bare.casefold()):
        return AnswerKey(kind="yes_no", value=truth)
    return _read_formula(bare, timeout) if _looks_like_formula(bare) else None


def _read_number(answer: str, timeout: float) -> AnswerKey | None:
    bare = strip_unit(tidy(unwrap(answer)))
    number = parse_number(bare)
    if number is None and not _looks_like_formula(bare) and not _CHANGED.search(bare):
        values = {number.value for number in find_numbers(bare)}
        number = values.pop() if len(values) == 1 else None
    if number is not None:
        return AnswerKey(kind="number", value=str(number))
    return _read_formula(bare, timeout) if _looks_like_formula(bare) else None


def _read_math(answer: str, timeout: float) -> AnswerKey | None:
    bare = strip_unit(tidy(unwrap(answer)))
    number = parse_number(bare)
    return _read_formula(bare, timeout) if number is None else AnswerKey(kind="number", value=str(number))


def _read_choice(answer: str, timeout: float) -> AnswerKey | None:
    bare = tidy(unwrap(answer))
    match = _LEADING_CHOICE.match(bare) or _PARENTHESISED_CHOICE.search(bare)
    return AnswerKey(kind="choice", value=match[1].upper()) if match else None


def _read_yes_no(answer: str, timeout: float) -> AnswerKey | None:
    match = _LEADING_TRUTH.match(tidy(unwrap(answer)))
    return AnswerKey(kind="yes_no", value=_TRUTHS[match[1].casefold()]) if match else None


def _read_set(answer: str, timeout: float) -> AnswerKey | None:
    """Members in any order and any brackets; each is read by itself, and all of them share the time."""
    members = split_members(unwrap(answer))
    if len(members) > MAX_LEAVES:
        return None
    keys = [canonicalise(member, timeout=timeout / max(1, len(members))) for member in members]
    values = sorted({f"{key.kind}:{key.value}" for key in keys if key.value})
    return AnswerKey(kind="set", value="{" + ", ".join(values) + "}") if values or not members else None


def _read_code(answer: str) -> AnswerKey:
    """The tree of Python code; of any other code its lines, without what stands after and before them."""
    digest = canonicalise_code(answer)
    if digest is not None:
        return AnswerKey(kind="code", value=digest)
    lines = [" ".join(line.split()) for line in answer[:MAX_CODE].splitlines()]
    return AnswerKey(kind="text", value="\n".join(line for line in lines if line))


def _read_text(answer: str, timeout: float) -> AnswerKey | None:
    return None


_READERS = {
    "auto": _read_auto,
    "number": _read_number,
    "math": _read_math,
    "choice": _read_choice,
    "yes_no": _read_yes_no,
    "set": _read_set,
    "text": _read_text,
}

_TRUTHS = {"yes": "yes", "true": "yes", "no": "no", "false": "no"}
_LEADING_TRUTH = re.compile(r"\W*(yes|no|true|false)\b", re.IGNORECASE)
_CHOICE = re.compile(r"(?:[Oo]ption |[Cc]hoice )?[(\[]?([A-E])[)\]]?[.:]?")
_LEADING_CHOICE = re.compile(
    r"(?:(?:option|choice|answer)\s*)?\W*([A-Za-z])(?=$|[).:\],]|\s*$|\s+\W)", re.IGNORECASE
)
_PARENTHESISED_CHOICE = re.compile(r"\(([A-Za-z])\)")


def _normalise_words(answer: str) -> str:
    text = unicodedata.normalize("NFKC", tidy(unwrap(answer))).casefold()
    text = " ".join(text.split()).strip(_PUNCTUATION)
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1].strip(_PUNCTUATION)
    return text if re.search(r"\w", text) else ""


_PUNCTUATION = " .,;:!?\"'`*…“”‘’"


_CHANGED = re.compile(r"\b(?:squared|cubed|factorial|negative|minus|below|beneath)\b", re.IGNORECASE)
"""Words in running text that make a number another one."""

_COMMAND = re.compile(r"\\(?:begin|end)\{[A-Za-z]+\}|\\[A-Za-z]+")
_OPERATOR = re.compile(r"[\\\d^_=+*/<>|()\[\]{}-]")


def _looks_like_formula(text: str) -> bool:
    """Whether a tidied text is mathematics rather than words: operators or a lone letter, and no long words."""
    if ":" in text or "?" in text or re.search(r"[A-Za-z]'[a-z]", text):
        return False
    rest = _COMMAND.sub(" ", text)
    words = re.findall(r"[A-Za-z]+", re.sub(r"\b(?:and|or)\b", ",", rest))
    if any(len(word) > 3 for word in words) or re.search(r"[A-Za-z]{2,} +[A-Za-z]{2,}", rest):
        return False
    return bool(_OPERATOR.search(text)) or [len(word) for word in words] == [1]


def _read_formula(text: str, timeout: float) -> AnswerKey:
    """The key of a tidied formula. Its own text where it is unsafe, cannot be parsed or takes too long."""
    members = _compute(text, timeout) if is_safe(text) else None
    if members is None:
        return AnswerKey(kind="text", value=_IDLE_SPACE.sub("", " ".join(text.split())))
    value = members[0] if len(members) == 1 else "{" + ", ".join(members) + "}"
    return AnswerKey(kind="number" if _RATIONAL.fullmatch(value) else "math", value=value)


_IDLE_SPACE = re.compile(r"(?<!\d) | (?!\d)")
_SIDE_BY_SIDE = re.compile(r"[\d.]\s+[\d.]")
"""Numbers without an operator: no parser may add or multiply them."""

_RATIONAL = re.compile(r"-?\d+(?:/\d+)?")
_INFINITIES = {r"\infty": "oo", r"+\infty": "oo", r"-\infty": "-oo"}


def _compute(text: str, timeout: float) -> tuple[str, ...] | None:
    """The canonical members of a formula, all its leaves computed together in one bounded request."""
    shape = parse_shape(text)
    leaves = list(dict.fromkeys(shape.leaves()))
    if len(leaves) > MAX_LEAVES:
        return None
    values: dict[str, tuple[str, ...]] = {
        leaf: (value,) for leaf in leaves if (value := _read_plain(leaf)) is not None
    }
    hard = tuple(leaf for leaf in leaves if leaf not in values)
    if any(_SIDE_BY_SIDE.search(leaf) for leaf in hard):
        return None
    computed = FORMULAS.canonicalise(hard, timeout=timeout) if hard else ()
    if computed is None:
        return None
    values.update(zip(hard, computed, strict=True))
    return _render(shape, values)


def _read_plain(leaf: str) -> str | None:
    """What needs no computing: numbers and infinities."""
    number = parse_number(leaf)
    return str(number) if number is not None else _INFINITIES.get(leaf.replace(" ", ""))


def _render(shape: Shape, values: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The canonical members of a shape: several for a set, one for everything else."""
    if shape.kind == "leaf":
        return values[shape.text]
    if shape.kind == "base":
        return (shape.text,)
    parts = [_render(part, values) for part in shape.parts]
    if shape.kind == "set":
        return tuple(sorted({member for part in parts for member in part})) or ("{}",)
    texts = [part[0] if len(part) == 1 else "{" + ", ".join(part) + "}" for part in parts]
    if shape.kind == "union":
        return (" U ".join(sorted(set(texts))),)
    return (shape.text[0] + ", ".join(texts) + shape.text[1],)
