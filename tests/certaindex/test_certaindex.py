"""Thresholds are strict, all must hold, and what is not known is never certain."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_dynasor.certaindex import SIGNAL_NAMES, TABLE_1, Certaindex, Thresholds
from hf_dynasor.errors import ConfigurationError

unit = st.floats(0, 1)
threshold = st.floats(0, 1, exclude_max=True)


@given(st.sampled_from(SIGNAL_NAMES), threshold)
def test_a_signal_at_its_threshold_does_not_exceed_it(name, value):
    assert not Thresholds(**{name: value}).are_exceeded_by(Certaindex(**{name: value}, num_paths=5))


@given(unit, unit, threshold, threshold)
def test_certain_means_that_every_signal_exceeds_its_own(entropy, reward, low, high):
    certain = Thresholds(entropy=low, reward=high).are_exceeded_by(Certaindex(entropy=entropy, reward=reward))
    assert certain == (entropy > low and reward > high)


def test_an_unknown_signal_is_never_certain():
    assert not Thresholds(reward=0.0).are_exceeded_by(Certaindex(entropy=1.0, num_paths=5))


def test_signals_without_a_threshold_do_not_matter():
    assert Thresholds(entropy=0.7).are_exceeded_by(Certaindex(entropy=1.0, reward=0.0))


@pytest.mark.parametrize("value", [2, 1, -0.1, float("nan")])
def test_a_threshold_outside_the_unit_interval_is_refused_with_the_range(value):
    with pytest.raises(ConfigurationError, match=r"expected a value in \[0, 1\)"):
        Thresholds(entropy=value)


def test_no_threshold_at_all_is_refused():
    with pytest.raises(ConfigurationError, match="at least one"):
        Thresholds()


@pytest.mark.parametrize("value", [1.01, -0.01, float("nan")])
def test_a_signal_outside_the_unit_interval_is_refused(value):
    with pytest.raises(ConfigurationError):
        Certaindex(agreement=value)


def test_table_1_has_the_rows_of_the_paper():
    rows = {name: (preset.thresholds.to_dict(), preset.detect_at) for name, preset in TABLE_1.items()}
    assert rows == {
        "sc/math": ({"entropy": 0.7}, 5),
        "sc/gsm8k": ({"entropy": 0.7}, 5),
        "sc/livecodebench": ({"entropy": 0.4}, 5),
        "mcts/gsm8k": ({"entropy": 0.99, "reward": 0.4}, 3),
        "mcts/asdiv": ({"reward": 0.4}, 3),
        "rebase/gsm8k": ({"entropy": 0.85, "reward": 0.99}, 16),
        "rebase/math": ({"entropy": 0.75}, 16),
    }


def test_the_comparison_is_told_in_words():
    words = Thresholds(entropy=0.7, reward=0.4).describe(Certaindex(entropy=1.0))
    assert words == "entropy 1.00 > 0.70, reward not known yet"
