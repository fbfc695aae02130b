"""Depth policies: when a chain of thought has thought enough."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.errors import ConfigurationError
from hf_dynasor.scheduler.depth import ConfidenceExit, ConsistencyExit, DepthPlace, DepthReading
from hf_dynasor.scheduler.depth_evidence import EvidenceExit, measure

EAGER = EvidenceExit(
    threshold=5.0,
    carry=0.5,
    apart=1.0,
    support=1.0,
    least=2.0,
    caution=0.0,
    fall=0.0,
    far=512,
    near=64,
    promising=3.0,
    hold=4000,
)


def place(position, is_boundary=True):
    return DepthPlace(position=position, is_boundary=is_boundary)


def read(position, key, confidence=None, is_boundary=True):
    return DepthReading(place=place(position, is_boundary), answer=key, key=key, confidence=confidence)


def probe(position, key):
    return read(position, key, is_boundary=False)


def stops(policy, *readings, cap=None):
    state = policy.start(cap=cap)
    verdicts = [state.observe(reading) for reading in readings]
    assert not any(verdict.is_stop for verdict in verdicts[:-1]), "stopped before the last reading"
    return verdicts[-1].is_stop


def test_one_sure_answer_is_enough_and_one_doubtful_is_not():
    assert stops(EAGER, read(100, "9", 0.999))
    assert not stops(EAGER, read(100, "9", 0.98))


def test_the_same_answer_again_adds_up():
    assert stops(EAGER, read(100, "9", 0.98), read(200, "9", 0.98))
    assert not stops(EAGER, read(100, "9", 0.98), read(200, "8", 0.98))


def test_the_same_answer_a_few_tokens_later_is_no_news():
    policy = replace(EAGER, apart=200.0)
    assert not stops(policy, read(100, "9", 0.98), read(105, "9", 0.98))
    assert stops(policy, read(100, "9", 0.98), read(900, "9", 0.98))


def test_the_start_of_a_chain_asks_for_more():
    policy = replace(EAGER, caution=3.0)
    assert not stops(policy, read(10, "9", 0.995))
    assert stops(policy, read(9000, "9", 0.995))


def test_probes_support_an_answer_before_and_after_it():
    assert stops(EAGER, probe(64, "9"), probe(128, "9"), read(200, "9", 0.985))
    assert not stops(EAGER, probe(64, "8"), probe(128, None), read(200, "9", 0.985))
    assert stops(EAGER, read(200, "9", 0.985), probe(264, "9"), probe(328, "9"))


def test_probes_alone_stop_a_chain_without_boundaries_that_held_an_answer_for_long():
    held = [probe(64 * i, "9") for i in range(1, 63)]
    assert not stops(EAGER, *held)
    assert stops(EAGER, *held, probe(64 * 63 + 64, "9"))
    assert not stops(replace(EAGER, hold=None), *held, probe(9000, "9"))
    assert not stops(EAGER, *held, probe(9000, "8"))


def test_probes_alone_are_heard_once_boundaries_have_been_silent_for_long():
    held = [probe(64 * i, "9") for i in range(1, 63)]
    assert stops(EAGER, read(10, "8", 0.5), *held, probe(4100, "9"))
    assert stops(EAGER, read(10, None), *held, read(4000, None), probe(4100, "9"))
    assert not stops(EAGER, *held, read(4000, "8", 0.5), probe(4100, "9"))


def test_an_answer_that_came_late_must_be_held_for_longer():
    early = [probe(64, "8"), *(probe(10_000 + 500 * i, "9") for i in range(15))]
    assert not stops(EAGER, *early)
    assert stops(EAGER, *early, probe(17_600, "9"))


def test_the_longer_a_chain_runs_the_less_evidence_it_needs():
    policy = replace(EAGER, fall=1.0)
    assert not stops(policy, read(100, "9", 0.99))
    assert stops(policy, read(9000, "9", 0.99))


def test_boundaries_next_door_are_asked_only_once_an_answer_is_promising():
    policy = replace(EAGER, spacing=0.1)
    state = policy.start()
    state.observe(read(1000, "9", 0.5))
    assert [state.wants(place(p)) for p in (1050, 1112)] == [False, True]
    state.observe(read(1112, "9", 0.98))
    assert state.wants(place(1113))


def test_an_answer_that_says_nothing_starts_afresh():
    assert not stops(EAGER, read(100, "9", 0.98), read(200, None, 0.9999), read(300, "9", 0.98))


def test_the_newest_answer_must_itself_be_fairly_sure():
    assert not stops(EAGER, *(probe(64 * i, "9") for i in range(1, 9)), read(600, "9", 0.86))


def test_probes_are_sparse_until_an_answer_is_promising():
    state = EAGER.start()
    assert not state.wants(place(192, is_boundary=False))
    assert state.wants(place(256, is_boundary=False))
    state.observe(probe(256, "9"))
    assert not state.wants(place(700, is_boundary=False))
    state.observe(read(700, "9", 0.96))
    assert state.wants(place(704, is_boundary=False))
    state.observe(probe(704, "8"))
    assert not state.wants(place(767, is_boundary=False))
    assert state.wants(place(768, is_boundary=False))


def test_a_chain_is_given_up_late_with_what_it_says_then():
    state = EvidenceExit(give_up=0.5).start(cap=1000)
    for reading in (probe(100, "8"), read(200, "9", 0.6), probe(300, "9"), probe(400, "8")):
        assert not state.observe(reading).is_stop
    assert not state.wants(place(499, is_boundary=False))
    assert state.wants(place(500, is_boundary=False))
    assert not state.observe(probe(500, None)).is_stop, "it says nothing"
    verdict = state.observe(probe(501, "7"))
    assert (verdict.is_stop, verdict.reading.key) == (True, "7")


def test_nothing_is_given_up_without_a_cap_or_where_the_answer_is_too_long_for_a_probe():
    def gives_up(state):
        return state.wants(place(60, is_boundary=False)) and state.observe(probe(60, "9")).is_stop

    assert not gives_up(EvidenceExit(give_up=0.5).start())
    assert not gives_up(EvidenceExit().start(cap=100)), "it is off by default"
    for before, is_given_up in (
        (probe(40, "9"), False),
        (read(40, None, 0.99), False),
        (read(50, "9", 0.5), True),
    ):
        state = EvidenceExit(give_up=0.5).start(cap=100)
        state.observe(before)
        assert gives_up(state) is is_given_up
    own = EvidenceExit(give_up=0.5, cap=100).start(cap=10**6)
    own.observe(read(50, "9", 0.5))
    assert gives_up(own), "a cap that the policy names wins"


readings = st.lists(st.tuples(st.sampled_from(["8", "9", None]), st.floats(0, 1), st.booleans()), max_size=30)


@settings(max_examples=60, deadline=None)
@given(readings, st.floats(0.5, 8), st.floats(0, 4))
def test_a_higher_threshold_never_stops_earlier(items, threshold, more):
    def first_stop(policy):
        state = policy.start()
        for index, (key, confidence, is_boundary) in enumerate(items):
            if state.observe(read(100 * index, key, confidence, is_boundary)).is_stop:
                return index
        return len(items)

    lower = first_stop(EvidenceExit(threshold=threshold))
    assert lower <= first_stop(EvidenceExit(threshold=threshold + more))


@settings(max_examples=60, deadline=None)
@given(readings, st.floats(1, 8))
def test_only_a_boundary_that_just_answered_or_its_probes_stop_and_with_that_answer(items, threshold):
    state = EvidenceExit(threshold=threshold).start()
    newest = None
    for index, (key, confidence, is_boundary) in enumerate(items):
        newest = (key if is_boundary else newest) if is_boundary else newest
        verdict = state.observe(read(100 * index, key, confidence, is_boundary))
        if verdict.is_stop:
            assert verdict.reading.key == newest
            assert newest is not None
            assert measure(verdict.reading.confidence) > 2.4
            return


def test_confidence_is_strict():
    assert not stops(ConfidenceExit(threshold=0.9), read(1, "9", 0.9))
    assert stops(ConfidenceExit(threshold=0.9), read(1, "9", 0.91))
    assert not stops(ConfidenceExit(threshold=0.9), read(1, None, 1.0))
    assert not stops(ConfidenceExit(threshold=0.0), read(1, "9", None))


def test_consistency_skips_places_that_are_too_near():
    state = ConsistencyExit(window=2, interval=100).start()
    assert [state.wants(place(p, is_boundary=False)) for p in (64, 100)] == [False, True]
    assert not state.wants(place(500))


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": -1.0},
        {"threshold": math.nan},
        {"carry": 1.5},
        {"window": 0},
        {"near": 1.5},
        {"give_up": 0.0},
        {"give_up": 1.1},
        {"support": math.inf},
        {"far": True},
        {"apart": 0.0},
        {"hold": 0},
        {"spacing": 1.5},
        {"fall": -1.0},
        {"cap": 0},
    ],
)
def test_options_outside_their_range_are_refused(options):
    with pytest.raises(ConfigurationError, match=f"{next(iter(options))}.* = .* but expected"):
        EvidenceExit(**options)
