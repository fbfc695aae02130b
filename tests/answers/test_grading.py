"""Whether an answer is right, for references as datasets have them."""

import json
from pathlib import Path

import pytest

from hf_dynasor.answers import canonicalise, extract_answer, group_answers, is_correct

DATA = Path(__file__).parents[3] / "shared" / "data"


def _load(name: str) -> list[dict[str, str]]:
    path = DATA / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip(f"{path.name} is not beside this checkout (looked in ../shared/data)")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("18", "She makes 9 * 2 = $<<9*2=18>>18 every day.\n#### 18"),
        ("9", "9 (apples)"),
        ("nine apples, so 9", "9 (apples)"),
        ("33", "033"),
        ("27", "27.0"),
        (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"),
        ("5", "x=5"),
        ("x=5", "5"),
        ("0.333333", r"\frac13"),
        ("50%", r"\frac12"),
        ("0.5", "50%"),
        ("-2, 1", "1,-2"),
        ("52", "52_8"),
        ("52_8", "52_{8}"),
        ("(C) because it is blue", r"\text{(C)}"),
        ("east", r"\text{east}"),
        ("Yes, they do", "Yes"),
        ("3:30 P.M.", "3:30 p.m."),
        (r"1-\sqrt{5}, 1+\sqrt{5}, -2", r"\{1\pm\sqrt{5},-2\}"),
        ("864", r"864 \mbox{ inches}^2"),
        ("10080", r"10,\!080"),
    ],
)
def test_right_answers_are_right(answer: str, reference: str) -> None:
    assert is_correct(answer, reference)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        (None, "18"),
        ("", "18"),
        ("?", "18"),
        ("", ""),
        ("1", "100"),
        ("50", "0.5"),
        ("12345", "12346"),
        ("0.33", r"\frac13"),
        ("18 or 20", "20"),
        ("52_9", "52_8"),
        ("[1,2]", "(1,2)"),
        ("(2,1)", "(1,2)"),
        ("B", "(C)"),
        ("No", "Yes"),
        ("Sara", "Mrs. Hilt"),
        ("4:3", "3:4"),
        ("9^{9^{9^{9}}}", "18"),
        ("x+2", "x+1"),
    ],
)
def test_wrong_answers_are_wrong(answer: str | None, reference: str) -> None:
    assert not is_correct(answer, reference)


@pytest.mark.parametrize(
    ("answer", "reference", "is_right"),
    [("0", "1e-7", False), ("0.0000005", "0.0000001", False), ("0", "-0.0000001", False), ("1.00001e-7", "1e-7", False),
     ("1e-7", "0.0000001", True), ("0.166667", "1/6", True), ("0.0123457", "1/81", True), ("0.01234", "1/81", False),
     ("1000.5000001", "1000.5", True), ("1000.501", "1000.5", False)],
)  # fmt: skip
def test_a_small_reference_has_a_small_tolerance(answer: str, reference: str, is_right: bool) -> None:
    """The tolerance was 1e-6 whatever the reference: 0 was right for 1e-7, and 5e-7 for 1e-7."""
    assert is_correct(answer, reference) is is_right


def test_grading_forgives_what_grouping_does_not() -> None:
    assert is_correct("0.333333", "1/3")
    assert len(group_answers(["0.333333", "1/3"]).groups) == 2


@pytest.mark.parametrize(
    "name", ["aime24", "amc23", "asdiv", "gsm8k_test", "gsm8k_train", "math500", "svamp"]
)
def test_every_reference_equals_itself_and_is_graded_right(name: str) -> None:
    for row in _load(name):
        answer = row["answer"]
        assert canonicalise(answer) == canonicalise(answer)
        assert canonicalise(answer).value
        assert len(group_answers([answer, f" {answer} ", f"${answer}$"]).groups) == 1, answer
        assert is_correct(answer, answer), answer


@pytest.mark.parametrize("name", ["gsm8k_test", "math500"])
def test_the_answer_of_every_worked_solution_is_found(name: str) -> None:
    for row in _load(name):
        assert is_correct(extract_answer(row["solution"]), row["answer"]), row["id"]
        if name == "gsm8k_test":
            assert is_correct(row["answer"], row["solution"])


def test_graded_traces_agree_with_their_labels_where_the_labels_hold() -> None:
    """Labels made by exact string match reject `-2,1` for `1,-2`; every other disagreement would be ours."""
    rows = _load("traces/probed_r1_qwen_7b_math500_seed42")
    graded = [(is_correct(row["final_answer"] or None, str(row["answer"])), row) for row in rows]
    rejected = [row["id"] for is_right, row in graded if row["is_correct"] and not is_right]
    forgiven = [row["id"] for is_right, row in graded if is_right and not row["is_correct"]]
    assert rejected == []
    assert len(forgiven) <= 5
