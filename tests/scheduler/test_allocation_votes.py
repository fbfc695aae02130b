"""Rules on votes: adaptive consistency, consistent windows, and the forecast of the rest of the votes."""

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hf_dynasor.certaindex import Certaindex, Thresholds, agreement, normalised_entropy
from hf_dynasor.core import Usage
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.grants import GrantRecord, Knob, StopReason
from hf_dynasor.scheduler import AdaptiveConsistency, ConsistentWindow, SingleStep, VoteForecast
from hf_dynasor.scheduler.allocation_votes import beta_confidence, dirichlet_confidence, forecast_change

VOTES = st.lists(st.sampled_from("aaaabbc?"), min_size=1, max_size=24)


def number(votes):
    """Groups by first appearance; every `?` stands alone."""
    seen = {}
    return tuple(
        seen.setdefault((index,) if vote == "?" else vote, len(seen)) for index, vote in enumerate(votes)
    )


def record(votes, total, units):
    groups = number(votes[:total])
    sizes = [groups.count(group) for group in set(groups)]
    reading = Certaindex(entropy=normalised_entropy(sizes), agreement=agreement(sizes), num_paths=len(groups))
    usage = Usage(sampled=total)
    return GrantRecord(
        units=units, total=total, certaindex=reading, usage=usage, sequential_tokens=total, groups=groups
    )


def spend(policy, votes):
    """Grants until the policy denies, the budget being all votes."""
    trace = ()
    knob = Knob(unit="samples", maximum=len(votes))
    while (decision := policy.allocate(knob, trace)).units:
        total = decision.units + (trace[-1].total if trace else 0)
        trace = (*trace, record(votes, total, decision.units))
    return [item.units for item in trace], decision.stop_reason


def elect(votes):
    """The majority; of equals the one seen first. `None` where nothing is stated."""
    stated = [vote for vote in votes if vote != "?"]
    return max(dict.fromkeys(stated), key=stated.count, default=None)


def test_three_of_three_can_end_adaptive_consistency():
    """A peer adds a vote that nobody cast, so three of three never passed its check."""
    assert spend(AdaptiveConsistency(confidence=0.93), "aaaaaaaa") == ([1, 1, 1], StopReason.CERTAIN)
    assert spend(AdaptiveConsistency(confidence=0.95), "aaaaaaaa") == ([1, 1, 1, 1], StopReason.CERTAIN)
    assert spend(SingleStep(thresholds=Thresholds(entropy=0.99), detect_at=3), "aaaaaaaa")[0] == [3]


@given(st.integers(0, 30), st.integers(0, 30))
def test_the_beta_posterior_is_exact(leader, rival):
    assert beta_confidence(leader, rival) == pytest.approx(
        stats.beta.sf(0.5, leader + 1, rival + 1), rel=1e-9
    )


@given(st.integers(0, 25), st.integers(0, 25))
@settings(max_examples=30)
def test_two_answers_have_the_same_posterior_under_both_rules(leader, rival):
    assert dirichlet_confidence((leader, rival)) == pytest.approx(beta_confidence(leader, rival), abs=1e-5)


@pytest.mark.parametrize("sizes", [(3, 2, 1), (5, 1, 1, 1), (2, 2, 2), (10, 7, 3)])
def test_the_dirichlet_posterior_is_what_draws_say(sizes):
    """20,000 draws: a right value is more than five standard errors away less than once in a million times."""
    rng = random.Random(f"{sizes}")
    draws = [[rng.gammavariate(size + 1, 1) for size in sizes] for _ in range(20_000)]
    share = sum(draw[0] == max(draw) for draw in draws) / len(draws)
    exact = dirichlet_confidence(sizes)
    assert abs(share - exact) < 5 * math.sqrt(exact * (1 - exact) / len(draws))


def test_a_window_ends_only_where_all_of_it_agree():
    policy = ConsistentWindow(window=3)
    assert spend(policy, "abcbbbaaa") == ([3, 3], StopReason.CERTAIN)
    assert spend(policy, "ab?b?baaa") == ([3, 3, 3], StopReason.BUDGET)
    assert spend(policy, "aab" * 3) == ([3, 3, 3], StopReason.BUDGET)


def test_a_window_of_the_smaller_group_counts_too():
    """The sizes alone, 4 and 3, would not tell one `bb` from an `a` and a `b`."""
    assert spend(ConsistentWindow(window=2), "abbbcccc") == ([2, 2], StopReason.CERTAIN)


def test_silence_never_agrees():
    for policy in (ConsistentWindow(window=2), AdaptiveConsistency(), VoteForecast()):
        assert spend(policy, "????????")[1] is StopReason.BUDGET


@given(VOTES)
def test_without_risk_the_forecast_always_ends_with_the_full_budgets_answer(votes):
    grants, _ = spend(VoteForecast(risk=0), votes)
    assert elect(votes[: sum(grants)]) == elect(votes)


def test_without_risk_every_order_of_few_votes_keeps_its_answer():
    for votes in itertools.product("ab?", repeat=7):
        grants, _ = spend(VoteForecast(risk=0), votes)
        assert elect(votes[: sum(grants)]) == elect(votes), votes


@given(VOTES, st.sampled_from([0.0, 0.02, 0.1, 0.3]), st.sampled_from([0.2, 1.0]))
def test_looking_ahead_takes_no_more_votes_than_single_steps(votes, risk, prior):
    """Between two grants nothing could have ended it, so the larger grants lose nothing."""
    policy = VoteForecast(risk=risk, prior=prior, max_grants=None)
    grants, _ = spend(policy, votes)
    knob, total = Knob(unit="samples", maximum=len(votes)), 0
    for units in grants:
        for earlier in range(total + 1, total + units):
            assert policy.allocate(knob, (record(votes, earlier, 1),)).units, (votes, earlier)
        total += units


def test_unanimous_votes_end_after_one_grant():
    assert spend(VoteForecast(risk=0), "a" * 20) == ([10], StopReason.CERTAIN)
    assert len(spend(VoteForecast(), "a" * 20)[0]) == 1


@given(VOTES, st.integers(1, 5))
def test_no_more_grants_than_allowed(votes, max_grants):
    grants, _ = spend(VoteForecast(max_grants=max_grants), votes)
    assert len(grants) <= max_grants
    assert len(grants) < max_grants or sum(grants) == len(votes)


@given(st.integers(1, 12), st.integers(0, 12), st.integers(0, 12), st.booleans())
def test_the_forecast_is_the_beta_binomial_tail(leader, rival, left, wins_ties):
    beaten = [v for v in range(left + 1) if rival + v + wins_ties > leader + left - v]
    law = stats.betabinom(left, rival + 0.5, leader + 0.5)
    expected = sum(law.pmf(votes) for votes in beaten)
    assert forecast_change(leader, rival, left, 0.5, wins_ties=wins_ties) == pytest.approx(expected, abs=1e-9)


def test_the_forecast_gives_up_where_asked_to():
    policy = VoteForecast(give_up=Thresholds(entropy=0.2), give_up_at=4)
    assert spend(policy, "abcdefghij")[1] is StopReason.HOPELESS
    assert spend(VoteForecast(), "abcdefghij")[1] is StopReason.BUDGET


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdaptiveConsistency(confidence=0.5),
        lambda: AdaptiveConsistency(confidence=1.0),
        lambda: AdaptiveConsistency(posterior="gamma"),
        lambda: AdaptiveConsistency(every=0),
        lambda: ConsistentWindow(window=1),
        lambda: VoteForecast(risk=1.0),
        lambda: VoteForecast(risk=-0.1),
        lambda: VoteForecast(prior=0.0),
        lambda: VoteForecast(prior=math.nan),
        lambda: VoteForecast(least=0),
        lambda: VoteForecast(max_grants=0),
    ],
)
def test_options_out_of_range_are_refused(make):
    with pytest.raises(ConfigurationError, match=r"Got|Unknown"):
        make()


@pytest.mark.parametrize("policy", [AdaptiveConsistency(), ConsistentWindow(), VoteForecast()])
def test_a_program_that_does_not_group_its_answers_is_refused(policy):
    reading = Certaindex(reward=0.5, num_paths=3)
    bare = GrantRecord(units=3, total=3, certaindex=reading, usage=Usage(), sequential_tokens=1)
    with pytest.raises(ConfigurationError, match="does not group"):
        policy.allocate(Knob(unit="rollouts", maximum=9), (bare,))
