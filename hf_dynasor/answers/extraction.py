"""The final answer of a completion, found by what models write around it.

Best first: the last balanced `\\boxed{...}`, then "the answer is …", "Final answer: …" and "#### …", then what the
format allows: the last number, a lone letter, yes or no. Thinking counts only while nothing follows it.
"""

from __future__ import annotations

import re

from hf_dynasor.answers.keys import AnswerFormat, check_format
from hf_dynasor.answers.notation import match_braces
from hf_dynasor.answers.numeric import find_numbers

MAX_SHORT = 100
"""Longest text, in characters, that can be an answer as a whole."""

MAX_STATED = 400
MAX_ANCHORS = 8

_BOX = re.compile(r"\\f?boxed\s*|\\fbox\s*")
_BARE_CONTENT = re.compile(r"[^\s$.,{}\\]+")
_ANCHOR = re.compile(
    r"""(?:\b(?:(?:final|correct|right|best)\s{1,3})?answer(?:\s{1,3}to\s[^.:\n]{0,80}?)?[*_\s]{0,5}
        (?:\sis\s{0,3}:?|\swould\sbe|:|=|\s(?=['"]))|\bfinal\s{1,3}answer[*_\ ]{0,5}\n|\#{4})[*_\s]{0,5}(?!not\b)""",
    re.IGNORECASE | re.VERBOSE,
)
_DELIMITED = re.compile(
    r"\$\$(.{1,400}?)\$\$|\\\((.{1,400}?)\\\)|\\\[(.{1,400}?)\\\]|\$([^$\n]{1,400})\$(?!\d)", re.DOTALL
)
_SENTENCE_END = re.compile(
    r"(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\bvs)[.!?](?=\s+[A-Z\\$*]|\s*$)"
)
_AFTERTHOUGHT = re.compile(r",?\s+(?:because|since|which|so|as|but)\b|\s+[-–—]\s+[A-Za-z]|<")
_LETTER_FIRST = re.compile(r"\(([A-Z])\)|([A-Z])(?=[).:](?!\d)|$)")
_LETTER = re.compile(r"\(([A-Za-z])\)|(?<![\w'’])([B-HJ-Z])(?![\w'’])|(?<![\w'’])(A)(?=[).:,]|\s*$)")
_TRUTH = re.compile(r"\b(yes|no|true|false)\b", re.IGNORECASE)
_WORD = re.compile(r"(?<!\\)\b(?!(?:sin|cos|tan|log|ln|exp|sqrt|pi)\b)[A-Za-z]{2,}")
_SAYS_SOMETHING = re.compile(r"\w|\\[A-Za-z]|[∅∞√]")


def extract_answer(
    text: str, *, format: AnswerFormat = "auto", allow_unclosed: bool = False, is_truncated: bool = False
) -> str | None:
    r"""Finds the final answer that a completion states.

    Args:
        text: The completion. What stands inside `<think>…</think>` is looked at only if nothing follows it.
        format: What is looked for where the text names no answer, unless its thinking was cut off: the last
            number (`"number"`, `"auto"`), the last lone letter (`"choice"`), the last yes or no (`"yes_no"`), the
            last formula (`"math"`), the last line (`"text"`).
        allow_unclosed: The text may begin inside a box that the prompt opened, and may end before a box is
            closed: take what there is. Meant for probes.
        is_truncated: The completion was cut off by a token limit: only a box or a stated answer counts, since its
            last number is whatever it happened to be at.

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
    check_format(format)
    text, is_cut_off = _choose_part(text)
    if allow_unclosed and (inner := _read_opened_box(text)) is not None:
        return _clean(inner)
    if (box := _find_box(text, allow_unclosed=allow_unclosed)) is not None:
        return _clean(box)
    if (stated := _find_stated(text)) is not None:
        return _clean(stated)
    if allow_unclosed and "\n" not in text.strip() and len(text) <= MAX_SHORT:
        return _clean(text)
    return None if is_cut_off or is_truncated else _clean(_FALLBACKS[format](text) or "")


def _choose_part(text: str) -> tuple[str, bool]:
    """The part that counts, and whether it is thinking that was cut off."""
    thinking, closing, rest = text.rpartition("</think>")
    if not closing:
        return text, "<think>" in text
    return (rest if rest.strip() else thinking), False


def _read_opened_box(text: str) -> str | None:
    """What stands before the brace that closes a box which the prompt opened."""
    box = _BOX.search(text)
    limit = box.start() if box else len(text)
    end = match_braces("{" + text).get(0)
    return text[: end - 1] if end is not None and end - 1 <= limit else None


def _find_box(text: str, *, allow_unclosed: bool) -> str | None:
    """The content of the last balanced box. An unclosed one alone holds nothing, or what is there if asked."""
    unclosed, closings = None, match_braces(text)
    for box in reversed(list(_BOX.finditer(text))):
        if text[box.end() : box.end() + 1] != "{":
            bare = _BARE_CONTENT.match(text, box.end())
            if bare and text[box.end() - 1].isspace():
                return bare[0]
            continue
        end = closings.get(box.end())
        if end is not None:
            return text[box.end() + 1 : end]
        unclosed = text[box.end() + 1 :] if allow_unclosed else ""
        if allow_unclosed:
            break
    return unclosed


def _find_stated(text: str) -> str | None:
    """What follows the last "the answer is" or its like, up to the end of its sentence."""
    for anchor in list(_ANCHOR.finditer(text))[: -MAX_ANCHORS - 1 : -1]:
        following = text[anchor.end() : anchor.end() + MAX_STATED].lstrip()
        if delimited := _DELIMITED.match(following):
            return next(group for group in delimited.groups() if group is not None)
        if letter := _LETTER_FIRST.match(following):
            return letter[1] or letter[2]
        sentence = _SENTENCE_END.split(following.split("\n", 1)[0], maxsplit=1)[0]
        stated = _AFTERTHOUGHT.split(sentence, maxsplit=1)[0]
        if _SAYS_SOMETHING.search(stated):
            return stated
    return None


def _find_number(text: str) -> str | None:
    tail = text[-MAX_STATED:].partition(" ")[2] if len(text) > MAX_STATED else text
    numbers = find_numbers(tail) or find_numbers(text)
    return numbers[-1][0] if numbers else None


def _find_letter(text: str) -> str | None:
    letters = [match[1] or match[2] or match[3] for match in _LETTER.finditer(text)]
    return letters[-1] if letters else None


def _find_truth(text: str) -> str | None:
    truths = _TRUTH.findall(text)
    return truths[-1] if truths else None


def _find_formula(text: str) -> str | None:
    formulas = [next(group for group in match.groups() if group) for match in _DELIMITED.finditer(text)]
    return formulas[-1] if formulas else (_find_short(text) or _find_number(text))


def _find_line(text: str) -> str | None:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else None


def _find_short(text: str) -> str | None:
    """The whole text, where it is so short that it can be nothing but an answer: `Paris`, `x^2+1`, not `It is 17`."""
    if len(text) > MAX_SHORT or len(text.split()) > 3 or (_WORD.search(text) and _find_number(text)):
        return None
    return text


def _find_anything(text: str) -> str | None:
    return _find_short(text) or _find_number(text)


_FALLBACKS = {
    "auto": _find_anything,
    "number": _find_number,
    "math": _find_formula,
    "choice": _find_letter,
    "yes_no": _find_truth,
    "text": _find_line,
}


def _clean(answer: str) -> str | None:
    """Without what only displays it; None where nothing is said (`""`, `"?"`, `"..."`)."""
    answer = answer.strip()
    while answer.endswith((".", ",", ";", "**")) and not answer.endswith(r"\right."):
        answer = answer.removesuffix("**").rstrip(".,; ")
    answer = answer.removeprefix("**").strip()
    if len(answer) > 2 and answer.startswith("$") and answer.endswith("$") and "$" not in answer[1:-1]:
        answer = answer[1:-1].strip()
    return answer if _SAYS_SOMETHING.search(answer) else None
