"""Tests and bounds for a mean loss, against scipy and against simulation."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hf_dynasor.errors import ConfigurationError
from hf_dynasor.scheduler.calibration_bounds import (
    count_needed,
    log_binomial_tail,
    p_value,
    p_value_above,
    upper_bound,
)

BOUNDS = ("binomial", "hoeffding_bentkus", "betting")


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 10**6), st.floats(1e-6, 0.999), st.floats(0, 1))
def test_the_binomial_tail_equals_scipys(trials, chance, share):
    """Around the mean and out to the far tails, in logs as long as scipy's own do not underflow."""
    successes = min(trials, int(share * min(trials, 3 * trials * chance + 10)))
    ours, theirs = log_binomial_tail(successes, trials, chance), stats.binom.logcdf(successes, trials, chance)
    if theirs > -600:
        assert ours == pytest.approx(theirs, rel=1e-8, abs=1e-10)
    else:
        assert ours < -590


def test_the_binomial_tail_is_right_where_the_tail_itself_underflows():
    """No success in a million trials of 1%: (1 - 0.01)^1,000,000, far below the smallest float."""
    assert log_binomial_tail(0, 10**6, 0.01) == pytest.approx(10**6 * math.log1p(-0.01), rel=1e-12)
    assert log_binomial_tail(5000, 10**6, 0.01) == pytest.approx(
        stats.binom.logpmf(5000, 10**6, 0.01) + math.log(1 / (1 - 99 * 5000 / 995001)), rel=1e-4
    )


def test_the_binomial_tail_at_its_ends():
    assert log_binomial_tail(-1, 10, 0.5) == -math.inf
    assert log_binomial_tail(10, 10, 0.5) == 0.0
    assert log_binomial_tail(3, 10, 0.0) == 0.0
    assert log_binomial_tail(3, 10, 1.0) == -math.inf
    with pytest.raises(ConfigurationError, match=r"chance = 1\.5"):
        log_binomial_tail(3, 10, 1.5)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 400), st.floats(0, 1), st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_the_upper_bound_is_clopper_and_pearsons(number, share, confidence):
    lost = int(share * number)
    expected = stats.beta.ppf(confidence, lost + 1, number - lost) if lost < number else 1.0
    ours = upper_bound([1.0] * lost + [0.0] * (number - lost), confidence, bound="binomial")
    assert ours == pytest.approx(expected, abs=1e-9)


def test_two_percent_at_ninety_needs_114_questions():
    """ln(0.1) / ln(0.98) = 113.97."""
    assert count_needed(0.02, 0.1) == 114
    assert math.log(0.1) / math.log(0.98) == pytest.approx(113.97, abs=0.01)
    assert p_value([0.0] * 113, 0.02, bound="binomial") > 0.1 >= p_value([0.0] * 114, 0.02, bound="binomial")


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize(("risk", "level"), [(0.02, 0.1), (0.2, 0.01), (0.001, 0.05), (0.5, 0.4)])
def test_the_number_needed_is_the_least_that_passes(bound, risk, level):
    number = count_needed(risk, level, bound=bound)
    assert p_value([0.0] * number, risk, bound=bound) <= level
    if number > 1:
        assert p_value([0.0] * (number - 1), risk, bound=bound) > level


@pytest.mark.parametrize("bound", BOUNDS)
@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=60), st.floats(0.01, 0.98))
@settings(max_examples=60, deadline=None)
def test_a_higher_risk_is_easier_to_certify_and_order_does_not_matter(bound, losses, risk):
    value = p_value(losses, risk, bound=bound)
    assert 0 <= p_value(losses, risk + 0.01, bound=bound) <= value * (1 + 1e-9) <= 1 + 1e-9
    assert p_value(losses[::-1], risk, bound=bound) == pytest.approx(value)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(0.01, 0.99))
@settings(max_examples=100, deadline=None)
def test_hoeffding_bentkus_is_never_below_the_exact_test_on_more_lost_questions(losses, risk):
    """Rounding the total down gives fewer losses than were seen; the exact chance of those bounds it from below
    for losses that are 0 or 1, where the exact test is the truth."""
    binary = [float(round(loss)) for loss in losses]
    assert p_value(binary, risk, bound="hoeffding_bentkus") >= p_value(binary, risk, bound="binomial") - 1e-12


def test_rounding_errors_of_means_over_draws_do_not_count_as_another_loss():
    """Twenty questions that lost one of twenty draws are one loss in total, not one and a bit."""
    losses = [1 / 20] * 20 + [0.0] * 180
    bentkus = min(1.0, math.e * stats.binom.cdf(1, 200, 0.05))
    assert p_value(losses, 0.05, bound="hoeffding_bentkus") <= bentkus * (1 + 1e-9)


@pytest.mark.parametrize(
    ("bound", "draw", "risk"),
    [
        ("binomial", lambda rng: float(rng.random() < 0.05), 0.05),
        ("hoeffding_bentkus", lambda rng: sum(rng.random() < 0.05 for _ in range(4)) / 4, 0.05),
        ("betting", lambda rng: sum(rng.random() < 0.05 for _ in range(4)) / 4, 0.05),
        ("betting", lambda rng: rng.choices([1.0, 0.0, -1.0], [0.07, 0.88, 0.05])[0], 0.02),
    ],
)
def test_p_values_are_small_no_more_often_than_they_say(bound, draw, risk):
    """The mean loss is exactly the risk: P(p <= 0.1) <= 0.1. Of 400 tests more than 64 pass by chance with a
    probability below 1e-4 (binomial)."""
    assert stats.binom.sf(64, 400, 0.1) < 1e-4
    rng = random.Random(7)
    false = sum(p_value([draw(rng) for _ in range(120)], risk, bound=bound) <= 0.1 for _ in range(400))
    assert false <= 64


def test_betting_certifies_a_small_drop_where_its_variance_is_small():
    """2 lost and 2 won of 400 are no drop; on the scale of [-1, 1] Hoeffding and Bentkus cannot tell it from 2%."""
    drops = [1.0] * 2 + [-1.0] * 2 + [0.0] * 396
    assert p_value(drops, 0.02, bound="betting") < 0.1
    halves = [(drop + 1) / 2 for drop in drops]
    assert p_value(halves, (0.02 + 1) / 2, bound="hoeffding_bentkus") > 0.5


def test_the_opposite_test_is_the_other_tail():
    losses = [1.0] * 9 + [0.0] * 91
    assert p_value_above(losses, 0.03, bound="binomial") == pytest.approx(stats.binom.sf(8, 100, 0.03))
    assert p_value_above([0.5] * 100, 0.03, bound="hoeffding_bentkus") < 1e-6
    assert p_value_above([1.0] * 10 + [0.0] * 90, 0.02, bound="betting") < 0.02
    assert p_value_above([-1.0] * 10 + [0.0] * 90, 0.02, bound="betting") > 0.5


@pytest.mark.parametrize(
    ("losses", "risk", "bound", "message"),
    [
        ([], 0.1, "binomial", "no losses"),
        ([0.5], 0.1, "binomial", "neither 0 nor 1"),
        ([-1.0], 0.1, "hoeffding_bentkus", "in \\[0, 1\\]"),
        ([2.0], 0.1, "betting", "in \\[-1, 1\\]"),
        ([float("nan")], 0.1, "betting", "nan"),
        ([0.0], 0.0, "binomial", "risk = 0.0"),
        ([0.0], 1.0, "betting", "risk = 1.0"),
        ([0.0], 0.1, "hoeffding", "Known: betting, binomial, hoeffding_bentkus"),
    ],
)
def test_bad_input_is_named(losses, risk, bound, message):
    with pytest.raises(ConfigurationError, match=message):
        p_value(losses, risk, bound=bound)
