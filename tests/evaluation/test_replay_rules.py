"""Stopping rules of `generate` on recorded chains: they stop where the same rule would stop a live chain."""

import math

import pytest

from hf_dynasor.certaindex.readings import Progress, Reading
from hf_dynasor.evaluation.replay_rules import build_rule, replay_rule
from hf_dynasor.evaluation.traces.records import DepthTrace, RecordedProbe


def probe(position, answer, *, confidence=None, place="boundary", logprobs=(), is_hesitant=False):
    return RecordedProbe(
        position=position,
        answer=answer,
        num_tokens=10,
        place=place,
        confidence=confidence,
        logprobs=logprobs,
        is_hesitant=is_hesitant,
    )


def chain(*probes, answer="4", is_correct=True):
    return DepthTrace(
        id="q",
        run="run",
        group=None,
        reference="4",
        num_tokens=1000,
        is_finished=True,
        answer=answer,
        is_correct=is_correct,
        probes=probes,
    )


def replay(trace, name, **parameters):
    return replay_rule([trace], build_rule(name, parameters))[0]


def test_a_boundary_rule_stops_at_the_first_likely_answer_and_pays_for_every_question():
    trace = chain(
        probe(100, "3", confidence=0.5), probe(200, "4", confidence=0.99), probe(300, "4", confidence=1)
    )
    row = replay(trace, "boundary_confidence", threshold=0.95)
    assert (row.answer, row.is_correct, row.stopped_at) == ("4", True, 200)
    assert row.net_tokens == row.sequential_tokens == 220
    assert row.is_early


def test_a_wrong_answer_is_lost_and_an_empty_one_stops_nothing():
    lost = replay(chain(probe(100, "3", confidence=0.99)), "boundary_confidence", threshold=0.95)
    assert lost.is_lost
    for empty in ("", " ", None):
        row = replay(chain(probe(100, empty, confidence=0.999)), "boundary_confidence", threshold=0.95)
        assert not row.is_early
        assert row.net_tokens == 1010


def test_the_least_likely_token_counts_where_the_rule_says_so():
    trace = chain(probe(100, "4", confidence=0.98, logprobs=(-0.0001, -0.2)))
    assert replay(trace, "boundary_confidence", threshold=0.9).is_early
    assert not replay(trace, "boundary_confidence", threshold=0.9, statistic="minimum").is_early


def test_a_rule_waits_for_its_gap():
    trace = chain(probe(10, "4", confidence=1), probe(100, "4", confidence=1))
    assert replay(trace, "boundary_confidence", threshold=0.9, min_gap=64).stopped_at == 100


def test_a_counting_rule_reads_the_regular_probes_and_hesitation():
    regular = [probe(64 * i, "4", place="interval") for i in (1, 2, 3)]
    boundary = probe(65, "9", confidence=1)
    assert replay(chain(*regular, boundary), "answer_consistency", window=3).stopped_at == 192
    hesitant = probe(128, "4", place="interval", is_hesitant=True)
    row = replay(chain(regular[0], hesitant, regular[2]), "answer_consistency", window=3)
    assert not row.is_early


def test_the_full_budget_as_a_rule_stops_nothing_and_asks_nothing():
    row = replay(chain(probe(100, "4", confidence=1)), "thinking_budget")
    assert (row.net_tokens, row.is_early, row.is_correct) == (1000, False, True)


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.99])
def test_decisions_are_those_of_the_live_rule(threshold):
    """The same readings, given to the rule by hand."""
    confidences = [0.2, 0.7, 0.95, 0.97, 0.999]
    probes = [probe(100 * (i + 1), "4", confidence=value) for i, value in enumerate(confidences)]
    state = build_rule("boundary_confidence", {"threshold": threshold}).start()
    places = [
        item.position
        for item in probes
        if state.observe(
            Reading(
                progress=Progress(num_tokens=item.position, tail="\n\n"),
                answer="4",
                logprobs=(math.log(item.confidence),),
            )
        ).is_stop
    ]
    assert replay(chain(*probes), "boundary_confidence", threshold=threshold).stopped_at == places[0]
