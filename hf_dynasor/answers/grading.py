"""Whether an answer is right. Grading may forgive what grouping must not, so neither uses the other's rules.

A grader compares with one reference and need not be transitive: it accepts six decimals of a third, a percentage
for a fraction, `x = 5` for 5, and what math-verify finds equal.
"""

from __future__ import annotations

import re
from fractions import Fraction

from hf_dynasor.answers.formulas import DEFAULT_TIMEOUT, FORMULAS, is_safe
from hf_dynasor.answers.keys import AnswerFormat, AnswerKey, canonicalise, check_format
from hf_dynasor.answers.notation import tidy, unwrap

TOLERANCE = Fraction(1, 10**6)
"""Largest difference from a reference that is no integer; an integer is right or wrong."""

RELATIVE_TOLERANCE = Fraction(1, 10**5)
"""Largest difference as a share of the reference, so that a small one asks for six digits, not six decimals."""

_PERCENT = re.compile(r"(?:\\?%|\bpercent\b|\bpct\b)\s*$", re.IGNORECASE)
_BASE = re.compile(r"_\{?\d+\}?$")


def is_correct(
    answer: str | None, reference: str, *, format: AnswerFormat = "auto", timeout: float = DEFAULT_TIMEOUT
) -> bool:
    r"""Grades an answer against a dataset's reference.

    Args:
        answer: The extracted answer; `None`, none was found, is wrong.
        reference: The reference as the dataset has it: `"… #### 18"`, `"9 (apples)"`, `"033"`, LaTeX, a choice.
        format: How both are read; `"auto"` reads the answer as whatever the reference is.
        timeout: Seconds of processor time that each formula may take; not in time counts as wrong.

    Returns:
        Whether the answer is right.

    Raises:
        ConfigurationError: If `format` is unknown or `timeout` is not positive.

    Examples:
        >>> is_correct("18 dollars", "She makes 9 * 2 = 18. #### 18")
        True
        >>> is_correct("33", "033"), is_correct("0.333333", r"\frac13"), is_correct("12345", "12346")
        (True, True, False)
    """
    check_format(format)
    reference = reference.rpartition("####")[2].strip()
    expected = canonicalise(reference, format=format, timeout=timeout)
    if answer is None or not expected.value:
        return False
    given = canonicalise(answer, format=format, timeout=timeout)
    if given == expected or (not given.value):
        return bool(given.value)
    if format == "auto" and expected.kind in ("number", "choice", "yes_no"):
        given = canonicalise(answer, format=expected.kind, timeout=timeout)
    if expected.kind == "number" and given.kind == "number":
        return _is_close(
            Fraction(given.value), Fraction(expected.value), *map(_is_percentage, (answer, reference))
        )
    if "math" not in (expected.kind, given.kind):
        return given == expected
    return given == expected or _is_verified(answer, reference, given, expected, timeout)


def _is_close(given: Fraction, expected: Fraction, is_percentage: bool, expects_percentage: bool) -> bool:
    if is_percentage != expects_percentage and _is_near(
        given / 100 if is_percentage else given * 100, expected
    ):
        return True
    return _is_near(given, expected)


def _is_near(given: Fraction, expected: Fraction) -> bool:
    tolerance = min(TOLERANCE, RELATIVE_TOLERANCE * abs(expected))
    return given == expected or (expected.denominator != 1 and abs(given - expected) < tolerance)


def _is_percentage(text: str) -> bool:
    return bool(_PERCENT.search(unwrap(text)))


def _is_verified(answer: str, reference: str, given: AnswerKey, expected: AnswerKey, timeout: float) -> bool:
    """math-verify's judgement, except where it is known to look away: digits in another base."""
    texts = [tidy(unwrap(text)) for text in (reference, answer)]
    if not all(is_safe(text) for text in texts):
        return False
    if all(_BASE.search(key.value) for key in (given, expected)):
        return False
    return FORMULAS.is_verified(texts[0], texts[1], timeout=timeout)
