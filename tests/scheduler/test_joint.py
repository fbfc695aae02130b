"""Joint policies: width and depth of a question's chains."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_dynasor.errors import ConfigurationError
from hf_dynasor.scheduler.joint import ChainView, JointView, SettledMajority, beta_lead, lead_vote
from hf_dynasor.scheduler.joint_baselines import (
    AdaptiveConsistency,
    EarlyStoppingWindows,
    FullWidth,
    ParallelConsensus,
)


def ended(index, answer):
    return ChainView(index=index, num_tokens=100, is_running=False, answers=(answer,))


def running(index, *answers):
    return ChainView(index=index, num_tokens=50, is_running=True, answers=answers)


def view(*chains, budget=8):
    return JointView(elapsed=100, chains=chains, budget=budget)


def vote(*answers, still_running=0):
    chains = [ended(i, answer) for i, answer in enumerate(answers)]
    return view(*chains, *(running(len(answers) + i) for i in range(still_running)), budget=64)


def test_chains_start_together_and_never_more_than_the_budget():
    assert SettledMajority(width=16).decide(view(budget=64)).num_new == 16
    assert SettledMajority(width=16).decide(view(budget=5)).num_new == 5
    assert FullWidth().decide(view(budget=5)).num_new == 5
    assert AdaptiveConsistency().decide(view()).num_new == 1
    assert EarlyStoppingWindows(window=3).decide(view()).num_new == 3


def test_a_settled_vote_answers_while_others_run():
    policy = SettledMajority(confidence=0.95, share=1.0)
    assert not policy.decide(vote("a", "a", "a", still_running=9)).is_done
    decision = policy.decide(vote("a", "a", "a", "a", still_running=9))
    assert (decision.is_done, decision.key) == (True, "a")
    assert not policy.decide(vote("a", "a", "a", "a", "b", still_running=9)).is_done
    assert policy.decide(vote("a", "b", "a", "a", "a", "a", "a", still_running=9)).is_done


def test_stragglers_are_left_behind_and_silence_has_no_vote():
    policy = SettledMajority(confidence=1.0, share=0.5)
    assert not policy.decide(vote("a", "b", "b", still_running=5)).is_done
    assert policy.decide(vote("a", "b", "b", None, still_running=4)).key == "b"
    assert not policy.decide(vote(None, None, None, None, still_running=4)).is_done


def test_waves_wait_for_all_of_a_wave():
    policy = EarlyStoppingWindows(window=2)
    assert policy.decide(vote("a", still_running=1)).num_new == 0
    assert policy.decide(vote("a", "b")).num_new == 2
    assert policy.decide(vote("a", "b", "c", "c")).key == "c"
    assert not policy.decide(vote(None, None)).is_done


def test_adaptive_consistency_stops_four_to_none():
    policy = AdaptiveConsistency(confidence=0.95)
    assert policy.decide(vote("a", "a", "a")).num_new == 1
    assert policy.decide(vote("a", "a", "a", "a")).key == "a"
    assert policy.decide(view(*(ended(i, str(i)) for i in range(8)))).num_new == 0


def test_a_consensus_that_holds_stops_and_long_dissent_is_pruned():
    policy = ParallelConsensus(hold=3, patience=2, warmup=2)
    held = view(running(0, "a", "a", "a"), running(1, "b", "a", "a"), running(2, "a", "a", "b"))
    assert policy.decide(held).key == "a"
    apart = view(running(0, "b", "a"), running(1, "c", "a"), running(2, "b", "b"), running(3, "b", "a"))
    assert policy.decide(apart).pruned == frozenset()
    apart = view(running(0, "a", "a"), running(1, "a", "a"), running(2, "c", "b"))
    assert policy.decide(apart).pruned == {2}


def test_a_streak_counts_the_newest_answers_that_are_the_same():
    assert [running(0, *answers).streak for answers in ((), ("a",), ("a", "b", "b"), ("b", None))] == [
        0,
        1,
        2,
        0,
    ]


@given(st.integers(0, 40), st.integers(0, 40))
def test_the_chance_of_leading_is_fair_and_monotone(lead, second):
    assert beta_lead(lead, second) == pytest.approx(1 - beta_lead(second, lead))
    assert beta_lead(lead + 1, second) > beta_lead(lead, second) > beta_lead(lead, second + 1)


def test_the_chance_of_leading_is_that_of_a_beta_variable():
    stats = pytest.importorskip("scipy.stats")
    for lead, second in itertools.product(range(8), repeat=2):
        assert beta_lead(lead, second) == pytest.approx(float(stats.beta.sf(0.5, lead + 1, second + 1)))


@given(st.lists(st.sampled_from(["a", "b", None]), max_size=12))
def test_the_decision_does_not_depend_on_the_order_in_which_equal_votes_came(answers):
    decision = SettledMajority().decide(vote(*answers, still_running=3))
    ordered = sorted(answers, key=lambda answer: -answers.count(answer))
    again = SettledMajority().decide(vote(*ordered, still_running=3))
    assert decision.is_done == again.is_done
    if decision.is_done and lead_vote(answers)[1] != lead_vote(answers)[2]:
        assert decision.key == again.key


@pytest.mark.parametrize(
    "make",
    [
        lambda: SettledMajority(width=0),
        lambda: SettledMajority(share=1.5),
        lambda: SettledMajority(confidence=-0.1),
        lambda: AdaptiveConsistency(confidence=2),
        lambda: EarlyStoppingWindows(window=0),
        lambda: ParallelConsensus(hold=0),
    ],
)
def test_options_outside_their_range_are_refused(make):
    with pytest.raises(ConfigurationError, match=r"= .* but expected"):
        make()
