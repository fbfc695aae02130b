"""What a stopping rule decides live, on the embedded reasoner, is what its replay decides on the recorded run."""

import pytest

from hf_dynasor.certaindex import answer_probability
from hf_dynasor.certaindex.readings import Need, Verdict, Vote
from hf_dynasor.evaluation.replay_depth import replay_depth
from hf_dynasor.evaluation.replay_rules import replay_rule
from hf_dynasor.evaluation.traces.records import DepthTrace, RecordedProbe
from hf_dynasor.scheduler.depth_evidence import EvidenceExit
from hf_dynasor.serving import load_model
from hf_dynasor.stopping import AccumulatedEvidence, BoundaryConfidence, EarlyExit
from tests.stopping.kit import encode

QUESTIONS = ("What is 47+58-3*6?", "What is 12*11+5?")
SETTINGS = (
    {"threshold": 4.0, "caution": 1.0, "far": 32, "near": 8},
    {"threshold": 9.0, "caution": 2.0, "far": 48, "near": 16, "support": 1.0},
    {"threshold": 6.0, "far": 24, "near": 24, "least": 4.0, "spacing": 0.2},
    {"threshold": 60.0, "far": 16, "near": 8, "hold": 48},
    {"threshold": 60.0, "far": 40, "near": 8, "give_up": 0.5, "cap": 120},
    {"threshold": 99.0, "far": 32, "near": 8},
)


class Everywhere:
    """Reads after every thinking token and never stops, so that any rule can be replayed."""

    needs = frozenset({Need.ANSWER, Need.LOGPROBS})
    reads_text = True

    def __init__(self):
        self.readings = []

    def start(self):
        return self

    def is_due(self, progress):
        return True

    def observe(self, reading):
        self.readings.append(reading)
        return Verdict(vote=Vote.CONTINUE)


@pytest.fixture(scope="module")
def model():
    loaded = load_model("embedded", dtype="float32", device="cpu")
    return loaded.model, loaded.tokenizer


def run_live(model, rule, question):
    language_model, tokenizer = model
    early_exit = EarlyExit(tokenizer, rule, exit="stop", probe_mode="decode")
    output = language_model.generate(
        **encode(tokenizer, [question]),
        custom_generate=early_exit,
        max_new_tokens=400,
        do_sample=False,
        return_dict_in_generate=True,
    )
    return output.reports[0]


@pytest.fixture(scope="module")
def recorded(model):
    """Each question's whole run, asked after every token."""
    return {question: record(model, question) for question in QUESTIONS}


def record(model, question):
    rule = Everywhere()
    report = run_live(model, rule, question)
    probes = [
        RecordedProbe(
            position=reading.progress.num_tokens,
            answer=reading.answer,
            num_tokens=entry.num_probe_tokens,
            place="boundary" if reading.progress.tail.endswith("\n\n") else "interval",
            logprobs=reading.logprobs,
            confidence=answer_probability(reading.logprobs),
        )
        for reading, entry in zip(rule.readings, report.trace, strict=True)
    ]
    return DepthTrace(
        id=question,
        run="embedded",
        group=None,
        reference=report.answer,
        num_tokens=report.num_thinking_tokens + 1,
        is_finished=True,
        answer=report.answer,
        is_correct=True,
        probes=tuple(probes),
    )


def show_live(report):
    last = report.trace[-1] if report.is_early else None
    return (
        report.is_early,
        last and last.num_tokens,
        last and last.verdict.reason,
        sum(entry.num_probe_tokens for entry in report.trace),
    )


def show_replay(row):
    position = row.stopped_at
    return (
        row.is_early,
        position if row.is_early else None,
        row.explanation if row.is_early else None,
        row.net_tokens - position,
    )


@pytest.mark.parametrize(
    "settings",
    [SETTINGS[0], SETTINGS[4], *(pytest.param(item, marks=pytest.mark.slow) for item in SETTINGS[1:4])],
    ids=str,
)
def test_replayed_evidence_decides_as_it_does_live(model, recorded, settings):
    for question, trace in recorded.items():
        report = run_live(model, AccumulatedEvidence(**settings), question)
        (row,) = replay_depth([trace], EvidenceExit(**settings))
        assert show_replay(row) == show_live(report)
        if row.is_early:
            assert row.answer == report.answer


def test_the_settings_of_this_test_stop_and_go_on(recorded):
    rows = [replay_depth(recorded.values(), EvidenceExit(**settings)) for settings in SETTINGS]
    assert {row.is_early for part in rows for row in part} == {True, False}
    assert len({row.stopped_at for part in rows for row in part}) > 3


@pytest.mark.parametrize("threshold", [0.9, 0.999])
def test_a_replayed_boundary_rule_decides_as_it_does_live(model, recorded, threshold):
    rule = BoundaryConfidence(threshold=threshold, min_gap=16)
    for question, trace in recorded.items():
        (row,) = replay_rule([trace], rule)
        assert show_replay(row) == show_live(run_live(model, rule, question))
