"""Policies as people name them."""

import pytest

from hf_dynasor.certaindex import TABLE_1, Thresholds
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.evaluation.policy_specs import PolicySpec, parse_policy_spec
from hf_dynasor.scheduler import StaticThreshold, VoteForecast


def test_every_row_of_table_1_is_a_policy_by_name():
    for name, preset in TABLE_1.items():
        policy = parse_policy_spec(name).build_width()
        assert policy == StaticThreshold(thresholds=preset.thresholds, detect_at=preset.detect_at)


def test_a_policy_is_named_as_it_is_typed():
    for text in ("static", "static:entropy=0.6,detect_at=8", "forecast:risk=0.1", "sc/math"):
        assert parse_policy_spec(text).title == text
    assert parse_policy_spec("forecast:risk=0.1,max_grants=null").build_width() == VoteForecast(
        risk=0.1, max_grants=None
    )


def test_limits_of_giving_up_come_from_plain_json():
    spec = PolicySpec(name="forecast", parameters={"give_up": {"entropy": 0.2}, "give_up_at": 4})
    assert spec.build_width() == VoteForecast(give_up=Thresholds(entropy=0.2), give_up_at=4)
    assert PolicySpec(name="static", parameters={"give_up": None}).build_width() == StaticThreshold()
    with pytest.raises(ConfigurationError, match="give_up = 3"):
        PolicySpec(name="static", parameters={"give_up": 3}).build_width()


def test_a_policy_of_another_kind_is_refused():
    with pytest.raises(ConfigurationError, match="Expected kind 'width'"):
        PolicySpec(kind="depth", name="confidence").build_width()
