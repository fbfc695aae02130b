"""Replays of many chains in parallel: tokens, time, and what a policy may know when."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.errors import ConfigurationError, InputError, ProgramError
from hf_dynasor.evaluation.replay_width_depth import replay_width_depth
from hf_dynasor.evaluation.replayed import summarise
from hf_dynasor.evaluation.traces import JOINT_POLICIES, read_traces
from hf_dynasor.scheduler.joint import JointDecision, SettledMajority
from hf_dynasor.scheduler.joint_baselines import (
    AdaptiveConsistency,
    EarlyStoppingWindows,
    FullWidth,
    ParallelConsensus,
)
from tests.evaluation.trace_kit import SHARED, make_branch, make_bundle

EQUAL = make_bundle(*(make_branch(300 + 10 * i, "9", "9", "9") for i in range(8)))


def replay_one(bundle, policy, budget=None, **options):
    rows = replay_width_depth([bundle], policy, budget=budget or len(bundle.branches), draws=1, **options)
    return rows[0]


def test_the_full_width_is_the_baseline():
    row = replay_one(EQUAL, FullWidth())
    assert (row.net_tokens, row.sequential_tokens) == (2680, 370)
    assert (row.baseline_tokens, row.baseline_sequential_tokens) == (2680, 370)
    assert (row.is_correct, row.baseline_is_correct, row.is_early) == (True, True, False)


def test_waves_add_up_and_parallel_chains_do_not():
    row = replay_one(make_bundle(*(make_branch(100, "9") for _ in range(6))), EarlyStoppingWindows(window=3))
    assert (row.net_tokens, row.sequential_tokens, row.is_early) == (300, 100, True)
    row = replay_one(
        make_bundle(*(make_branch(100, str(i)) for i in range(6))), EarlyStoppingWindows(window=3)
    )
    assert (row.net_tokens, row.sequential_tokens, row.is_early) == (600, 200, False)
    row = replay_one(make_bundle(*(make_branch(100, "9") for _ in range(6))), AdaptiveConsistency())
    assert (row.net_tokens, row.sequential_tokens) == (400, 400)


def test_settled_chains_end_the_others_where_they_are():
    chains = [make_branch(100 * (i + 1), "9") for i in range(8)]
    row = replay_one(make_bundle(*chains), SettledMajority(width=8))
    assert row.sequential_tokens == 400
    assert row.net_tokens == 100 + 200 + 300 + 5 * 400
    assert (row.answer, row.is_early) == ("9", True)


def test_stragglers_of_an_open_question_are_not_waited_for():
    chains = [make_branch(100, "1"), make_branch(110, "9"), make_branch(120, "9"), make_branch(9000, "1")]
    row = replay_one(make_bundle(*chains), SettledMajority(width=4, share=0.75))
    assert (row.answer, row.sequential_tokens, row.net_tokens) == ("9", 120, 100 + 110 + 2 * 120)


def test_probes_cost_tokens_and_time():
    policy = ParallelConsensus(interval=100, hold=2)
    row = replay_one(EQUAL, policy, probe_tokens=20)
    assert (row.sequential_tokens, row.net_tokens) == (2 * 120, 8 * 2 * 120)
    assert row.explanation == "held for 2 looks"


class Spy:
    """Writes down what it may see, and stops at a given time."""

    name = "spy"
    interval = 100

    def __init__(self):
        self.views = []

    def decide(self, view):
        self.views.append(view)
        return JointDecision() if view.chains else JointDecision(num_new=view.budget)


def test_a_policy_sees_an_answer_no_earlier_than_it_was_given():
    spy = Spy()
    replay_one(make_bundle(make_branch(250, "9", "1", "2")), spy, probe_tokens=0)
    assert [view.chains[0].answers for view in spy.views[1:]] == [(1,), (1, 2), (1, 2, 9)]
    assert [view.elapsed for view in spy.views] == [0, 100, 200, 250]


def test_an_answer_without_a_probe_is_none():
    spy = Spy()
    replay_one(make_bundle(make_branch(250, "9")), spy, probe_tokens=0)
    assert [view.chains[0].streak for view in spy.views[1:]] == [0, 0, 1]
    assert spy.views[-1].chains[0].answers == (None, None, 9)


class Greedy:
    name = "greedy"
    interval = None

    def decide(self, view):
        return JointDecision(num_new=view.budget + 1)


def test_without_a_budget_a_draw_takes_64_or_all_that_there_are():
    (row,) = replay_width_depth([EQUAL], FullWidth(), draws=1)
    assert row.baseline_tokens == 2680
    many = make_bundle(*(make_branch(10, "9") for _ in range(100)))
    assert replay_width_depth([many], FullWidth(), draws=1)[0].baseline_tokens == 640


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="has 8 branches but the budget is 9"):
        replay_one(EQUAL, FullWidth(), budget=9)
    with pytest.raises(InputError, match=r"probes every 150 tokens .* every 100. Expected a multiple"):
        replay_one(EQUAL, ParallelConsensus(interval=150))
    with pytest.raises(ProgramError, match="started 9 chains but only 8 are left"):
        replay_one(EQUAL, Greedy())
    with pytest.raises(ConfigurationError, match="draws = 0"):
        replay_width_depth([EQUAL], FullWidth(), budget=8, draws=0)


def test_draws_repeat_under_a_seed_and_do_not_depend_on_the_other_questions():
    bundles = [
        make_bundle(*(make_branch(100 + i, str(i % 3)) for i in range(20)), id=f"q-{n}") for n in range(3)
    ]
    policy = SettledMajority(width=4)
    rows = replay_width_depth(bundles, policy, budget=8, draws=3, seed=5)
    assert rows == replay_width_depth(bundles, policy, budget=8, draws=3, seed=5)
    assert rows != replay_width_depth(bundles, policy, budget=8, draws=3, seed=6)
    assert rows[3:6] == replay_width_depth(bundles[1:2], policy, budget=8, draws=3, seed=5)


chains = st.lists(
    st.tuples(
        st.integers(1, 900),
        st.sampled_from([None, "1", "9"]),
        st.lists(st.sampled_from([None, "1", "9"]), max_size=8),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=40, deadline=None)
@given(
    chains,
    st.sampled_from(
        [*JOINT_POLICIES.values(), ParallelConsensus(interval=100, hold=2, warmup=2, patience=2)]
    ),
)
def test_no_policy_spends_more_than_all_chains_and_their_probes(items, policy):
    if policy.interval == 500:
        return
    bundle = make_bundle(*(make_branch(n, answer, *probes) for n, answer, probes in items))
    row = replay_one(bundle, policy, probe_tokens=3)
    total = sum(branch.num_tokens for branch in bundle.branches)
    num_looks = sum(branch.num_tokens // 100 for branch in bundle.branches)
    assert row.net_tokens <= total + 3 * num_looks
    assert row.sequential_tokens <= row.net_tokens
    if not row.is_early:
        assert row.net_tokens >= total


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared traces are not here")
def test_settled_majority_dominates_the_known_ways_on_recorded_chains():
    """At most 0.35 of the total and 0.65 of the sequential tokens of SC@64 at no loss, and less than any peer."""
    traces = read_traces([SHARED / "qwen3_8b_aime24.jsonl"]).width_depth()
    totals = {
        policy.name: summarise(replay_width_depth(traces, policy, draws=10))
        for policy in (SettledMajority(), AdaptiveConsistency(), EarlyStoppingWindows())
    }
    ours = totals.pop("settled_majority")
    assert ours.accuracy >= ours.baseline_accuracy
    assert ours.net_tokens <= 0.35 * ours.baseline_tokens
    assert ours.sequential_tokens <= 0.65 * ours.baseline_sequential_tokens
    for peer in totals.values():
        assert ours.net_tokens < peer.net_tokens
        assert ours.sequential_tokens < peer.sequential_tokens
