"""Learn-then-Test and conformal risk control: what they certify, and how seldom they are wrong."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hf_dynasor.errors import ConfigurationError
from hf_dynasor.scheduler.calibration import (
    bonferroni,
    choose,
    conformal_risk_control,
    is_monotone,
    learn_then_test,
    raise_to_monotone,
)


def losses(lost, number=200):
    return [1.0] * lost + [0.0] * (number - lost)


def certified(results):
    return [(item.path, item.position) for item in results if item.is_certified]


def test_a_path_is_walked_until_its_first_failure():
    """The third setting fails, so the fourth is not certified although it lost nothing."""
    path = [losses(0), losses(0), losses(30), losses(0)]
    results = learn_then_test([path], risk=0.05, confidence=0.9, bound="binomial")
    assert certified(results) == [(0, 0), (0, 1)]
    assert results[3].p_value < 0.001


def test_bonferroni_needs_no_order():
    path = [losses(0), losses(0), losses(30), losses(0)]
    results = bonferroni([path], risk=0.05, confidence=0.9, bound="binomial")
    assert certified(results) == [(0, 0), (0, 1), (0, 3)]
    assert [item.level for item in results] == pytest.approx([0.025] * 4)


def test_paths_share_the_error():
    results = learn_then_test([[losses(0)], [losses(0)]], risk=0.05, confidence=0.9, bound="binomial")
    assert [item.level for item in results] == pytest.approx([0.05] * 2)
    few = [losses(0, number=50)]  # p = 0.95^50 = 0.077: enough for all of the error, not for half of it
    assert certified(learn_then_test([few], risk=0.05, confidence=0.9, bound="binomial"))
    assert not certified(learn_then_test([few, few], risk=0.05, confidence=0.9, bound="binomial"))


@pytest.mark.parametrize("method", ["ltt", "bonferroni", "crc"])
def test_a_setting_must_hold_in_every_group(method):
    """Ten of 400 lost are 2.5%, but all of them in the second half: 5% there, which 5% of risk cannot allow."""
    path = [[0.0] * 390 + [1.0] * 10]
    options = {"method": method, "risk": 0.05, "confidence": 0.9, "bound": "binomial"}
    assert certified(choose([path], **options))
    assert not certified(choose([path], **options, groups=[range(200), range(200, 400)]))
    assert certified(choose([path], **options, groups=[range(0, 400, 2), range(1, 400, 2)])) == [(0, 0)]


def false_certificates(method, *, runs, rng):
    """Runs in which a setting was certified although its risk is above the promised 5%.

    Three paths: the first two settings of each are good (2%), the third is just above the risk (5.1%).
    """
    false = 0
    for _ in range(runs):
        paths = [
            [[float(rng.random() < chance) for _ in range(150)] for chance in (0.02, 0.02, 0.051, 0.051)]
            for _ in range(1 if method == "crc" else 3)
        ]
        found = choose(paths, method=method, risk=0.05, confidence=0.9, bound="binomial")
        false += any(item.is_certified and item.position >= 2 for item in found)
    return false


@pytest.mark.parametrize("method", ["ltt", "bonferroni"])
def test_false_certificates_are_no_more_frequent_than_promised(method):
    """At most 10% of the runs may certify any setting whose true risk is just above the promised one. Of 300 runs
    more than 49 do so by chance with a probability below 1e-3 (binomial) at exactly 10%."""
    assert stats.binom.sf(49, 300, 0.1) < 1e-3
    assert false_certificates(method, runs=300, rng=random.Random(11)) <= 49


def test_the_simulation_would_notice_a_test_without_a_guarantee():
    """A rule that trusts the realised risk alone certifies too much on the same draws: the test above can fail."""
    rng, false = random.Random(11), 0
    for _ in range(300):
        false += sum(rng.random() < 0.051 for _ in range(150)) / 150 <= 0.05
    assert false > 49


def test_conformal_risk_control_keeps_the_expected_risk():
    """Monotone losses: a question is lost from its own point on. Over 400 calibrations of 100 questions the mean
    true risk of the chosen setting stays below 10%; its standard error is about 0.15 points, the margin four."""
    rng, settings_, total = random.Random(3), 40, 0.0
    for _ in range(400):
        points = [rng.random() for _ in range(100)]  # lost from the setting at which aggression exceeds it
        path = [[float(point < position / settings_) for point in points] for position in range(settings_)]
        found = [item.position for item in conformal_risk_control(path, risk=0.1) if item.is_certified]
        total += max(found, default=0) / settings_  # the true risk at a position is position / settings
    assert 0.05 < total / 400 < 0.106


def test_conformal_risk_control_counts_one_more_question_of_the_highest_loss():
    """(0 + 1) / (n + 1) <= 5% from 19 questions on."""
    assert not certified(conformal_risk_control([losses(0, number=18)], risk=0.05))
    assert certified(conformal_risk_control([losses(0, number=19)], risk=0.05)) == [(0, 0)]


@given(
    st.integers(1, 6).flatmap(
        lambda n: st.lists(st.lists(st.floats(0, 1), min_size=n, max_size=n), min_size=1, max_size=6)
    )
)
@settings(max_examples=100, deadline=None)
def test_the_running_maximum_is_the_least_monotone_loss_above(path):
    raised = raise_to_monotone(path)
    assert is_monotone(raised)
    assert all(
        high >= low
        for above, row in zip(raised, path, strict=True)
        for high, low in zip(above, row, strict=True)
    )
    assert not is_monotone(path) or [list(row) for row in raised] == path


def test_a_loss_that_falls_along_the_path_is_not_hidden():
    """The second setting gets the first one's lost question back: its running maximum still counts it."""
    path = [losses(5, number=40), losses(0, number=40)]
    assert not is_monotone(path)
    assert not certified(conformal_risk_control(path, risk=0.1))


@pytest.mark.parametrize(
    ("paths", "options", "message"),
    [
        ([], {}, "no setting"),
        ([[]], {}, "no setting"),
        ([[losses(0), losses(0, number=3)]], {}, "the same questions"),
        ([[losses(0)]], {"confidence": 1.0}, "confidence = 1.0"),
        ([[losses(0)]], {"method": "holm"}, "Known: bonferroni, crc, ltt"),
        ([[losses(0)], [losses(0)]], {"method": "crc"}, "one path"),
        ([[[-1.0, 0.0]]], {"method": "crc"}, "below 0"),
        ([[losses(0)]], {"method": "crc", "risk": 0.0}, "risk = 0.0"),
    ],
)
def test_bad_input_is_named(paths, options, message):
    known = {"method": "ltt", "risk": 0.05, "confidence": 0.9, "bound": "binomial"}
    with pytest.raises(ConfigurationError, match=message):
        choose(paths, **(known | options))
