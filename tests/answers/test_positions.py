r"""Where an answer stands in the text it was found in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_dynasor.answers import AnswerFormat, FoundAnswer, extract_answer, find_answer


@pytest.mark.parametrize(
    ("text", "spelled", "answer"),
    [
        (r"So \boxed{8}. That took 18 steps.", "8", "8"),
        (r"<think>8, or 18?</think>So \boxed{8}. That took 18 steps.", "8", "8"),
        ("  \n" + r"<think>\boxed{18}</think>" + "\n\n" + r"So $\boxed{ $8$ }$. That took 18 steps.", " $8$ ", "8"),
        (r"So \boxed 8, in 18 steps", "8", "8"),
        (r"\boxed{8}</think>  ", "8", "8"),
        ("The answer is  8 because 18 is not. 18", "8", "8"),
        ("The answer is $8$, not 18", "8", "8"),
        ("Answer: (B) for B", "B", "B"),
        ("18 plus 8 is 26.", "26", "26"),
        ("It takes 18 and - 8 - then $2.50.", "$2.50", "$2.50"),
    ],
)  # fmt: skip
def test_an_answer_stands_where_it_was_read(text: str, spelled: str, answer: str) -> None:
    r"""Probabilities were once read at `text.rfind("8")`, which is in `18` for "So \boxed{8}. That took 18 steps."."""
    found = find_answer(text)
    assert found is not None
    assert (text[found.start : found.end], found.text) == (spelled, answer)


def test_a_box_and_not_a_later_number_is_the_place() -> None:
    r"""The 8 of "18" was read where the box's 8 was meant."""
    text = r"So \boxed{8}. That took 18 steps."
    assert find_answer(text) == FoundAnswer(text="8", start=text.index("{") + 1, end=text.index("}"))


@pytest.mark.parametrize(
    ("text", "format", "spelled"),
    [
        ("It is B, or is it (d) then", "choice", "d"),
        ("No, so yes, I think", "yes_no", "yes"),
        ("so $x+1$ or $x+2$ holds", "math", "x+2"),
        ("line one\nthe last line\n\n", "text", "the last line"),
        ("8 words " * 200 + "and no more", "number", "8"),
        ("no words " * 200 + "8 " + "no words " * 200, "number", "8"),
    ],
)
def test_a_fallback_has_a_place_too(text: str, format: AnswerFormat, spelled: str) -> None:
    found = find_answer(text, format=format)
    assert found is not None
    assert text[found.start : found.end] == spelled == found.text
    assert text.find(spelled, found.end) < 0


def test_an_unclosed_box_has_a_place() -> None:
    for text, span in [("18}$ and so on", (0, 2)), (r"so \boxed{ 18", (10, 13)), (" 18 ", (0, 4))]:
        found = find_answer(text, allow_unclosed=True)
        assert found == FoundAnswer(text="18", start=span[0], end=span[1])


def test_nothing_stands_nowhere() -> None:
    assert find_answer("") is None
    assert find_answer(r"\boxed{?}") is None
    assert find_answer("12, then 13", is_truncated=True) is None


PIECES = st.sampled_from(
    [r"\boxed{", "}", "8", "18", " ", "$", "the answer is ", ".", "\n", "</think>", "<think>", "(B)", "so ", "**", r"\("]
)  # fmt: skip


@given(
    st.lists(PIECES, max_size=14).map("".join),
    st.sampled_from(["auto", "number", "math", "choice", "yes_no", "text"]),
    st.booleans(),
)
def test_the_place_holds_the_answer(text: str, format: AnswerFormat, allow_unclosed: bool) -> None:
    found = find_answer(text, format=format, allow_unclosed=allow_unclosed)
    assert extract_answer(text, format=format, allow_unclosed=allow_unclosed) == (found and found.text)
    if found:
        assert 0 <= found.start < found.end <= len(text)
        assert found.text in text[found.start : found.end]
