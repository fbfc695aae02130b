"""The pure rules: windows, hesitation, budgets, combinations."""

import dataclasses
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_dynasor.errors import ConfigurationError
from hf_dynasor.stopping import (
    EFFORTS,
    AllOf,
    AnswerConsistency,
    AnyOf,
    BoundaryConfidence,
    EntropyAfterThinking,
    Progress,
    Reading,
    ThinkingBudget,
    Verdict,
    Vote,
)
from hf_dynasor.stopping.consistency import hesitates

ANSWERS = st.sampled_from([None, "12", "12.0", "13", "No", "no solution"])


def read(answer, num_tokens=64, text=None, **options):
    text = f"{answer}}}" if text is None and answer is not None else text or ""
    place = Progress(num_tokens=num_tokens)
    return Reading(progress=place, answer=answer, text=text, is_closed="}" in text, **options)


def feed(rule, answers):
    state = rule.start()
    return [state.observe(read(answer, 64 * (i + 1))) for i, answer in enumerate(answers)]


def test_a_full_window_of_equal_answers_stops():
    votes = [verdict.is_stop for verdict in feed(AnswerConsistency(window=3), ["7", "12", "12.0", "12"])]
    assert votes == [False, False, False, True]


def test_different_or_empty_answers_never_stop():
    """Peers' bug 1: `should_early_exit` ended in `return True`, so different or empty answers exited."""
    for answers in (["1", "2", "3", "4"], [None] * 6, ["", "?", "...", ""], ["12", None, "12", None]):
        assert not any(verdict.is_stop for verdict in feed(AnswerConsistency(window=2), answers))


@pytest.mark.parametrize("text", ["I know the north polynomial", "another notion, bute", "holder waiting"])
def test_hesitation_is_a_whole_word(text):
    """Peers' bug 2: by substring, "no" fired on "know", "north" and "polynomial"."""
    assert not hesitates(read("12", text="12} " + text))


@pytest.mark.parametrize("text", ["12} Wait, I should check", "12} hmm.", "12} No!", "12} OKAY"])
def test_a_hesitation_word_after_the_answer_voids_it(text):
    assert hesitates(read("12", text=text))


def test_an_answer_no_can_exit():
    """Peers' bug 2: an answer "No" counted as hesitation and could never exit."""
    assert feed(AnswerConsistency(window=2), ["No", "no"])[-1].is_stop
    assert feed(AnswerConsistency(window=2), ["no solution", "no solution"])[-1].is_stop


def test_a_hesitating_reading_keeps_the_row_going_for_a_whole_window():
    state = AnswerConsistency(window=2).start()
    texts = ["12}", "12} wait", "12}", "12}"]
    votes = [state.observe(read("12", 64 * i, text=text)).is_stop for i, text in enumerate(texts, 1)]
    assert votes == [False, False, False, True]


def test_answers_are_equal_by_what_they_say_not_by_tolerance():
    """Peers' bug 3: a grader grouped answers, so 0.5 equalled 50 and 12345 equalled 12346."""
    for pair in (["0.5", "50"], ["12345", "12346"], ["1", "100"], ["(1,2)", "[1,2]"]):
        assert not feed(AnswerConsistency(window=2), pair)[-1].is_stop
    assert feed(AnswerConsistency(window=2), ["1/2", "0.5"])[-1].is_stop


@given(st.lists(ANSWERS, max_size=12), st.integers(1, 5), st.sampled_from([0.0, 0.4, 0.5, 1.0]))
def test_consistency_is_the_share_of_the_window_that_equals_the_newest(answers, window, threshold):
    verdicts = feed(AnswerConsistency(window=window, threshold=threshold), answers)
    alike = {"12.0": "12"}
    for index, verdict in enumerate(verdicts):
        last = [alike.get(answer, answer) for answer in answers[max(0, index + 1 - window) : index + 1]]
        share = last.count(last[-1]) / window if last[-1] is not None else 0.0
        assert verdict.certainty == share
        is_settled = len(last) == window and last[-1] is not None
        assert verdict.is_stop == (is_settled and share >= threshold)


@given(st.lists(ANSWERS, max_size=10))
def test_rows_do_not_share_a_state(answers):
    rule = AnswerConsistency(window=2)
    other = rule.start()
    for index in range(3):
        other.observe(read("99", 64 * index))
    assert feed(rule, answers) == feed(rule, answers)


def test_the_interval_counts_from_the_last_reading():
    state = AnswerConsistency(interval=32).start()
    assert next(n for n in range(1, 100) if state.is_due(Progress(num_tokens=n))) == 32
    state.observe(read("12", 40))
    assert not state.is_due(Progress(num_tokens=71))
    assert state.is_due(Progress(num_tokens=72))


def test_a_warm_up_delays_the_first_reading():
    for rule in (AnswerConsistency(warmup=200), EntropyAfterThinking(warmup=200)):
        assert not rule.start().is_due(Progress(num_tokens=199))
        assert rule.start().is_due(Progress(num_tokens=200))


def test_the_five_effort_levels_are_the_papers():
    table = {name: (rule.window, rule.interval) for name, rule in EFFORTS.items()}
    assert table == {"mild": (8, 64), "low": (5, 64), "mid": (3, 64), "high": (2, 64), "crazy": (2, 32)}
    assert AnswerConsistency.from_effort("mid") is EFFORTS["mid"]


def test_boundary_confidence_waits_for_the_end_of_a_step():
    state = BoundaryConfidence(min_gap=4).start()
    assert not state.is_due(Progress(num_tokens=3, tail="5.\n\n"))
    assert not state.is_due(Progress(num_tokens=9, tail="5."))
    assert state.is_due(Progress(num_tokens=9, tail="5.\n\n"))


def test_boundary_confidence_must_be_exceeded_not_reached():
    half = (math.log(0.5),)
    assert not BoundaryConfidence(threshold=0.5).start().observe(read("1", logprobs=half)).is_stop
    assert BoundaryConfidence(threshold=0.49).start().observe(read("1", logprobs=half)).is_stop


@given(st.lists(st.floats(-20, 0), min_size=1, max_size=8))
def test_the_minimum_is_never_surer_than_the_geometric_mean(logprobs):
    readings = [
        BoundaryConfidence(statistic=statistic).start().observe(read("1", logprobs=tuple(logprobs))).certainty
        for statistic in ("minimum", "geometric_mean")
    ]
    assert 0 <= readings[0] <= readings[1] + 1e-9 <= 1 + 1e-9


def test_a_confident_probe_without_an_answer_does_not_stop():
    assert not BoundaryConfidence().start().observe(read(None, logprobs=(0.0,))).is_stop


def test_entropy_needs_a_window_of_sure_readings():
    state = EntropyAfterThinking(window=2, threshold=0.9).start()
    votes = [state.observe(read(None, entropy=entropy)).is_stop for entropy in (0.0, 1.0, 0.01, 0.02)]
    assert votes == [False, False, False, True]


def test_a_budget_forbids_forces_and_abstains():
    state = ThinkingBudget(minimum=10, maximum=20).start()
    votes = [state.observe(read(None, n)).vote for n in (9, 10, 19, 20, 21)]
    assert votes == [Vote.FORBID, Vote.ABSTAIN, Vote.ABSTAIN, Vote.FORCE, Vote.FORCE]
    assert [state.is_due(Progress(num_tokens=n)) for n in (9, 19, 20)] == [False, False, True]


def test_a_budget_beats_the_other_rules():
    rule = AnyOf((AnswerConsistency(window=1, interval=1), ThinkingBudget(minimum=100, maximum=200)))
    state = rule.start()
    assert state.observe(read("12", 99)).vote is Vote.FORBID
    assert state.observe(read("12", 100)).vote is Vote.STOP
    assert state.observe(read(None, 200)).vote is Vote.FORCE


def test_all_waits_for_every_rule_and_any_for_one():
    rules = (AnswerConsistency(window=1), BoundaryConfidence(threshold=0.9))
    sure = Reading(
        progress=Progress(num_tokens=64, tail="\n\n"), answer="1", text="1}", is_closed=True, logprobs=(0.0,)
    )
    unsure = dataclasses.replace(sure, logprobs=(-3.0,))
    assert AllOf(rules).start().observe(sure).is_stop
    assert not AllOf(rules).start().observe(unsure).is_stop
    assert AnyOf(rules).start().observe(unsure).is_stop


RULES = st.permutations(
    [
        AnswerConsistency(window=2, interval=16),
        BoundaryConfidence(threshold=0.5),
        EntropyAfterThinking(window=1),
        ThinkingBudget(minimum=40, maximum=300),
    ]
)


@given(RULES, st.lists(st.tuples(ANSWERS, st.floats(-3, 0), st.floats(0, 3)), max_size=8))
def test_the_order_of_combined_rules_is_irrelevant(rules, steps):
    readings = [
        Reading(
            progress=Progress(num_tokens=30 * (i + 1), tail="\n\n" if i % 2 else ""),
            answer=answer,
            text=f"{answer}}}",
            is_closed=True,
            logprobs=(logprob,),
            entropy=entropy,
        )
        for i, (answer, logprob, entropy) in enumerate(steps)
    ]
    for kind in (AllOf, AnyOf):
        mixed, ordered = kind(tuple(rules)).start(), kind(tuple(sorted(rules, key=repr))).start()
        for reading in readings:
            assert mixed.is_due(reading.progress) == ordered.is_due(reading.progress)
            verdict = mixed.observe(reading)
            assert verdict == ordered.observe(reading)
            assert verdict.certainty is None or 0 <= verdict.certainty <= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AnswerConsistency(window=0), "window = 0 .* at least 1"),
        (lambda: AnswerConsistency(interval=0), "interval = 0 .* at least 1"),
        (lambda: AnswerConsistency(interval=2.5), "interval = 2.5 .* integer"),
        (lambda: AnswerConsistency(threshold=1.5), r"threshold = 1.5 .*\[0, 1\]"),
        (lambda: AnswerConsistency(threshold=float("nan")), r"\[0, 1\]"),
        (lambda: AnswerConsistency(format="poem"), "Unknown answer format 'poem'"),
        (lambda: AnswerConsistency.from_effort("wild"), "Unknown effort 'wild'. Known: crazy, high"),
        (lambda: BoundaryConfidence(threshold=-0.1), r"\[0, 1\]"),
        (lambda: BoundaryConfidence(statistic="mode"), "Known: geometric_mean, minimum"),
        (lambda: BoundaryConfidence(delimiter=""), "delimiter = '' .* ends a step"),
        (lambda: EntropyAfterThinking(window=0), "at least 1"),
        (lambda: ThinkingBudget(minimum=-1), "at least 0"),
        (lambda: ThinkingBudget(minimum=10, maximum=9), "maximum = 9 .* at least 10"),
        (lambda: AnyOf(()), "at least one"),
        (lambda: Verdict(vote=Vote.STOP, certainty=1.1), r"\[0, 1\]"),
        (lambda: Progress(num_tokens=-1), "0 or more"),
    ],
)
def test_bad_options_raise_with_value_range_and_fix(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_rules_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        AnswerConsistency().window = 5


def test_the_rules_import_with_torch_blocked():
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'numpy'): sys.modules[name] = None\n"
        "from hf_dynasor.stopping import AnswerConsistency, find_think_markers\n"
        "AnswerConsistency().start()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
