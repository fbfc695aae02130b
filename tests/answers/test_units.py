"""Which words after a number only name what is counted."""

import itertools

import pytest

from hf_dynasor.answers import AnswerFormat, AnswerKey, canonicalise, is_correct

UNITS = [
    "apples", "dollars", "boxes of pens", "(apples)", "km", "km/h", "square feet", "sq ft", "cubic cm", "dollars a day",
    "miles per hour", "red balls", "men", "years old", "t-shirts", "m/s", "in", "cats", "percent", "(years old)",
    "(third graders)", "(quarters)", "(times)", "(push-ups)", "(yo-yos)", "(pieces of art)", "(g)", "feet tall", "%",
    "USD", "people", "inches^2", "kg of rice", "seconds", "days in total", "eggs", "Kinder-surprise eggs",
    "of them", "US dollars", "(sq cm)",
]  # fmt: skip

NO_UNITS = [
    ["3 fifths", "3 eighths", "3"], ["5 hundredths", "5", "5 hundred"], ["3 squared", "3 cubed", "3"],
    ["5 factorial", "5"], ["2 x y", "2 a b", "2"], ["2 (x)", "2"], ["2 abc", "2"], ["5 less than x", "5 more than x", "5"],
    ["2 below zero", "2 above zero", "2"], ["4 negative", "4"], ["5 lakh", "5 crore", "5"], ["6 o'clock", "6"], ["6 oclock", "6"], ["12 noon", "12 midnight", "12"],
    ["5 miles east", "5 miles west", "5 miles"], ["5 steps left", "5 steps right", "5"], ["3 pm", "3 am", "3 p.m.", "3"],
    ["3 halves", "3 quarters", "3 half", "3"], ["2 theta", "2 alpha", "2"], ["4 May", "4 June", "4"],
    ["5 years older", "5 years younger", "5"], ["2 choose", "2 plus", "2 minus", "2 times", "2"], ["5 zillion", "5 gazillion", "5"],
    ["2 5", "7", "25", "2"], ["3 4 5", "12", "34 5", "3 45", "345"], ["9 (hundredths)", "9 (noon)", "9"],
    ["5 dollars loss", "5 dollars"], ["7 dozen", "7"], ["5 googol", "5"],
]  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_changes_no_answer(unit: str) -> None:
    assert canonicalise(f"18 {unit}") == AnswerKey(kind="number", value="18")
    assert is_correct("18", f"18 {unit}")


@pytest.mark.parametrize("answers", NO_UNITS, ids=lambda answers: answers[0])
def test_words_that_say_something_are_no_unit(answers: list[str]) -> None:
    """Any word of three letters, and any two words, counted as a unit: `3 fifths`, `3 eighths` and 3 were one answer."""
    for first, second in itertools.combinations(answers, 2):
        assert canonicalise(first) != canonicalise(second), (first, second)


@pytest.mark.parametrize(
    ("answer", "value"),
    [("3 fifths", "3/5"), ("5 hundredths", "1/20"), ("5 lakh", "500000"), ("2 hundred thousand", "200000"),
     ("2 crore rupees", "20000000"), ("1.5 million", "1500000"), ("10-million dollars", "10000000"), ("3 halves", "3/2")],
)  # fmt: skip
def test_scales_and_parts_are_computed(answer: str, value: str) -> None:
    for format in ("auto", "number"):
        assert canonicalise(answer, format=format) == AnswerKey(kind="number", value=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("format", ["auto", "number", "math"])
def test_numbers_side_by_side_are_not_added(format: AnswerFormat) -> None:
    """The parser read `2 5` as 7 and `3 4 5` as 12."""
    assert canonicalise("2 5", format=format) == AnswerKey(kind="text", value="2 5")
    assert canonicalise("3  4 5", format=format) == AnswerKey(kind="text", value="3 4 5")
    assert canonicalise("1 234 567", format=format).value == "1234567"
    assert canonicalise("4 1/2", format=format).value == "9/2"


@pytest.mark.parametrize(
    ("answer", "reference"),
    [("2 x y", "2"), ("3 squared", "3"), ("5 factorial", "5"), ("4 negative", "4"), ("2 below zero", "2"), ("2 5", "7"),
     ("3 fifths", "3"), ("10 million", "10"), ("minus 4", "4")],
)  # fmt: skip
def test_a_grader_keeps_the_words_too(answer: str, reference: str) -> None:
    """`is_correct("2 x y", "2")` was True."""
    assert not is_correct(answer, reference)


def test_running_text_keeps_its_scale() -> None:
    assert canonicalise("They paid 10 million dollars", format="number").value == "10000000"
    assert canonicalise("That is 5 squared", format="number").kind == "text"
