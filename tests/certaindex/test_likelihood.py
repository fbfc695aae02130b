"""Rewards from log-probabilities: bounds, order, and which tokens count."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_dynasor.certaindex.likelihood import (
    COMBINATIONS,
    RESULT_DIGITS,
    combine_logprobs,
    rate_likelihood,
    select_tokens,
)
from hf_dynasor.errors import ConfigurationError

LOGPROBS = st.lists(st.floats(max_value=0.0, min_value=-1e6), max_size=20)


@given(LOGPROBS, st.sampled_from(sorted(COMBINATIONS)))
def test_every_combination_is_in_the_unit_interval_and_ignores_order(logprobs, name):
    value = combine_logprobs(logprobs, name)
    assert 0.0 <= value <= 1.0
    assert value == pytest.approx(combine_logprobs(sorted(logprobs), name))


@given(LOGPROBS.filter(bool))
def test_the_product_is_never_above_the_minimum_nor_that_above_the_mean(logprobs):
    product, least, mean = (
        combine_logprobs(logprobs, name) for name in ("product", "minimum", "geometric_mean")
    )
    assert product <= least + 1e-12
    assert least <= mean + 1e-12


@given(LOGPROBS, st.floats(max_value=0.0, min_value=-1e6))
def test_a_further_token_never_raises_the_minimum(logprobs, further):
    assert combine_logprobs([*logprobs, further]) <= combine_logprobs(logprobs)


def test_nothing_to_rate_is_not_doubted():
    assert combine_logprobs([]) == 1.0
    assert rate_likelihood("The end.", [0, 4], [-3.0, -2.0], pattern=RESULT_DIGITS) == 1.0


def test_only_the_digits_of_results_count():
    text = "12*3=36\n\n36+4=40"
    offsets = list(range(len(text)))
    assert [text[index] for index in select_tokens(text, offsets, RESULT_DIGITS)] == list("3640")
    logprobs = [-9.0] * len(text)
    logprobs[5] = logprobs[6] = logprobs[14] = logprobs[15] = math.log(0.5)
    assert rate_likelihood(text, offsets, logprobs, pattern=RESULT_DIGITS) == pytest.approx(0.5)


def test_a_token_that_reaches_into_a_match_counts_and_its_neighbours_do_not():
    assert select_tokens("a=12 b", [0, 2, 4, 5], r"=(\d+)") == [1]
    assert select_tokens("a=12 b", [0, 1, 3, 5], r"=(\d+)") == [1, 2]


def test_every_part_of_a_matched_character_counts():
    assert select_tokens("x🙂y", [0, 1, 1, 2], "🙂") == [1, 2]


def test_mistakes_are_named():
    with pytest.raises(ConfigurationError, match="regular expression"):
        select_tokens("a", [0], "(")
    with pytest.raises(ConfigurationError, match="Known: geometric_mean, minimum, product"):
        combine_logprobs([-1.0], "mean")
    with pytest.raises(ConfigurationError, match="at most 0"):
        combine_logprobs([0.5])
    with pytest.raises(ConfigurationError, match="at most 0"):
        combine_logprobs([math.nan])
