"""The certaindex signals against the paper's values and their properties."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_dynasor.certaindex import (
    agreement,
    answer_probability,
    max_signal,
    mean_signal,
    normalised_entropy,
)
from hf_dynasor.errors import ConfigurationError

sizes = st.lists(st.integers(1, 20), min_size=1, max_size=12).filter(lambda values: sum(values) >= 2)


@pytest.mark.parametrize(
    ("groups", "expected"),
    [([5], 1.0), ([4, 1], 0.689), ([3, 2], 0.582), ([3, 1, 1], 0.410), ([2, 2, 1], 0.345), ([1] * 5, 0.0)],
)
def test_entropy_has_the_paper_values_for_five_paths(groups, expected):
    assert normalised_entropy(groups) == pytest.approx(expected, abs=5e-4)


def test_entropy_of_two_halves_of_sixteen_is_exactly_the_threshold():
    assert normalised_entropy([8, 8]) == 0.75


@given(sizes, st.randoms())
def test_entropy_does_not_depend_on_the_order_of_groups(groups, rng):
    shuffled = list(groups)
    rng.shuffle(shuffled)
    assert normalised_entropy(shuffled) == normalised_entropy(groups)


@given(sizes)
def test_entropy_and_agreement_are_in_the_unit_interval(groups):
    assert 0 <= normalised_entropy(groups) <= 1
    assert 0 < agreement(groups) <= 1


@given(sizes)
def test_entropy_is_one_only_at_unanimity(groups):
    assert (normalised_entropy(groups) == 1.0) == (len(groups) == 1)


@given(sizes)
def test_entropy_equals_its_definition(groups):
    n = sum(groups)
    entropy = -sum(size / n * math.log(size / n) for size in groups)
    assert normalised_entropy(groups) == pytest.approx((math.log(n) - entropy) / math.log(n), abs=1e-9)


@pytest.mark.parametrize("groups", [[], [1]])
def test_fewer_than_two_paths_carry_no_evidence(groups):
    assert normalised_entropy(groups) is None
    assert agreement(groups) is None


def test_three_of_three_agree_without_a_smoothing_vote():
    """A peer adds a fake vote to every count, so that unanimous answers never look unanimous."""
    assert normalised_entropy([3]) == agreement([3]) == 1.0


@given(st.lists(st.floats(-50, 0), min_size=1, max_size=20), st.randoms())
def test_answer_probability_is_a_geometric_mean_whatever_the_order(logprobs, rng):
    shuffled = list(logprobs)
    rng.shuffle(shuffled)
    assert answer_probability(shuffled) == answer_probability(logprobs)
    assert answer_probability(logprobs) == pytest.approx(math.exp(sum(logprobs) / len(logprobs)))


def test_answer_probability_of_nothing_is_unknown():
    assert answer_probability([]) is None


@pytest.mark.parametrize("bad", [[0.5], [float("nan")]])
def test_answer_probability_refuses_what_is_no_logprob(bad):
    with pytest.raises(ConfigurationError, match="at most 0"):
        answer_probability(bad)


def test_rewards_are_averaged_or_their_maximum_taken():
    assert mean_signal([0.25, 0.75]) == 0.5
    assert max_signal([0.25, 0.75]) == 0.75
    assert mean_signal([]) is None
    assert max_signal([]) is None


@pytest.mark.parametrize("function", [mean_signal, max_signal])
def test_rewards_outside_the_unit_interval_are_refused(function):
    with pytest.raises(ConfigurationError, match=r"1\.5"):
        function([1.5])


def test_a_group_without_paths_is_refused():
    with pytest.raises(ConfigurationError, match="at least 1 path"):
        normalised_entropy([3, 0])
