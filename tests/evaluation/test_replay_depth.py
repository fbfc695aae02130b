"""Replays of recorded chains: what is counted, what may be known when, and the figures of known rules."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.evaluation.replay_depth import replay_depth
from hf_dynasor.evaluation.replayed import summarise
from hf_dynasor.evaluation.traces import DEPTH_POLICIES, build_depth_policy, read_traces
from hf_dynasor.evaluation.traces.judging import judge_depth, read_key
from hf_dynasor.scheduler.depth import ConfidenceExit, ConsistencyExit, FullDepth
from hf_dynasor.scheduler.depth_evidence import EvidenceExit
from tests.evaluation.trace_kit import SHARED, at_boundary, at_interval, make_chain

needs_traces = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared traces are not here")


def replay_one(trace, policy):
    (row,) = replay_depth([trace], policy)
    return row


def test_a_stop_costs_what_stood_before_it_and_every_answer_that_was_asked_for():
    chain = make_chain(
        at_boundary(100, "8", 0.5, num_tokens=5),
        at_interval(128, "9", num_tokens=7),
        at_boundary(300, "9", 0.999, num_tokens=6),
        at_boundary(400, "8", 0.9999, num_tokens=6),
    )
    row = replay_one(chain, ConfidenceExit(threshold=0.99))
    assert (row.net_tokens, row.stopped_at, row.answer, row.is_correct, row.is_early) == (
        300 + 5 + 6,
        300,
        "9",
        True,
        True,
    )
    assert (row.baseline_tokens, row.sequential_tokens, row.baseline_sequential_tokens) == (1000, 311, 1000)


def test_a_chain_that_is_not_stopped_costs_its_length_and_its_probes_and_ends_as_recorded():
    chain = make_chain(at_boundary(100, "8", 0.5, num_tokens=5), answer=None, is_correct=False)
    row = replay_one(chain, ConfidenceExit())
    assert (row.net_tokens, row.answer, row.is_correct, row.is_early) == (1005, None, False, False)


def test_the_full_policy_is_the_baseline():
    row = replay_one(make_chain(at_boundary(100, "8"), at_interval(128, "8")), FullDepth())
    assert (row.net_tokens, row.is_correct, row.is_lost) == (1000, True, False)


def test_consistency_waits_for_a_full_window_without_hesitation():
    chain = make_chain(
        at_interval(64, "8", is_hesitant=True),
        at_interval(128, "8"),
        at_boundary(130, "1", 1.0),
        at_interval(192, "8"),
        at_interval(256, "8"),
        at_interval(320, "8"),
    )
    row = replay_one(chain, ConsistencyExit(window=3, interval=64))
    assert (row.stopped_at, row.net_tokens, row.is_lost) == (256, 256 + 4 * 7, True)


def test_silence_agrees_with_nothing():
    chain = make_chain(*(at_interval(64 * i, None) for i in range(1, 10)))
    assert not replay_one(chain, ConsistencyExit(window=2)).is_early


def test_an_answer_is_judged_as_the_record_judged_the_full_run():
    """Where our grader accepts what the record's refused, a stopped chain must not gain by it."""
    strict = make_chain(reference="x+1", answer="1+x", is_correct=False)
    assert not judge_depth(strict, "1+x")
    assert not judge_depth(strict, "x+1")
    lenient = make_chain(reference="(2,3)", answer="[2,3]", is_correct=True)
    assert judge_depth(lenient, "[2, 3]")
    assert judge_depth(lenient, "(2,3)")
    assert not judge_depth(lenient, "(2,4)")
    assert not judge_depth(lenient, None)


def test_quick_keys_never_take_different_answers_for_one():
    texts = ["1", "2", "-1", "1/2", "0.25", "x", "x+1", "(1,2)", "[1,2]", "\\sqrt{2}", "A", "AB"]
    assert len({read_key(text) for text in texts}) == len(texts)
    assert read_key("") is read_key(None) is read_key(" $ $ ") is None


places = st.lists(
    st.tuples(
        st.integers(1, 60),
        st.sampled_from([None, "", "8", "9", "\\frac12"]),
        st.sampled_from([None, 0.0, 0.5, 0.9, 0.99, 0.9999, 1.0]),
        st.booleans(),
        st.integers(0, 20),
    ),
    max_size=40,
)


def build(items, num_tokens=3000, cap=None):
    position, probes = 0, []
    for gap, answer, confidence, is_boundary, cost in items:
        position += gap
        make = at_boundary if is_boundary else at_interval
        rest = (confidence,) if is_boundary else ()
        probes.append(make(position, answer, *rest, num_tokens=cost))
    return make_chain(*probes, num_tokens=num_tokens, cap=cap)


POLICIES = [*DEPTH_POLICIES.values(), EvidenceExit(threshold=2.0, far=32, near=16, give_up=0.3, hold=100)]


@settings(max_examples=40, deadline=None)
@given(places, st.sampled_from(POLICIES), st.sampled_from([None, 1000]))
def test_what_comes_after_a_stop_changes_nothing(items, policy, cap):
    chain = build(items, cap=cap)
    row = replay_one(chain, policy)
    if row.is_early:
        known = tuple(probe for probe in chain.probes if probe.position <= row.stopped_at)
        assert replay_one(replace(chain, probes=known), policy) == row
        longer = replace(chain, num_tokens=9000)
        assert (
            replace(replay_one(longer, policy), baseline_tokens=3000, baseline_sequential_tokens=3000) == row
        )


def show_decision(row, horizon):
    """What was decided up to the horizon; the record of the full run is not part of it."""
    stopped = row.is_early and row.stopped_at <= horizon
    return (row.answer, row.stopped_at, row.net_tokens, row.explanation) if stopped else "go on"


def replace_future(chain, horizon, others):
    """The chain as it was until the horizon; after it other answers, another length and another end."""
    known = tuple(probe for probe in chain.probes if probe.position <= horizon)
    later = tuple(replace(probe, position=horizon + probe.position) for probe in others)
    return replace(
        chain, probes=known + later, num_tokens=90_000, is_finished=False, answer="7", is_correct=False
    )


@settings(max_examples=60, deadline=None)
@given(places, places, st.sampled_from(POLICIES), st.sampled_from([None, 1000]), st.integers(0, 2400))
def test_a_decision_is_the_same_whatever_the_future_holds(items, others, policy, cap, horizon):
    chain = build(items, cap=cap)
    changed = replace_future(chain, horizon, build(others).probes)
    before, after = replay_one(chain, policy), replay_one(changed, policy)
    assert show_decision(before, horizon) == show_decision(after, horizon)


@needs_traces
@pytest.mark.parametrize("policy", ["evidence", "confidence", "mild"])
def test_decisions_on_real_chains_do_not_see_their_future(policy):
    """Records cut off after a quarter, half and three quarters of each chain, with another chain's answers after."""
    policy = build_depth_policy(policy)
    chains = read_traces([SHARED / "boundary_r1_qwen_7b_amc23_seed42.jsonl"]).depth()
    decisions = []
    for chain, other in zip(chains, reversed(chains), strict=True):
        whole = replay_one(chain, policy)
        for quarter in (1, 2, 3):
            horizon = chain.num_tokens * quarter // 4
            changed = replace_future(chain, horizon, other.probes)
            decisions.append(show_decision(whole, horizon))
            assert decisions[-1] == show_decision(replay_one(changed, policy), horizon)
    assert "go on" in decisions
    assert len(set(decisions)) > 1


@settings(max_examples=40, deadline=None)
@given(places, st.sampled_from(POLICIES))
def test_tokens_are_conserved(items, policy):
    chain = build(items)
    row = replay_one(chain, policy)
    asked = sum(probe.num_tokens for probe in chain.probes if probe.position <= row.stopped_at)
    assert row.stopped_at <= row.net_tokens <= row.stopped_at + asked
    assert row.is_early == (row.stopped_at < chain.num_tokens)
    assert row.baseline_tokens == chain.num_tokens


def figures(run, policy):
    if not (SHARED / f"boundary_{run}.jsonl").is_file():
        pytest.skip("the shared traces are not here")
    total = summarise(replay_depth(read_traces([SHARED / f"boundary_{run}.jsonl"]).depth(), policy))
    saved = 100 * (1 - total.net_tokens / total.baseline_tokens)
    return round(100 * total.accuracy, 1), round(saved)


@needs_traces
@pytest.mark.parametrize(
    ("run", "policy", "accuracy", "saved"),
    [
        ("r1_qwen_7b_math500_seed42", "full", 88.8, 0),
        ("r1_qwen_7b_math500_seed42", "mid", 51.5, 81),
        ("r1_qwen_7b_math500_seed42", "mild", 78.8, 49),
        ("r1_qwen_7b_math500_seed42", "confidence", 88.2, 41),
        ("qwen3_8b_math500_seed42", "mid", 46.0, 90),
        ("qwen3_8b_math500_seed42", "confidence", 92.0, 47),
    ],
)
def test_known_rules_show_their_known_figures(run, policy, accuracy, saved):
    """Independent figures of the same traces differ by 0.5 points at most, which is the grader."""
    assert figures(run, build_depth_policy(policy)) == (
        pytest.approx(accuracy, abs=0.3),
        pytest.approx(saved, abs=1),
    )


@needs_traces
def test_evidence_saves_more_than_confidence_at_the_bar_and_loses_little():
    """Half of the net tokens over the three runs of MATH-500 at no more than half a point, and nothing given up."""
    runs = ["r1_qwen_7b_math500_seed42", "r1_qwen_7b_math500_seed43", "qwen3_8b_math500_seed42"]
    ours = [figures(run, EvidenceExit()) for run in runs]
    full = [figures(run, FullDepth()) for run in runs]
    assert sum(saved for _, saved in ours) / 3 >= 50
    assert sum(a for a, _ in ours) / 3 >= sum(a for a, _ in full) / 3 - 0.5
