"""Allocation policies: what they grant, when they deny, and what they refuse."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_dynasor.certaindex import Certaindex, Thresholds
from hf_dynasor.core import Usage
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.grants import Decision, GrantRecord, Knob, StopReason
from hf_dynasor.scheduler import (
    POLICIES,
    DynamicCurve,
    Even,
    FiveStep,
    InitialStepCurve,
    Length,
    SingleStep,
    StaticThreshold,
    list_read_signals,
)


def record(units, total, *, entropy=None, tokens=100):
    return GrantRecord(
        units=units,
        total=total,
        certaindex=Certaindex(entropy=entropy, num_paths=total),
        usage=Usage(sampled=tokens),
        sequential_tokens=tokens,
    )


def spend(policy, knob, entropies, tokens=100):
    """Ask a policy until it denies; certaindex after the i-th grant is the i-th of `entropies`."""
    trace = ()
    while (decision := policy.allocate(knob, trace)).units:
        total = decision.units + (trace[-1].total if trace else 0)
        entropy = entropies[min(len(trace), len(entropies) - 1)]
        trace = (*trace, record(decision.units, total, entropy=entropy, tokens=tokens * total))
    return [item.units for item in trace], decision.stop_reason


def test_even_grants_the_whole_budget_at_once():
    assert spend(Even(), Knob(unit="samples", maximum=20), [1.0]) == ([20], StopReason.BUDGET)


def test_static_stops_a_certain_program_at_the_detection_point():
    assert spend(StaticThreshold(), Knob(unit="samples", maximum=20), [1.0]) == ([5], StopReason.CERTAIN)


def test_static_runs_an_uncertain_program_to_the_cap_without_reading_again():
    """Certain at 20 or not, it was read once at detect @knob."""
    assert spend(StaticThreshold(), Knob(unit="samples", maximum=20), [0.69, 1.0]) == (
        [5, 15],
        StopReason.BUDGET,
    )


def test_static_with_a_budget_at_the_detection_point_ends_by_budget():
    assert spend(StaticThreshold(), Knob(unit="samples", maximum=5), [1.0]) == ([5], StopReason.BUDGET)


def test_length_stops_a_program_with_a_long_beginning():
    knob = Knob(unit="samples", maximum=20)
    assert spend(Length(max_tokens=499), knob, [0.5], tokens=100) == ([5], StopReason.LENGTH)
    assert spend(Length(max_tokens=500), knob, [0.5], tokens=100) == ([5, 15], StopReason.BUDGET)


def test_finer_steps_end_at_the_first_certain_reading():
    knob = Knob(unit="samples", maximum=20)
    assert spend(FiveStep(), knob, [0.4, 0.6, 0.8]) == ([5, 5, 5], StopReason.CERTAIN)
    assert spend(SingleStep(), knob, [0.4, 0.6, 0.8]) == ([5, 1, 1], StopReason.CERTAIN)
    assert spend(FiveStep(), Knob(unit="samples", maximum=12), [0.4]) == ([5, 5, 2], StopReason.BUDGET)


@given(st.lists(st.floats(0, 1), min_size=16, max_size=16))
def test_finer_steps_never_spend_more(entropies):
    """Readings by total: what is certain at 5, 10 or 15 is seen by the finer checks too."""
    knob = Knob(unit="samples", maximum=20)
    every_unit = sum(spend(SingleStep(), knob, entropies)[0])
    every_five = sum(spend(FiveStep(), knob, [entropies[index] for index in (0, 5, 10, 15)])[0])
    once = sum(spend(StaticThreshold(), knob, [entropies[0], entropies[15]])[0])
    assert every_unit <= every_five <= once


def test_giving_up_is_off_by_default_and_ends_what_is_hopeless():
    knob = Knob(unit="samples", maximum=20)
    assert spend(StaticThreshold(), knob, [0.0]) == ([5, 15], StopReason.BUDGET)
    policy = StaticThreshold(give_up=Thresholds(entropy=0.2))
    assert spend(policy, knob, [0.19]) == ([5], StopReason.HOPELESS)
    assert spend(policy, knob, [0.2]) == ([5, 15], StopReason.BUDGET)
    assert spend(policy, knob, [1.0]) == ([5], StopReason.CERTAIN)
    assert spend(policy, knob, [None]) == ([5, 15], StopReason.BUDGET)
    steps = SingleStep(give_up=Thresholds(entropy=0.2))
    assert spend(steps, knob, [0.5, 0.4, 0.1]) == ([5, 1, 1], StopReason.HOPELESS)


def test_giving_up_above_the_threshold_is_refused():
    with pytest.raises(ConfigurationError, match="above its threshold"):
        StaticThreshold(thresholds=Thresholds(entropy=0.5), give_up=Thresholds(entropy=0.6))


def test_the_signals_that_a_policy_reads_are_known_before_it_runs():
    assert list_read_signals(Even()) == frozenset()
    assert list_read_signals(StaticThreshold(give_up=Thresholds(reward=0.1))) == {"entropy", "reward"}
    curve = InitialStepCurve(points=((1.0, 5),), signal="answer_probability")
    assert list_read_signals(curve) == {"answer_probability"}


@given(
    st.sampled_from(
        [
            Even(),
            StaticThreshold(),
            StaticThreshold(detect_at=3),
            Length(max_tokens=300),
            FiveStep(),
            FiveStep(every=3, give_up=Thresholds(entropy=0.1)),
            SingleStep(detect_at=2),
            InitialStepCurve(points=((0.5, 12), (1.0, 4))),
            DynamicCurve(points=((0.5, 40), (0.8, 12), (1.0, 6))),
        ]
    ),
    st.integers(1, 64),
    st.lists(st.floats(0, 1), min_size=1, max_size=4),
)
def test_no_policy_exceeds_the_budget_or_goes_on_forever(policy, budget, entropies):
    grants, reason = spend(policy, Knob(unit="samples", maximum=budget), entropies)
    assert 1 <= sum(grants) <= budget
    assert (reason is StopReason.BUDGET) == (sum(grants) == budget)


@pytest.mark.parametrize("policy", [StaticThreshold, Length, FiveStep])
@pytest.mark.parametrize("detect_at", [0, -1, 3.5])
def test_a_detection_point_below_one_is_refused(policy, detect_at):
    with pytest.raises(ConfigurationError, match=f"detect_at = {detect_at}"):
        policy(detect_at=detect_at)


def test_a_token_limit_below_one_is_refused():
    with pytest.raises(ConfigurationError, match="max_tokens = 0"):
        Length(max_tokens=0)


def test_every_named_policy_can_be_made_and_knows_its_name():
    """A curve has to be fitted first: there is none that fits every model."""
    points = {"points": ((0.5, 20), (1.0, 5))}
    for name, policy in POLICIES.items():
        assert policy(**points if name.endswith("curve") else {}).name == name


@pytest.mark.parametrize("name", ["initial_curve", "dynamic_curve"])
def test_a_curve_that_was_never_fitted_is_refused(name):
    with pytest.raises(ConfigurationError, match="fitted on recorded traces"):
        POLICIES[name]()


def test_a_denial_needs_a_reason_and_a_grant_has_none():
    with pytest.raises(ConfigurationError):
        Decision(units=0)
    with pytest.raises(ConfigurationError):
        Decision(units=1, stop_reason=StopReason.BUDGET)


@pytest.mark.parametrize("maximum", [0, -3, 2.5, "5"])
def test_a_knob_without_room_is_refused(maximum):
    with pytest.raises(ConfigurationError, match="whole number of at least 1"):
        Knob(unit="samples", maximum=maximum)


def test_reading_entropy_after_one_path_is_refused():
    """One path has no entropy: such a threshold could never stop anything, and the budget was spent in silence."""
    with pytest.raises(ConfigurationError, match="at least 2"):
        StaticThreshold(detect_at=1)
    StaticThreshold(detect_at=1, thresholds=Thresholds(reward=0.4))


def test_a_spent_budget_tells_why_it_did_not_stop_earlier():
    knob = Knob(unit="samples", maximum=20)
    trace = (record(5, 5, entropy=0.41), record(15, 20, entropy=0.5))
    assert "entropy 0.41 <= 0.70 at 5 samples" in StaticThreshold().allocate(knob, trace).explanation


def test_thresholds_are_the_policys_own():
    policy = StaticThreshold(thresholds=Thresholds(entropy=0.4))
    assert spend(policy, Knob(unit="samples", maximum=20), [0.41]) == ([5], StopReason.CERTAIN)
