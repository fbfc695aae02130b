"""The words after a number: units that only name what is counted, scales that multiply it, and all that may not go.

A unit is a phrase of ordinary words around a noun: `apples`, `boxes of pens`, `km/h`. Whatever may change the number
(`squared`, `more than`), place it (`west`, `below`, `noon`) or be a factor of it (a lone letter) makes it no unit.
"""

from __future__ import annotations

import re
from fractions import Fraction

CURRENCY = r"(?:\\?\$|[€£¥₹]|USD|EUR|GBP|Rs\.?)"
MAX_WORDS = 7

_ATTACHED = (
    "cm|mm|km|nm|dm|kg|mg|ml|mi|ft|lbs?|oz|yd|hrs?|mins?|secs?|mph|kph|kmh|deg|degrees|dollars|cents|hours|minutes"
    "|seconds|miles|meters|metres|inches|feet|USD|EUR|GBP|st|nd|rd|th"
)
_SYMBOL = re.compile(
    rf"(?:\^?\s*\{{?\s*\\circ\s*\}}?\s*[CF]?|\\degrees?|\\?%|{CURRENCY}|(?:{_ATTACHED})(?:\^\s*\{{?[23]\}}?)?)$"
)
_PHRASE = re.compile(r"[A-Za-z%][A-Za-z%.'’/-]*(?:\s+[A-Za-z%][A-Za-z%.'’/-]*)*")
_EXPONENT = re.compile(r"\s*\^\s*\{?[23]\}?$")
_REMARK = re.compile(r"\s+\(([A-Za-z][A-Za-z .,'’/-]*)\)$")

_SCALES = {
    "hundred": 10**2, "thousand": 10**3, "lakh": 10**5, "million": 10**6, "crore": 10**7, "billion": 10**9,
    "trillion": 10**12,
}  # fmt: skip
_PARTS = {
    "halves": 2, "thirds": 3, "fourths": 4, "fifths": 5, "sixths": 6, "sevenths": 7, "eighths": 8, "ninths": 9,
    "tenths": 10, "twelfths": 12, "hundredths": 100, "thousandths": 1000,
}  # fmt: skip
_FACTOR = re.compile(rf"[\s-]\s*({'|'.join([*_SCALES, *_PARTS])})\b", re.IGNORECASE)

_SHORT = frozenset(
    ["cm", "mm", "km", "nm", "dm", "kg", "mg", "ml", "mi", "ft", "lb", "oz", "yd", "hr", "in", "sq", "cu"]
)
_SHORT_LABELS = _SHORT | frozenset("gmlhs")
_LETTER_PAIRS = frozenset(["m/s", "g/l", "j/s", "c/f"])
_LINKS = frozenset(["a", "an", "in", "on"])
_QUALIFIERS = frozenset(["of", "us"])
_SHORT_NOUNS = """
    act amp ant ape arm bag bar bat bed bee bit box boy bug bun bus cab can cap car cat cds cod cow cub cup day
    deg dog dvd ear egg eur eye fan fig fin fox gal gas gbp gem guy gum ham hat hen hrs hut ice ink jam jar jet job
    jug key kid kit kmh kph lap lbs leg lid lot man map mat men min mol mop mph mug nap net nut oak oar oat ohm oil
    owl pad pan pct pea pen pet pie pig pin pit pod pot pts pup rad rat rib rod row rpm rug run sec set son tag tap
    tea tie tin toe ton toy tub usd van vet way web wig win won yak yds yen zoo
"""
_NOUNS = frozenset(_SHORT_NOUNS.split())
_NUMBERS = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety first third fourth fifth sixth seventh
    eighth ninth tenth hundredth thousandth half quarter quarters dozen dozens score gross couple pair myriad
    googol thousands hundreds lakhs crores infinity infinite
"""
_OPERATIONS = """
    plus minus times squared cubed factorial power powers root roots divided multiplied added subtracted mod
    modulo remainder over choose log logs doubled tripled halved reciprocal inverse negative negated and or to not no
    nor never without except excluding but off out
"""
_COMPARISONS = """
    less fewer more than least most maximum minimum greater smaller larger bigger higher lower older younger
    taller shorter longer heavier lighter faster slower earlier later before after ago early late ahead behind under
    above below beneath up down upward upwards downward downwards forward forwards backward backwards back left
    right clockwise counterclockwise anticlockwise loss losses deficit debt owed short
"""
_PLACES = """
    east west north south eastward westward northward southward northeast northwest southeast southwest noon
    midnight morning afternoon evening clock oclock january february march april may june july august september october
    november december
"""
_VARIABLES = """
    alpha beta gamma delta epsilon theta kappa lambda sigma omega
"""
_NO_UNIT = (
    frozenset(" ".join([_NUMBERS, _OPERATIONS, _COMPARISONS, _PLACES, _VARIABLES]).split())
    | _SCALES.keys()
    | _PARTS.keys()
)
_UNKNOWN_SCALE = re.compile("illions?$")
_LABELS = frozenset(["quarters", "times", "pair", "couple", "dozens", "left"])
"""What an answer's own label in parentheses may say, but no word after a number: `9 (quarters)` counts coins."""


def read_unit(text: str) -> Fraction | None:
    r"""What the text after a number multiplies it by: 1 for a unit; None where it may not be left out.

    Examples:
        >>> read_unit(" boxes of pens"), read_unit(" million dollars"), read_unit(" fifths")
        (Fraction(1, 1), Fraction(1000000, 1), Fraction(1, 5))
        >>> read_unit(" squared"), read_unit(" x y"), read_unit(" miles west")
        (None, None, None)
    """
    if remark := _REMARK.search(text):
        return read_unit(text[: remark.start()]) if _is_label(remark[1]) else None
    factor, length = read_factor(text)
    rest = text[length:]
    bare = rest.strip()
    if not bare or (length == 0 and _SYMBOL.match(bare)):
        return factor
    is_separate = rest[0] in " -" or bare[0] == "%"
    return factor if factor >= 1 and is_separate and _is_unit(bare.lstrip("-")) else None


def read_factor(text: str) -> tuple[Fraction, int]:
    """The scales (`million`) or the part (`fifths`) that follow a number, multiplied, and where they end.

    Examples:
        >>> read_factor(" hundred thousand people")
        (Fraction(100000, 1), 17)
    """
    factor, place = Fraction(1), 0
    while match := _FACTOR.match(text, place):
        word = match[1].lower()
        if word in _PARTS:
            return (factor / _PARTS[word], match.end())
        factor, place = factor * _SCALES[word], match.end()
    return factor, place


def _is_unit(text: str) -> bool:
    text = _EXPONENT.sub("", text)
    words = text.lower().split()
    if len(words) > MAX_WORDS or not _PHRASE.fullmatch(text):
        return False
    inner = [word for word in words[1:-1] if word not in _LINKS]
    nouns = [_is_noun(word) for word in (words[0], *inner, words[-1]) if word not in _QUALIFIERS]
    return None not in nouns and any(nouns)


def _is_noun(word: str) -> bool | None:
    """Whether a word can be what is counted; None where it may not be left out at all."""
    if word in _LETTER_PAIRS or word == "%":
        return True
    pieces = _split_word(word)
    if not _NO_UNIT.isdisjoint(pieces) or any(_UNKNOWN_SCALE.search(piece) for piece in pieces):
        return None
    pieces = [piece for piece in pieces if len(piece) > 1]
    if not pieces or any(len(piece) == 2 and piece not in _SHORT for piece in pieces):
        return None
    return any(len(piece) > 3 or piece in _NOUNS or piece in _SHORT for piece in pieces)


def _is_label(remark: str) -> bool:
    """Whether parentheses hold a label such as `(third graders)`: its last word is what is counted."""
    remark = remark.lower().rstrip()
    last = remark.split()[-1]
    if remark in _SHORT_LABELS or last in _LABELS:
        return True
    is_compound = "-" in remark
    has_noun = any(
        len(piece) > 3 or piece in _NOUNS or piece in _SHORT or (len(piece) == 3 and is_compound)
        for piece in _split_word(remark)
    )
    return has_noun and _NO_UNIT.isdisjoint(_split_word(last))


def _split_word(word: str) -> list[str]:
    return [piece for piece in re.split(r"[^a-z]+", word) if piece]
