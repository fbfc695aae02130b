"""What is the same answer, and what is not."""

import pytest

from hf_dynasor import answers
from hf_dynasor.answers import AnswerKey, canonicalise
from hf_dynasor.errors import ConfigurationError

SAME = {
    "thousands": ["1234", "1,234", "$1,234", "1,234.0", r"1{,}234", r"1,\!234", "1 234", " 1234. "],
    "a half": ["0.5", ".5", "0.50", "1/2", r"\frac12", r"\dfrac{1}{2}", r"\frac {1} {2}", "½", r"2^{-1}"],
    "units": ["18", "$18", r"\$18", "18 dollars", "18 (dollars)", "18 (g)", "18 (miles/hour)", "18 (t-shirts)", r"18\text{ dollars}", "$18.00", "018", "x = 18"],
    "repeating decimals": ["1/6", r"0.1\overline{6}", r"\frac16"],
    "named tuples": ["(1,2)", "(x,y) = (1,2)", "(1, 2) = (a, b)"],
    "percent": ["50", "50%", r"50\%", "50 percent"],
    "mixed numbers": ["9/2", r"4\frac{1}{2}", "4 1/2", "4.5"],
    "minus": ["-3", "−3", "- 3", r"-\frac{6}{2}", "(-1)^1 * 3"],
    "degrees": ["90", r"90^\circ", "90°", "90 degrees"],
    "displays": ["7", "$7$", r"\(7\)", r"\boxed{7}", "**7**", r"\text{7}"],
    "roots": [r"2\sqrt{2}", r"\sqrt{8}", r"2\sqrt2", "2√2", r"\frac{4}{\sqrt{2}}", "sqrt(8)"],
    "computed numbers": ["1024", "2^{10}", "32 * 32", r"\sqrt{1048576}", "1000 + 24 = 1024"],
    "polynomials": ["(a+5)(b+2)", "ab+2a+5b+10", "(b+2)(a+5)"],
    "quotients": [r"\frac{x^2-1}{x-1}", "x+1", "1 + x", "y = x + 1"],
    "trigonometry": [r"\cot x", r"\frac{\cos x}{\sin x}", "cot(x)"],
    "complex": ["6-5i", "6 - 5 i", "-5i+6"],
    "equations": ["5x-7y+11z+4=0", "-10x+14y-22z-8=0", "5x-7y+11z=-4"],
    "inequalities": ["x>3", "3<x", "2x > 6"],
    "tuples": ["(1,2)", r"\left( 1, 2 \right)", r"\langle 1,2 \rangle", "(1.0, 4/2)"],
    "sets": ["{1,2}", r"\{2,1\}", "1, 2", "2 and 1", "1,2,2", "x = 1 or x = 2"],
    "plus or minus": [r"1 \pm \sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}"],
    "intervals": [r"[2,\infty)", r"\left[2, \infty\right)", r"x \in [2,\infty)"],
    "unions": [r"(-\infty,2)\cup(3,\infty)", r"(3,\infty) \cup (-\infty, 2)"],
    "matrices": [r"\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}", r"\begin{bmatrix}-\frac{1}{3}\\\frac{2}{3}\end{bmatrix}"],
    "choices": ["B", "(B)", "B.", r"\text{B}", r"\text{(B)}", "**B**", "Option B"],
    "truth": ["Yes", "yes.", r"\text{yes}", "True"],
    "words": ["The first rest stop", "the  first rest stop.", r"\text{The first rest stop}", '"The first rest stop"'],
    "times of day": ["3:30 p.m.", "3:30 P.M."],
}  # fmt: skip

DIFFERENT = [
    ("1", "100"), ("0.5", "50"), ("0.5", "50%"), ("12345", "12346"), ("(1,2)", "[1,2]"), ("(1,2)", "{1,2}"),
    ("(1,2)", "(2,1)"), ("(1,2]", "(1,2)"), ("52_8", "52"), ("52_8", "52_9"), ("0.333", "1/3"), ("3:4", "3/4"),
    ("3:4", "4:3"), ("x", "|x|"), (r"\pi R^2", r"\pi r^2"), ("x=5, y=3", "x=3, y=5"), ("10 million", "10"),
    ("2x", "2"), ("720(b)", "720"), ("9 (x+y)", "9"), ("9 (x-y)", "9"), ("5 pm", "5"), (r"\infty", r"-\infty"), (r"(2,\infty)", r"[2,\infty)"), ("yes", "no"), ("A", "B"),
    ("x>3", "x<3"), ("x>3", r"x \ge 3"), ("x<3", "-x<3"), ("7 remainder 2", "7"), ("1e3", "1e4"), ("Ann", "Anne"),
    (r"\sqrt{2}", "1.41421356"), (r"\frac{355}{113}", r"\pi"), ("9" * 30, "9" * 29 + "8"), ("1/0", "2/0"),
]  # fmt: skip


@pytest.mark.parametrize("spellings", SAME.values(), ids=SAME.keys())
def test_spellings_of_one_answer_have_one_key(spellings: list[str]) -> None:
    keys = {spelling: canonicalise(spelling) for spelling in spellings}
    assert len(set(keys.values())) == 1, keys


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_different_answers_have_different_keys(first: str, second: str) -> None:
    assert canonicalise(first) != canonicalise(second)


def test_a_grader_is_not_used_for_clustering() -> None:
    """Peers clustered with a grader: 1 == 100, 0.5 == 50, 12345 == 12346 by relative tolerance, (1,2) == [1,2]."""
    for first, second in [("1", "100"), ("0.5", "50"), ("12345", "12346"), ("(1,2)", "[1,2]")]:
        for format in ("auto", "number", "math"):
            assert canonicalise(first, format=format) != canonicalise(second, format=format)


@pytest.mark.parametrize(
    ("answer", "format", "key"),
    [
        ("She earns 18 dollars.", "number", AnswerKey(kind="number", value="18")),
        ("18 or 20", "number", AnswerKey(kind="math", value="{18, 20}")),
        ("from 18 up to 20", "number", AnswerKey(kind="text", value="from 18 up to 20")),
        (r"\sqrt{4}", "number", AnswerKey(kind="number", value="2")),
        ("b", "choice", AnswerKey(kind="choice", value="B")),
        ("(C) because it is blue", "choice", AnswerKey(kind="choice", value="C")),
        ("Apples", "choice", AnswerKey(kind="text", value="apples")),
        ("No, they are not.", "yes_no", AnswerKey(kind="yes_no", value="no")),
        ("I know", "yes_no", AnswerKey(kind="text", value="i know")),
        ("North", "yes_no", AnswerKey(kind="text", value="north")),
        ("18", "text", AnswerKey(kind="text", value="18")),
        ("18.0", "text", AnswerKey(kind="text", value="18.0")),
        ("?", "auto", AnswerKey(kind="text", value="")),
    ],
)
def test_a_format_decides_how_an_answer_is_read(
    answer: str, format: answers.AnswerFormat, key: AnswerKey
) -> None:
    assert canonicalise(answer, format=format) == key


def test_what_cannot_be_computed_keeps_its_own_text() -> None:
    assert canonicalise("12^{") == AnswerKey(kind="text", value="12^{")
    assert canonicalise(r"\frac { 1 }{ 0 }").kind == "text"
    assert canonicalise("x" * 5000).kind == "text"


def test_numbers_too_long_to_be_meant_are_text() -> None:
    assert canonicalise("1" * 1000).kind == "text"
    assert canonicalise("1e999999999").kind == "text"


def test_an_unknown_format_lists_the_known_ones() -> None:
    with pytest.raises(
        ConfigurationError, match=r"'maths'.*auto, choice, code, math, number, set, text, yes_no"
    ):
        canonicalise("1", format="maths")  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_timeout_must_be_positive(timeout: float) -> None:
    with pytest.raises(ConfigurationError, match="timeout"):
        canonicalise("1", timeout=timeout)


def test_the_public_names_are_sorted_and_there() -> None:
    assert answers.__all__ == sorted(answers.__all__)
    assert all(hasattr(answers, name) for name in answers.__all__)
