"""Chains of thought over any engine: the chain is that of one plain generation, and what is read decides when it ends."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.certaindex import Thresholds
from hf_dynasor.certaindex.readings import Need
from hf_dynasor.core import FinishReason, Prompt, SamplingParams, TokenIds
from hf_dynasor.drivers import run
from hf_dynasor.errors import ConfigurationError, ProgramError
from hf_dynasor.grants import Decision, StopReason
from hf_dynasor.programs import ChainOfThought, ChainSettings
from hf_dynasor.programs.chain_settings import ReadOnly
from hf_dynasor.scheduler import Even, StaticThreshold
from hf_dynasor.stopping import (
    AnswerConsistency,
    AnyOf,
    BoundaryConfidence,
    EntropyAfterThinking,
    ThinkingBudget,
)
from hf_dynasor.testing import Reply, ScriptedEngine
from tests.programs.char_model import CharEngine

GREEDY = SamplingParams(temperature=0)
WITH_LOGPROBS = SamplingParams(temperature=0, logprobs=True)


class Steps:
    """Grants a fixed number of tokens at a time."""

    def __init__(self, *units):
        self.units, self.name = units, "steps"

    def allocate(self, knob, trace):
        left = knob.maximum - (trace[-1].total if trace else 0)
        if not left:
            return Decision(units=0, stop_reason=StopReason.BUDGET, explanation="spent")
        return Decision(units=min(left, self.units[len(trace) % len(self.units)]))


def solve(engine, *, budget=200, policy=None, sampling=GREEDY, question="q", **options):
    program = ChainOfThought(
        Prompt.plain(question), budget=budget, sampling=sampling, settings=ChainSettings(**options)
    )
    answer = run(program, engine, policy or Even())
    return program, answer


def list_ids(program):
    return tuple(
        token_id
        for segment in program._chain.prompt.segments[1:]
        for token_id in (segment.ids if isinstance(segment, TokenIds) else map(ord, segment))
    )


@settings(max_examples=40, deadline=None)
@given(
    question=st.text("abc", min_size=1, max_size=4),
    interval=st.integers(1, 40),
    budget=st.integers(1, 120),
    grants=st.lists(st.integers(1, 50), min_size=1, max_size=3),
    eos_every=st.sampled_from([0, 40]),
    close_every=st.sampled_from([0, 30]),
)
def test_a_probed_chain_that_never_stops_is_one_plain_generation(
    question, interval, budget, grants, eos_every, close_every
):
    engine = CharEngine(eos_every=eos_every, close_every=close_every)
    program, answer = solve(
        engine, question=question, budget=budget, policy=Steps(*grants), interval=interval, mode="probed"
    )
    assert list_ids(program) == engine.generate(Prompt.plain(question), budget)
    assert answer.usage.sampled == answer.units_spent == len(list_ids(program)) <= budget
    assert answer.usage.forced == 0


@settings(max_examples=40, deadline=None)
@given(
    question=st.text("abc", min_size=1, max_size=4),
    interval=st.integers(1, 40),
    budget=st.integers(1, 300),
    resume=st.sampled_from(["", "\n\nWait, ab."]),
    exit=st.sampled_from(["probe", "answer"]),
    mode=st.sampled_from(["guided", "cut", "probed"]),
)
def test_no_chain_exceeds_its_budget_and_every_request_ends_once(
    question, interval, budget, resume, exit, mode
):
    engine = CharEngine(eos_every=200)
    rule = (
        None
        if mode == "guided"
        else AnswerConsistency(window=2, interval=interval if mode == "probed" else 1)
    )
    _program, answer = solve(
        engine,
        question=question,
        budget=budget,
        interval=interval,
        resume=resume,
        exit=exit,
        mode=mode,
        rule=rule,
    )
    assert set(engine.ended.values()) == {1}
    assert answer.usage.sampled + answer.usage.forced <= budget
    assert answer.units_spent <= budget
    if answer.stop_reason is StopReason.BUDGET:
        assert answer.usage.sampled + answer.usage.forced == budget
    assert len({path.request_id for path in answer.paths}) == len(answer.paths)


def test_probe_tokens_hold_the_suffix_and_are_not_of_the_chain():
    engine = CharEngine(answers=lambda context: "7")
    program, answer = solve(engine, budget=64, interval=32, suffix="short")
    suffix = len("\n\nSo the answer is \\boxed{")
    assert answer.usage.probe == 2 * (suffix + len("7}"))
    assert answer.usage.sampled == 64
    assert [entry.num_probe_tokens for entry in program.trace_entries] == [suffix + 2] * 2
    assert all(request.is_probe == ("probe" in request.key.request_id) for request in engine.requests)


def test_a_chunk_continues_the_ids_of_those_before_it():
    engine = CharEngine()
    solve(engine, budget=48, interval=16)
    prompts = [request.prompt.segments for request in engine.requests if not request.is_probe]
    assert [len(segments) for segments in prompts] == [1, 2, 2]
    assert all(isinstance(segments[1], TokenIds) for segments in prompts[1:])


def test_a_chain_stops_once_its_last_answers_agree():
    engine = CharEngine(answers=lambda context: "12" if len(context) > 75 else str(len(context) % 7))
    program, answer = solve(engine, rule=AnswerConsistency(window=3, interval=16))
    assert (answer.text, answer.stop_reason) == ("12", StopReason.CERTAIN)
    assert program.certaindex.agreement == 1.0
    assert answer.units_spent == 96
    assert "3 of the last 3 answers are '12' at 96 thinking tokens" in answer.explanation


def test_an_answer_with_braces_of_its_own_is_read_whole():
    engine = CharEngine(answers=lambda context: "\\frac{1}{2}")
    program, answer = solve(engine, rule=AnswerConsistency(window=2, interval=16))
    assert answer.text == "\\frac{1}{2}"
    assert program.readings[0].is_closed
    assert sum(request.is_probe for request in engine.requests) == 2 * 3  # one request for each brace


def test_steps_end_at_the_delimiter_and_confidence_stops_there():
    engine = CharEngine()
    rule = BoundaryConfidence(threshold=0.5, delimiter=".", min_gap=5)
    program, answer = solve(engine, rule=rule, delimiter=".")
    assert answer.stop_reason is StopReason.CERTAIN
    assert program.text.endswith(".")
    assert program.trace_entries[0].verdict.certainty == pytest.approx(0.9048, abs=1e-3)


def test_log_probabilities_are_asked_for_where_the_rule_or_the_caller_needs_them():
    engine = CharEngine()
    solve(engine, rule=BoundaryConfidence(threshold=0.99, delimiter=".", min_gap=5), delimiter=".")
    assert {request.sampling.logprobs for request in engine.requests if request.is_probe} == {True}
    engine = CharEngine()
    _, answer = solve(engine, interval=16)
    assert {request.sampling.logprobs for request in engine.requests} == {False}
    assert answer.certaindex.answer_probability is None
    _program, answer = solve(CharEngine(), interval=16, sampling=WITH_LOGPROBS)
    assert answer.certaindex.answer_probability == pytest.approx(0.9048, abs=1e-3)


def test_nothing_is_read_after_the_thought_is_closed_and_the_answer_counts():
    texts = {0: "so 1.\n</think>It is \\boxed{4}.", 1: "x"}
    engine = ScriptedEngine(lambda request: Reply(text=texts[0], num_tokens=16))
    program, answer = solve(engine, interval=16, budget=16)
    assert answer.text == "4"
    assert not program.readings


def test_a_policy_stops_a_chain_by_its_certaindex():
    engine = CharEngine(answers=lambda context: "5")
    policy = StaticThreshold(thresholds=Thresholds(agreement=0.9), detect_at=96)
    _program, answer = solve(engine, interval=16, policy=policy)
    assert (answer.text, answer.stop_reason, answer.units_spent) == ("5", StopReason.CERTAIN, 96)


@settings(max_examples=25, deadline=None)
@given(interval=st.integers(1, 40), min_thinking=st.integers(0, 120), mode=st.sampled_from(["guided", "cut"]))
def test_no_answer_is_forced_before_the_least_thinking(interval, min_thinking, mode):
    program, _ = solve(
        CharEngine(), mode=mode, interval=interval, min_thinking=min_thinking, resume=" Wait.", budget=300
    )
    starts = [entry.num_tokens for entry in program.trace_entries]
    plain, _ = solve(CharEngine(), mode="plain", budget=300)
    first = max(interval, min_thinking)
    assert starts, "300 tokens leave room for one answer"
    assert program.text[:first] == plain.text[:first]
    assert program.text[first:].startswith(program.settings.guided_prompt)


@settings(max_examples=25, deadline=None)
@given(interval=st.integers(1, 40), min_thinking=st.integers(0, 80), mode=st.sampled_from(["guided", "cut"]))
def test_a_guided_chain_can_be_asked_at_the_end_of_steps_only(interval, min_thinking, mode):
    options = {"min_thinking": min_thinking, "resume": " Wait.", "budget": 400, "delimiter": "."}
    program, answer = solve(CharEngine(), mode=mode, interval=interval, at_steps=True, **options)
    head = program.text.split(program.settings.guided_prompt)[0]
    assert program.readings, "400 tokens leave room for one answer"
    assert head.endswith(".")
    assert len(head) >= max(interval, min_thinking)
    assert answer.units_spent <= 400
    plain, _ = solve(CharEngine(), mode="plain", budget=400)
    assert plain.text.startswith(head), "what comes before the first answer is the chain's own"
    first = plain.text.index(".", max(interval, min_thinking, 1) - 1) + 1
    assert len(head) == first, "the first step that ends late enough"


def test_a_cut_chain_may_stop_by_a_rule_that_reads_at_the_end_of_steps():
    rule = BoundaryConfidence(threshold=0.5, delimiter=".", min_gap=5)
    engine = CharEngine()
    program, answer = solve(engine, mode="cut", rule=rule, at_steps=True, interval=1, delimiter=".")
    assert answer.stop_reason is StopReason.CERTAIN
    assert program.trace_entries[0].verdict.certainty == pytest.approx(0.9048, abs=1e-3)
    assert {request.sampling.logprobs for request in engine.requests} == {True, False}, "of answers only"
    never = BoundaryConfidence(threshold=0.95, delimiter=".", min_gap=40)
    program, _ = solve(CharEngine(), mode="cut", rule=never, at_steps=True, interval=1, delimiter=".")
    places = [entry.num_tokens for entry in program.trace_entries]
    assert all(late - early >= 40 for early, late in pairwise(places)), "the rule says where"
    with pytest.raises(ConfigurationError, match="at_steps=True"):
        ChainSettings(mode="cut", rule=rule, delimiter=".")
    with pytest.raises(ConfigurationError, match="delimiter"):
        ChainSettings(mode="cut", rule=rule, at_steps=True, delimiter="!")


@pytest.mark.parametrize("reads_text", [True, False])
def test_a_rule_that_stays_due_is_asked_once_at_each_place(reads_text):
    """A rule that is due wherever a step has ended once had one place read for ever."""

    class AlwaysDue(ReadOnly):
        needs = frozenset({Need.ANSWER, Need.LOGPROBS})
        reads_text = property(lambda self: reads_text)

        def start(self):
            state = super().start()
            state.is_due = lambda progress: not reads_text or progress.tail.endswith(".")
            return state

    program, answer = solve(CharEngine(), rule=AlwaysDue(), delimiter=".", budget=60)
    places = [entry.num_tokens for entry in program.trace_entries]
    assert places == sorted(set(places))
    assert places
    assert answer.units_spent == 60


def test_a_guided_chain_writes_its_answers_into_itself():
    engine = CharEngine(answers=lambda context: "9")
    program, answer = solve(engine, mode="guided", interval=32, budget=150)
    forced = "\n\n**Final Answer**\n\n\\boxed{"
    assert program.text.count(f"{forced}9}}") == len(program.readings) == 2
    assert answer.usage.forced == 2 * len(forced)
    assert answer.usage.probe == 0
    assert answer.text == "9"


def test_a_cut_chain_stops_on_the_answers_that_it_wrote():
    program, answer = solve(
        CharEngine(answers=lambda context: "9"),
        mode="cut",
        interval=8,
        budget=400,
        rule=AnswerConsistency(window=3, interval=1),
    )
    assert (answer.text, answer.stop_reason, len(program.readings)) == ("9", StopReason.CERTAIN, 3)


def test_after_a_stop_the_model_may_write_its_answer_itself():
    engine = CharEngine(answers=lambda context: "9", eos_every=60)
    program, answer = solve(
        engine, question="bb", rule=AnswerConsistency(window=2, interval=8), exit="answer", budget=400
    )
    assert answer.stop_reason is StopReason.CERTAIN
    closing = program.text.index("</think>")
    assert answer.usage.forced == len("\n</think>\n\n")
    assert program.pieces[-1].start >= closing - len("\n")


def test_a_dead_probe_is_no_answer_and_the_chain_goes_on():
    def script(request):
        if request.is_probe:
            return Reply(finish_reason=FinishReason.FAILED, error="lost")
        return Reply(text="a " * 8, num_tokens=16, finish_reason=FinishReason.LENGTH)

    program, answer = solve(ScriptedEngine(script), interval=16, budget=48)
    assert answer.num_failed == 3
    assert [reading.answer for reading in program.readings] == [None] * 3
    assert answer.certaindex.agreement is None


def test_a_chain_that_dies_keeps_its_last_answer_and_one_that_never_lived_raises():
    replies = iter(
        [Reply(text="a", num_tokens=16, finish_reason=FinishReason.LENGTH), Reply(text="3}", num_tokens=2)]
    )
    failed = Reply(finish_reason=FinishReason.FAILED, error="out of memory")
    _program, answer = solve(ScriptedEngine(lambda request: next(replies, failed)), interval=16, budget=48)
    assert (answer.text, answer.stop_reason, answer.num_failed) == ("3", StopReason.FINISHED, 1)
    with pytest.raises(ProgramError, match="out of memory"):
        solve(ScriptedEngine(lambda request: failed))


def test_an_engine_that_returns_no_ids_is_continued_by_its_text():
    class NoIds(CharEngine):
        def complete(self, request):
            from dataclasses import replace

            return replace(super().complete(request), token_ids=(), logprobs=None, offsets=None)

    with_ids, _ = solve(CharEngine(), interval=16, budget=64)
    without, answer = solve(NoIds(), interval=16, budget=64)
    assert without.text == with_ids.text
    assert answer.usage.sampled == 64


def test_every_chunk_of_a_sampled_chain_has_a_seed_of_its_own():
    engine = CharEngine()
    solve(engine, interval=16, budget=64, sampling=SamplingParams(seed=3))
    seeds = [request.sampling.seed for request in engine.requests if not request.is_probe]
    assert len(set(seeds)) == len(seeds) == 4
    assert None not in seeds


def test_a_snapshot_in_the_middle_of_a_chain_goes_on_to_the_same_answer():
    def build():
        return ChainOfThought(
            Prompt.plain("q"),
            budget=96,
            sampling=GREEDY,
            settings=ChainSettings(interval=16, mode="guided", resume=" Wait."),
        )

    whole = run(build(), CharEngine(), Even())
    program, engine = build(), CharEngine()
    flow = program.flow(Even())
    commands = next(flow)
    for _ in range(3):
        commands = flow.send(engine.complete(commands[0]))
    resumed = run(build().resume(program.snapshot()), CharEngine(), Even())
    assert (resumed.text, resumed.usage, resumed.paths) == (whole.text, whole.usage, whole.paths)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "quick"}, "Unknown chain mode"),
        ({"exit": "leave"}, "Unknown exit"),
        ({"interval": 0}, "interval"),
        ({"window": 1}, "window"),
        ({"mode": "plain", "rule": AnswerConsistency()}, "never stops by one"),
        ({"mode": "guided", "rule": AnswerConsistency()}, "never stops by one"),
        ({"mode": "cut", "rule": BoundaryConfidence()}, "end of a step"),
        ({"rule": EntropyAfterThinking()}, "entropies"),
        ({"rule": BoundaryConfidence(), "delimiter": ";"}, "never reads"),
        ({"suffix": "answer please"}, "opens a box"),
        ({"guided_prompt": "answer:"}, "opens a box"),
        ({"think_end": ""}, "empty think_end"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        ChainSettings(**options)


def test_stop_strings_are_refused():
    with pytest.raises(ConfigurationError, match="ends by itself"):
        ChainOfThought(Prompt.plain("q"), sampling=SamplingParams(stop=("x",)))


def test_a_budget_of_thought_forces_the_end_and_a_combination_is_read_at_both_places():
    rule = AnyOf((AnswerConsistency(window=5, interval=16), ThinkingBudget(maximum=40)))
    program, answer = solve(CharEngine(), rule=rule)
    assert answer.stop_reason is StopReason.CERTAIN
    assert [entry.num_tokens for entry in program.trace_entries][-1] == 40


def test_a_cap_of_tokens_is_no_estimate_of_what_a_chain_would_have_spent():
    """A stop after 96 of 4,096 tokens once counted as 98% saved."""
    rule = AnswerConsistency(window=3, interval=16)
    _, answer = solve(CharEngine(answers=lambda context: "5"), rule=rule, budget=4096)
    assert answer.is_early
    assert answer.full_budget_tokens == answer.usage.net_tokens


def test_a_chain_that_ends_by_itself_was_not_stopped_early():
    _, answer = solve(CharEngine(eos_every=10), mode="plain", budget=4096)
    assert answer.stop_reason is StopReason.FINISHED
    assert not answer.is_early
