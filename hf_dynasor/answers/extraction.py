"""The final answer of a completion, found by what models write around it.

Best first: the last balanced `\\boxed{...}`, then "the answer is …", "Final answer: …" and "#### …", then what the
format allows: the last number, a lone letter, yes or no. Thinking counts only while nothing follows it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hf_dynasor.answers.code import find_code
from hf_dynasor.answers.fallbacks import FALLBACKS, MAX_SHORT, Span
from hf_dynasor.answers.keys import AnswerFormat, check_format
from hf_dynasor.answers.notation import DELIMITED, match_braces

MAX_STATED = 400
MAX_ANCHORS = 8

_BOX = re.compile(r"\\f?boxed\s*|\\fbox\s*")
_BARE_CONTENT = re.compile(r"[^\s$.,{}\\]+")
_ANCHOR = re.compile(
    r"""(?:\b(?:(?:final|correct|right|best)\s{1,3})?answer(?:\s{1,3}to\s[^.:\n]{0,80}?)?[*_\s]{0,5}
        (?:\sis\s{0,3}:?|\swould\sbe|:|=|\s(?=['"]))|\bfinal\s{1,3}answer[*_\ ]{0,5}\n|\#{4})[*_\s]{0,5}(?!not\b)""",
    re.IGNORECASE | re.VERBOSE,
)
_SENTENCE_END = re.compile(
    r"(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\bvs)[.!?](?=\s+[A-Z\\$*]|\s*$)"
)
_AFTERTHOUGHT = re.compile(r",?\s+(?:because|since|which|so|as|but)\b|\s+[-–—]\s+[A-Za-z]|<")
_LETTER_FIRST = re.compile(r"\(([A-Z])\)|([A-Z])(?=[).:](?!\d)|$)")
_SAYS_SOMETHING = re.compile(r"\w|\\[A-Za-z]|[∅∞√]")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundAnswer:
    """An answer and the place where it stands.

    Args:
        text: The answer as it was written, without what only displays it, such as spaces, `$` and a full stop.
        start: Where it starts in the text that was searched, in characters.
        end: Where it ends. `start:end` is all that was taken: the whole content of a box, the whole stated answer,
            the number; `text` stands in it, once.
    """

    text: str
    start: int
    end: int


def find_answer(
    text: str, *, format: AnswerFormat = "auto", allow_unclosed: bool = False, is_truncated: bool = False
) -> FoundAnswer | None:
    r"""Finds the final answer that a completion states, and where.

    Args:
        text: The completion. What stands inside `<think>…</think>` is looked at only if nothing follows it.
        format: What is looked for where the text names no answer, unless its thinking was cut off: the last
            number (`"number"`, `"auto"`), the last lone letter (`"choice"`), the last yes or no (`"yes_no"`), the
            last formula (`"math"`), the last brackets with members (`"set"`), the last line (`"text"`). For `"code"`
            it is the last fenced block, whatever else the text states.
        allow_unclosed: The text may begin inside a box that the prompt opened, and may end before a box is
            closed: take what there is. Meant for probes.
        is_truncated: The completion was cut off by a token limit: only a box or a stated answer counts, since its
            last number is whatever it happened to be at.

    Returns:
        The answer and its place in `text`; `None` where there is none, or an empty one.

    Raises:
        ConfigurationError: If `format` is unknown.

    Examples:
        >>> found = find_answer(r"So \boxed{ 8 }. That took 18 steps.")
        >>> found
        FoundAnswer(text='8', start=10, end=13)
    """
    check_format(format)
    part = _choose_part(text)
    if format == "code":
        return _find_code(part, is_truncated or part.is_cut_off)
    span = _find_span(part.text, format, allow_unclosed, is_truncated or part.is_cut_off)
    if span is None or (answer := _clean(part.text[slice(*span)])) is None:
        return None
    return FoundAnswer(text=answer, start=part.offset + span[0], end=part.offset + span[1])


def extract_answer(
    text: str, *, format: AnswerFormat = "auto", allow_unclosed: bool = False, is_truncated: bool = False
) -> str | None:
    r"""Finds the final answer that a completion states; [`find_answer`] also says where.

    Args:
        text: The completion.
        format: What is looked for where the text names no answer.
        allow_unclosed: The text may begin or end inside a box.
        is_truncated: The completion was cut off by a token limit.

    Returns:
        The answer as it was written, without the box; `None` where there is none, or an empty one.

    Raises:
        ConfigurationError: If `format` is unknown.

    Examples:
        >>> extract_answer(r"<think>Is it \boxed{7}?</think> So it is \boxed{\frac{1}{2}}.")
        '\\frac{1}{2}'
        >>> extract_answer("The answer is $18 per day.")
        '$18 per day'
        >>> extract_answer(r"So \boxed{18") is None
        True
        >>> extract_answer("18}$ and so on", allow_unclosed=True)
        '18'
    """
    found = find_answer(text, format=format, allow_unclosed=allow_unclosed, is_truncated=is_truncated)
    return None if found is None else found.text


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """The part of a text that counts, where it starts, and whether it is thinking that was cut off."""

    text: str
    offset: int = 0
    is_cut_off: bool = False


def _choose_part(text: str) -> _Part:
    thinking, closing, rest = text.rpartition("</think>")
    if not closing:
        return _Part(text=text, is_cut_off="<think>" in text)
    return _Part(text=rest, offset=len(text) - len(rest)) if rest.strip() else _Part(text=thinking)


def _find_code(part: _Part, is_truncated: bool) -> FoundAnswer | None:
    """The last block of code, its layout untouched."""
    span = find_code(part.text, is_truncated=is_truncated)
    if span is None or not (answer := part.text[slice(*span)].strip("\n")).strip():
        return None
    return FoundAnswer(text=answer, start=part.offset + span[0], end=part.offset + span[1])


def _find_span(text: str, format: AnswerFormat, allow_unclosed: bool, is_cut_off: bool) -> Span | None:
    if allow_unclosed and (inner := _find_opened_box(text)) is not None:
        return inner
    if (box := _find_box(text, allow_unclosed=allow_unclosed)) is not None:
        return box
    if (stated := _find_stated(text)) is not None:
        return stated
    if allow_unclosed and len(text) <= MAX_SHORT and "\n" not in text.strip():
        return 0, len(text)
    return None if is_cut_off else FALLBACKS[format](text)


def _find_opened_box(text: str) -> Span | None:
    """What stands before the brace that closes a box which the prompt opened."""
    box = _BOX.search(text)
    limit = box.start() if box else len(text)
    end = match_braces("{" + text).get(0)
    return (0, end - 1) if end is not None and end - 1 <= limit else None


def _find_box(text: str, *, allow_unclosed: bool) -> Span | None:
    """The content of the last balanced box. An unclosed one alone holds nothing, or what is there if asked."""
    boxes = list(_BOX.finditer(text))
    unclosed, closings = None, match_braces(text) if boxes else {}
    for box in reversed(boxes):
        if text[box.end() : box.end() + 1] != "{":
            bare = _BARE_CONTENT.match(text, box.end()) if text[box.end() - 1].isspace() else None
            if bare:
                return bare.span()
            continue
        end = closings.get(box.end())
        if end is not None:
            return box.end() + 1, end
        unclosed = (box.end() + 1, len(text) if allow_unclosed else box.end() + 1)
        if allow_unclosed:
            break
    return unclosed


def _find_stated(text: str) -> Span | None:
    """What follows the last "the answer is" or its like, up to the end of its sentence."""
    for anchor in list(_ANCHOR.finditer(text))[: -MAX_ANCHORS - 1 : -1]:
        following = text[anchor.end() : anchor.end() + MAX_STATED].lstrip()
        start = min(anchor.end() + MAX_STATED, len(text)) - len(following)
        if marked := DELIMITED.match(following) or _LETTER_FIRST.match(following):
            first, last = marked.span(marked.lastindex or 0)
            return start + first, start + last
        sentence = _SENTENCE_END.split(following.split("\n", 1)[0], maxsplit=1)[0]
        stated = _AFTERTHOUGHT.split(sentence, maxsplit=1)[0]
        if _SAYS_SOMETHING.search(stated):
            return start, start + len(stated)
    return None


def _clean(answer: str) -> str | None:
    """Without what only displays it; None where nothing is said (`""`, `"?"`, `"..."`)."""
    answer = answer.strip()
    answer = answer[: _find_last_word(answer)].removeprefix("**").strip()
    if len(answer) > 2 and answer.startswith("$") and answer.endswith("$") and "$" not in answer[1:-1]:
        answer = answer[1:-1].strip()
    return answer if _SAYS_SOMETHING.search(answer) else None


def _find_last_word(answer: str) -> int:
    r"""Where the full stops, commas and emphasis at its end begin; the dot of a `\right.` is none."""
    end = len(answer)
    while answer.endswith((".", ",", ";", "**"), 0, end) and not answer.endswith(r"\right.", 0, end):
        end -= 2 if answer.endswith("**", 0, end) else 1
        while answer.endswith(" ", 0, end):
            end -= 1
    return end
