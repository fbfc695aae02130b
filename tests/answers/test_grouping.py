"""Grouping is an equivalence relation, and votes count answers."""

import itertools
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.answers import canonicalise, group_answers, majority
from hf_dynasor.errors import ConfigurationError


def _spell(value: Fraction) -> list[str]:
    """Ways of writing one rational number, plain ones and ones that must be computed."""
    top, bottom = value.numerator, value.denominator
    spellings = [rf"\frac{{{top}}}{{{bottom}}}", f"{top}/{bottom}", rf"$\dfrac{{{top}}}{{{bottom}}}$"]
    if bottom == 1:
        spellings += [f"{top}", f"{top:,}", f"{top}.0", f"{top} apples", rf"\boxed{{{top}}}", f"x = {top}"]
    return spellings


RATIONALS = st.builds(Fraction, st.integers(-2000, 2000), st.integers(1, 12))
SPELLED = RATIONALS.flatmap(lambda value: st.tuples(st.just(value), st.sampled_from(_spell(value))))
FORMULAS = st.sampled_from(
    [r"2\sqrt{2}", r"\sqrt{8}", "x+1", "1+x", "(1,2)", "[1,2]", "{1,2}", "2,1", r"\pi", r"\frac{\pi}{2}", "x=5", "5",
     "(x+1)^2", "x^2+2x+1", "50%", "50", "0.5", "Yes", "no", "B", "(B)", "east", r"\text{east}", "12^{", "52_8", "52"]
)  # fmt: skip
ANYTHING = st.one_of(SPELLED.map(lambda pair: pair[1]), FORMULAS, st.none())


LATEX = st.recursive(
    st.sampled_from(["x", "y", "2", "7", "0.5", r"\pi", "i"]),
    lambda inner: st.one_of(
        st.builds(lambda a, b: rf"\frac{{{a}}}{{{b}}}", inner, inner),
        st.builds(lambda a, b: rf"({a} + {b})", inner, inner),
        st.builds(lambda a, b: rf"{a} \cdot {b}", inner, inner),
        st.builds(lambda a: rf"\sqrt{{{a}}}", inner),
        st.builds(lambda a, b: f"({a}, {b})", inner, inner),
    ),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(SPELLED, min_size=1, max_size=12))
def test_numbers_are_grouped_by_value_alone(spelled: list[tuple[Fraction, str]]) -> None:
    groups = group_answers([spelling for _, spelling in spelled])
    together = {frozenset(group.indices) for group in groups.groups}
    values = {value for value, _ in spelled}
    assert together == {
        frozenset(i for i, (other, _) in enumerate(spelled) if other == value) for value in values
    }


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(ANYTHING.filter(lambda answer: answer is not None), LATEX), min_size=3, max_size=3))
def test_sameness_is_reflexive_symmetric_and_transitive(answers: list[str]) -> None:
    def are_same(first: str, second: str) -> bool:
        return len(group_answers([first, second]).groups) == 1

    for answer in answers:
        assert are_same(answer, answer)
    for first, second in itertools.permutations(answers, 2):
        assert are_same(first, second) == are_same(second, first)
        assert are_same(first, second) == (canonicalise(first) == canonicalise(second))
    for first, second, third in itertools.permutations(answers, 3):
        assert are_same(first, third) or not (are_same(first, second) and are_same(second, third))


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60), st.sampled_from(["auto", "number", "choice", "yes_no", "text"]))
def test_any_string_has_one_key(text: str, format: str) -> None:
    assert canonicalise(text, format=format) == canonicalise(text, format=format)  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(LATEX)
def test_spacing_and_size_commands_change_no_key(latex: str) -> None:
    spaced = latex.replace("(", r"\left( ").replace(")", r" \right)").replace(r"\frac", r"\dfrac")
    assert canonicalise(latex) == canonicalise(f"${spaced}$")


@settings(max_examples=100, deadline=None)
@given(st.lists(ANYTHING, max_size=12), st.randoms(use_true_random=False))
def test_every_answer_is_in_one_group_or_missing(answers: list[str | None], shuffler: random.Random) -> None:
    groups = group_answers(answers)
    places = [index for group in groups.groups for index in group.indices] + list(groups.missing)
    assert sorted(places) == list(range(len(answers)))
    assert sum(groups.sizes) == len(answers) == groups.num_answers + groups.num_missing
    assert [group.size for group in groups.groups] == sorted(
        (group.size for group in groups.groups), reverse=True
    )
    assert all(group.representative in {answers[i] for i in group.indices} for group in groups.groups)

    shuffled = list(answers)
    shuffler.shuffle(shuffled)
    votes = {group.key: group.size for group in groups.groups}
    assert {group.key: group.size for group in group_answers(shuffled).groups} == votes


def test_votes_count_answers_not_texts() -> None:
    """A peer's majority counted (text, answer) pairs: every pair was unique, so the first answer won."""
    answers = ["20", "18", "$18", "18 dollars", "20"]
    assert majority(answers) == "18"
    assert [group.indices for group in group_answers(answers).groups] == [(1, 2, 3), (0, 4)]


def test_the_representative_is_the_most_common_spelling() -> None:
    groups = group_answers(["$18", "18", "18 dollars", "18", "$18", "20"])
    assert groups.groups[0].representative == "$18"
    assert group_answers(["18.0", "18", "18"]).groups[0].representative == "18"


def test_missing_answers_never_look_like_agreement() -> None:
    """Peers let several empty answers agree with each other and exit."""
    groups = group_answers([None, None, "", "?", "7", None])
    assert groups.missing == (0, 1, 2, 3, 5)
    assert groups.sizes == (1, 1, 1, 1, 1, 1)
    assert majority([None, None, None]) is None
    assert group_answers([]).sizes == ()


def test_ties_go_to_the_answer_seen_first() -> None:
    assert majority(["2", "1", "1", "2"]) == "2"
    assert majority(["2", "1"], weights=[0.5, 0.5]) == "2"


def test_weights_are_votes() -> None:
    assert majority(["1", "1", "2"], weights=[0.2, 0.2, 0.9]) == "2"
    assert majority(group_answers(["1", None, "2"]), weights=[0.5, 9.0, 0.6]) == "2"


@pytest.mark.parametrize("weights", [[1.0], [1.0, -0.1], [1.0, float("nan")], [1.0, float("inf")]])
def test_weights_that_are_no_votes_are_refused(weights: list[float]) -> None:
    with pytest.raises(ConfigurationError, match="weight"):
        majority(["1", "2"], weights=weights)


def test_a_format_is_checked_without_answers() -> None:
    with pytest.raises(ConfigurationError, match="'maths'"):
        group_answers([], format="maths")  # type: ignore[arg-type]
