"""Where the final answer of a completion stands."""

import time

import pytest

from hf_dynasor.answers import AnswerFormat, extract_answer
from hf_dynasor.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"First \boxed{1}, no: \boxed{2}.", "2"),
        (r"So \boxed{\frac{1}{\sqrt{2}}}$ it is.", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\fbox{7}", "7"),
        (r"\boxed 7$", "7"),
        (r"\boxed{5} and then \boxed{1", "5"),
        (r"cut off \boxed{18", None),
        (r"The answer is 4. \boxed{18", None),
        (r"\boxed{}", None),
        (r"\boxed{?}", None),
        (r"\boxed{ \text{} }", r"\text{}"),
        (r"The answer is 3. \boxed{4}", "4"),
    ],
)
def test_the_last_balanced_box_is_the_answer(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So the answer is 18.", "18"),
        ("The answer is 18 because 9 * 2 = 18.", "18"),
        ("The answer is 5. No wait, the answer is 6.", "6"),
        ("The answer is $18 per day.", "$18 per day"),
        ("The answer is $x+1$, as shown.", "x+1"),
        (r"The answer is \(x+1\).", "x+1"),
        ("**Final Answer:** 3.5 cm", "3.5 cm"),
        ("### Final Answer\n\n42", "42"),
        ("Answer: 1,234", "1,234"),
        ("16 - 3 = 13.\n#### 13", "13"),
        ("The final answer to the question is: 7", "7"),
        ("The answer is Mrs. Hilt.", "Mrs. Hilt"),
        ("The answer is 3:30 p.m.", "3:30 p.m"),
        ("The answer is (C) because it is blue.", "C"),
        ("Answer: B. Paris", "B"),
        ("The answer is yes, because it is.", "yes"),
        ("This gives the answer 'anna'.", "'anna'"),
    ],
)
def test_a_stated_answer_is_found(text: str, answer: str) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "format", "answer"),
    [
        ("She sells 16 - 3 = 13 eggs for $1,026.50 then.", "auto", "$1,026.50"),
        ("From 5 to -7.", "number", "-7"),
        ("That makes 3/4 of them", "number", "3/4"),
        ("No digits here at all, only words", "number", None),
        ("18", "auto", "18"),
        ("Mrs. Hilt", "auto", "Mrs. Hilt"),
        ("I would say B, A cat is no dog.", "choice", "B"),
        ("It could be (A) or (d)", "choice", "d"),
        ("A dog and I", "choice", None),
        ("I know the north, so no.", "yes_no", "no"),
        ("I know the north", "yes_no", None),
        ("so $x+1$ or $x+2$ holds", "math", "x+2"),
        ("line one\nthe last line\n\n", "text", "the last line"),
        ("", "auto", None),
        ("", "text", None),
    ],
)
def test_without_a_stated_answer_the_format_decides(
    text: str, format: AnswerFormat, answer: str | None
) -> None:
    assert extract_answer(text, format=format) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"<think>\boxed{1}</think>So \boxed{2}", "2"),
        (r"\boxed{1}</think>So it is 2.", "2"),
        (r"<think>\boxed{1}</think> It is hard to say", None),
        (r"<think>\boxed{1}</think>" + "\n", "1"),
        (r"<think>It may be \boxed{1}. Wait,", "1"),
        ("<think>3 + 4 = 7, then 12 more", None),
        ("<think>3 + 4 = 7</think>", "7"),
    ],
)
def test_thinking_counts_only_while_nothing_follows_it(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("18}$ and so on", "18"),
        (r"\frac{1}{2}}", r"\frac{1}{2}"),
        ("18", "18"),
        ("x+1", "x+1"),
        (r"so \boxed{1", "1"),
        ("}", None),
        ("", None),
        ("2}. Wait, \\boxed{3}", "2"),
    ],
)
def test_a_probe_may_begin_or_end_inside_a_box(text: str, answer: str | None) -> None:
    assert extract_answer(text, allow_unclosed=True) == answer


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "piece", ["\\boxed{", " ", "$", r"\(", "answer is ", "####", "1/", "{", "(1,", "-", "\\"]
)
def test_time_grows_with_the_text_not_with_its_square(piece: str) -> None:
    """Backtracking patterns and one scan to the end for each box once took minutes over such texts."""
    text = piece * 20_000
    for format in ("auto", "number", "choice", "math"):
        found = extract_answer(text, format=format)
        assert found is None or len(found) <= len(text)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "piece",
    [
        "111,",
        "1 ",
        "1/2 ",
        "1,1,",
        "\\boxed{",
        "the answer is ",
        "answer to ",
        "(",
        "$",
        r"\(",
        "{}",
        "**.",
        "A ",
    ],
)
def test_a_loop_of_any_length_costs_little(piece: str) -> None:
    """`"111," * 8000` took 3 s: every start of a number read on to the end. 200 kB now take about 0.1 s of CPU."""
    loop = piece * (200_000 // len(piece))
    for text in (loop, loop + ". " + "so " * 200, rf"\boxed{{{loop}}}"):
        for format in ("auto", "math", "choice"):
            start = time.process_time()
            extract_answer(text, format=format)  # type: ignore[arg-type]
            assert time.process_time() - start < 2.0


def test_a_scale_belongs_to_the_last_number() -> None:
    """`10` was taken from "10 million dollars", and then differed from a stated `10 million`."""
    assert extract_answer("They paid 10 million dollars then") == "10 million"


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'word'"):
        extract_answer("1", format="word")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "answer"), [("It is 17.", "17"), ("17 apples", "17"), ("Paris", "Paris"), ("x^2+1", "x^2+1")]
)
def test_a_short_text_is_an_answer_as_a_whole_unless_words_surround_a_number(text, answer):
    assert extract_answer(text) == answer


def test_a_truncated_text_answers_only_where_it_states_one():
    """The last number of a chain that ran out of tokens is a step of it, not an answer."""
    assert extract_answer("3*4=12 and then 12+5", is_truncated=True) is None
    assert extract_answer(r"So \boxed{17}. Wait, 12", is_truncated=True) == "17"
    assert extract_answer("The answer is 17. Wait, 12", is_truncated=True) == "17"
