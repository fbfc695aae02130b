"""Plain numbers, exactly: integers, decimals, fractions, mixed numbers, with units and currency around them.

Everything here is syntax and `Fraction`; nothing is rounded and nothing can take long. A unit, a currency and a
percent sign are words around the number: `$18`, `18 dollars` and `18` are one answer, and so are `50%` and `50`
(questions that ask for a percentage are answered either way), while `50%` and `0.5` are two.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from hf_dynasor.answers.units import CURRENCY, read_factor, read_unit

MAX_DIGITS = 200
MAX_FACTOR = 40
"""Characters after a number inside running text in which a scale such as `hundred million` is read."""

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_DECIMAL = r"(?:\d{1,3}(?:,\d{3}){1,66}(?![\d,])|\d{1,3}(?:[ ]\d{3}){1,66}(?!\d)|\d+)(?:\.\d*)?|\.\d+"
_PART = r"\s*[+-]?\s*(?:\d+(?:\.\d*)?|\.\d+)\s*"
_REPEATING = re.compile(r"([+-]?)(\d{0,50})\.(\d{0,50})\\overline\s*\{(\d{1,50})\}", re.ASCII)
_NUMBER = re.compile(
    rf"""(?:(?:about|approximately|approx\.?|roughly|\\approx)\s*)?
    (?P<sign>[+-]?)\s*{CURRENCY}?\s*(?P<inner_sign>[+-]?)\s*
    (?:(?:(?P<whole>\d+)\s*)?\\frac\s*\{{(?P<top>{_PART})\}}\s*\{{(?P<bottom>{_PART})\}}
    |(?:(?P<slash_whole>\d+)\s+)?(?P<slash_top>\d+(?:\.\d+)?)\s*/\s*(?P<slash_bottom>\d+(?:\.\d+)?)(?![\d.])
    |(?P<decimal>{_DECIMAL})(?:[eE](?P<exponent>[+-]?\d{{1,3}})(?!\w)
        |\s*(?:\\times|\\cdot|\*|x)\s*10\^\s*\{{?\s*(?P<power>[+-]?\d{{1,3}})\s*\}}?)?)""",
    re.VERBOSE | re.ASCII,
)
_UNIT_WORD = re.compile(
    "square|sq|cubic|cu|units?|inch|inches|foot|feet|yards?|miles?|met(?:er|re)s?|cm|mm|km|ft|in|kg|grams|pounds|liters"
    "|hours?|minutes?|seconds?|days?|years?|degrees?|radians?|dollars?|cents?|percent|per"
)
_TRAILING_WORD = re.compile(r"(?<=[\s\d}\])])([A-Za-z]+)(?:\s*\^\s*\{?[23]\}?)?\s*$")
_TRAILING_SYMBOL = re.compile(r"(?<=[\d}\])\sA-Za-z])\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\?%|\\degrees?)\s*$")


def parse_integer(text: str) -> int | None:
    """The integer that `text` plainly is, the commonest answer; None for any other spelling."""
    return int(text) if _INTEGER.fullmatch(text) else None


def parse_number(text: str) -> Fraction | None:
    r"""The number that a tidied answer states, whatever unit stands around it; None where it states none.

    Examples:
        >>> parse_number("$1,234.50"), parse_number("9 (apples)"), parse_number(r"-\frac{1}{2} cm")
        (Fraction(2469, 2), Fraction(9, 1), Fraction(-1, 2))
        >>> parse_number("3:30 p.m.") is None and parse_number("2x") is None
        True
    """
    if repeating := _REPEATING.fullmatch(text):
        return _read_repeating(*repeating.groups())
    match = _NUMBER.match(text)
    if match is None or len(match[0]) > MAX_DIGITS:
        return None
    factor = read_unit(text[match.end() :])
    value = _read_value(match)
    return None if factor is None or value is None else value * factor


class FoundNumber(NamedTuple):
    """A number inside running text: its value, and where its spelling starts and ends."""

    value: Fraction
    start: int
    end: int


def find_numbers(text: str, *, start: int = 0) -> list[FoundNumber]:
    """Every number inside running text from `start` on, in order; digits inside words are not numbers.

    Examples:
        >>> text = "She sells 16 - 3 = 13 eggs at $2.50, room B2."
        >>> [text[number.start : number.end] for number in find_numbers(text)]
        ['16', '3', '13', '$2.50']
        >>> find_numbers("about 3 million")
        [FoundNumber(value=Fraction(3000000, 1), start=6, end=15)]
    """
    found, place = [], start
    while match := _find_number(text, place):
        value = _read_value(match) if len(match[0]) <= MAX_DIGITS else None
        if value is not None:
            first, last = (
                match.end() - len(match[0].lstrip()),
                match.start() + len(match[0].rstrip().rstrip(".")),
            )
            factor, length = read_factor(text[last : last + MAX_FACTOR])
            found.append(FoundNumber(value * factor, first, last + length))
        place = match.end()
    return found


def strip_unit(text: str) -> str:
    r"""A formula without the degrees, percent sign or well-known units at its end.

    Examples:
        >>> strip_unit(r"6\pi square units"), strip_unit("x is even")
        ('6\\pi', 'x is even')
    """
    text = _TRAILING_SYMBOL.sub("", text)
    while (word := _TRAILING_WORD.search(text)) and _UNIT_WORD.fullmatch(word[1]):
        text = text[: word.start()].rstrip()
    return text


_NUMBER_START = re.compile(
    r"(?<![\w.])(?:(?<!\d )[+-](?=[\d.$\\]))?(?:(?:\\frac|\\?\$|[€£¥₹])\s{0,3})?(?=[\d.\\{])", re.ASCII
)


def _find_number(text: str, place: int) -> re.Match[str] | None:
    for start in _NUMBER_START.finditer(text, place):
        match = _NUMBER.match(text, start.start())
        if match and match.end() > start.start():
            return match
    return None


def _read_value(match: re.Match[str]) -> Fraction | None:
    group = match.groupdict()
    top, bottom = group["top"] or group["slash_top"], group["bottom"] or group["slash_bottom"]
    if top is not None and bottom is not None:
        denominator = _to_fraction(bottom)
        if denominator == 0:
            return None
        value = int(group["whole"] or group["slash_whole"] or 0) + _to_fraction(top) / denominator
    else:
        value = _to_fraction(group["decimal"])
        power = int(group["exponent"] or group["power"] or 0)
        if abs(power) > MAX_DIGITS:
            return None
        value = value * 10**power if power >= 0 else value / 10**-power
    return -value if (group["sign"] == "-") != (group["inner_sign"] == "-") else value


def _read_repeating(sign: str, whole: str, fixed: str, period: str) -> Fraction:
    shown = Fraction(int(whole + fixed or 0), 10 ** len(fixed))
    value = shown + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
    return -value if sign == "-" else value


def _to_fraction(digits: str) -> Fraction:
    return Fraction(digits.replace(",", "").replace(" ", ""))
