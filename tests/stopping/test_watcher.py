"""Stopping on a stream: probed beside it, cancelled, continued from its exit, one completion."""

import pytest

from hf_dynasor.core import (
    Cancel,
    Completion,
    FinishReason,
    Generate,
    RequestKey,
    SamplingParams,
    TokenDelta,
    Usage,
)
from hf_dynasor.errors import ConfigurationError, EngineTimeoutError
from hf_dynasor.serving import ContinuousBatchingEngine, GenerateEngine
from hf_dynasor.stopping import (
    AnswerConsistency,
    EntropyAfterThinking,
    StreamWatch,
    ThinkingBudget,
    WatchSettings,
    run_watches,
)
from hf_dynasor.testing import Reply, ScriptedEngine
from tests.stopping.kit import QUESTIONS, encode

KEY = RequestKey(program_id="p", request_id="r")
RULE = AnswerConsistency(window=2, interval=4)


class Stage:
    """Plays the engine for one watch, token by token."""

    def __init__(self, tokenizer, rule=RULE, *, max_new_tokens=100, thinking=True, **options):
        self.tokenizer, self.sent = tokenizer, []
        self.settings = WatchSettings(
            tokenizer=tokenizer, rule=rule, eos_token_ids=frozenset({tokenizer.eos_token_id}), **options
        )
        prompt = encode(tokenizer, ["What is 2+3?"], thinking=thinking)["input_ids"][0].tolist()
        self.watch = StreamWatch(self.settings, KEY, prompt, SamplingParams(max_new_tokens=max_new_tokens))
        self.said = []
        self.take(self.watch.start())

    def take(self, commands):
        self.sent += commands
        return commands

    def ids(self, text):
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def stream(self, text, request="r"):
        for token_id in self.ids(text):
            key = RequestKey(program_id="p", request_id=request)
            if request == "r":
                self.said.append(token_id)
            self.take(self.watch.receive(TokenDelta(key=key, text="", token_ids=(token_id,))))

    def end(self, request, ids, reason, text=None):
        is_probe = "probe" in request
        usage = Usage(probe=len(ids)) if is_probe else Usage(sampled=len(ids))
        completion = Completion(
            key=RequestKey(program_id="p", request_id=request),
            text=self.tokenizer.decode(ids, skip_special_tokens=True) if text is None else text,
            token_ids=tuple(ids),
            finish_reason=reason,
            usage=usage,
        )
        return self.take(self.watch.receive(completion))

    def probe(self, number, answer):
        ids = self.ids(f"{answer}}}")
        self.stream(f"{answer}}}", f"r/probe-{number}")
        return self.end(f"r/probe-{number}", ids, FinishReason.CANCELLED)


def test_a_certain_stream_is_cancelled_and_continued_from_its_exit(tokenizer):
    stage = Stage(tokenizer)
    stage.stream("1111")
    stage.probe(0, "5")
    stage.stream("1111")
    assert stage.probe(1, "5.0") == (Cancel(keys=(KEY,)),)
    stage.stream("11")
    (follow_up,) = stage.end("r", stage.said, FinishReason.CANCELLED)
    assert follow_up.prompt.segments[0].ids[-13:] == (*stage.said, *stage.ids("\n</think>\n\n"))
    assert follow_up.sampling.max_new_tokens == 100 - 13
    stage.end("r/exit", [*stage.ids("It is 5."), tokenizer.eos_token_id], FinishReason.EOS)
    completion = stage.watch.completion
    assert completion.key == KEY
    assert completion.text == "1" * 10 + "\n</think>\n\nIt is 5."
    assert completion.finish_reason is FinishReason.EOS
    assert (completion.usage.forced, completion.usage.probe) == (3, len(stage.ids("5}5.0}")))
    assert completion.usage.sampled + completion.usage.forced == len(completion.token_ids)
    assert [entry.verdict.is_stop for entry in stage.watch.trace] == [False, True]


def test_a_probe_asks_the_same_conversation_and_is_cancelled_at_its_answer(tokenizer):
    """Peers' bug 8: a probe saw another prompt than the main stream: a fixed template, the last message only."""
    stage = Stage(tokenizer)
    stage.stream("1111")
    main, probe = stage.sent
    assert probe.is_probe
    main_ids, probe_ids = main.prompt.segments[0].ids, probe.prompt.segments[0].ids
    assert probe_ids[: len(main_ids) + 4] == (*main_ids, *stage.said)
    stage.stream("5}", "r/probe-0")
    assert stage.sent[-1] == Cancel(keys=(probe.key,))


def test_one_probe_at_a_time(tokenizer):
    stage = Stage(tokenizer)
    stage.stream("1" * 20)
    assert sum(isinstance(command, Generate) and command.is_probe for command in stage.sent) == 1


@pytest.mark.parametrize("reason", [FinishReason.EOS, FinishReason.LENGTH, FinishReason.STOP])
def test_a_stream_that_ends_by_itself_keeps_its_end(tokenizer, reason):
    """Peers' bug 4: the main stream's own end was ignored."""
    stage = Stage(tokenizer)
    stage.stream("1" * 6)
    (last,) = stage.end("r", stage.said, reason)
    assert last == Cancel(keys=(RequestKey(program_id="p", request_id="r/probe-0"),))
    assert stage.watch.completion.finish_reason is reason
    assert stage.probe(0, "5") == ()


def test_an_end_that_comes_before_the_cancellation_counts(tokenizer):
    stage = Stage(tokenizer, AnswerConsistency(window=1, interval=4))
    stage.stream("1111")
    stage.probe(0, "5")
    assert stage.end("r", stage.said, FinishReason.EOS) == ()
    assert stage.watch.completion.finish_reason is FinishReason.EOS


def test_thinking_that_was_closed_before_the_cancellation_is_not_closed_twice(tokenizer):
    stage = Stage(tokenizer, AnswerConsistency(window=1, interval=4))
    stage.stream("1111")
    stage.probe(0, "5")
    ids = [*stage.said, *stage.ids("</think>\n\n")]
    (follow_up,) = stage.end("r", ids, FinishReason.CANCELLED)
    assert follow_up.prompt.segments[0].ids[-len(ids) :] == tuple(ids)


@pytest.mark.parametrize("limit", range(4, 10))
def test_max_new_tokens_is_exact(tokenizer, limit):
    """Peers' bug 5: whole chunks were appended, 100 tokens became 128."""
    stage = Stage(tokenizer, AnswerConsistency(window=1, interval=4), max_new_tokens=limit)
    stage.stream("1111")
    stage.probe(0, "5")
    commands = stage.end("r", stage.said, FinishReason.CANCELLED)
    if limit <= 7:
        assert commands == ()
        assert stage.watch.completion.finish_reason is FinishReason.LENGTH
        assert len(stage.watch.completion.token_ids) == limit
    else:
        assert commands[0].sampling.max_new_tokens == limit - 7


def test_different_answers_and_failed_probes_never_cancel(tokenizer):
    """Peers' bug 1: `should_early_exit` ended in `return True`."""
    stage = Stage(tokenizer)
    for number in range(4):
        stage.stream("1111")
        assert stage.probe(number, number) == ()
    stage.stream("1111")
    assert stage.end("r/probe-4", [], FinishReason.EOS) == ()
    assert stage.watch.verdict is None


def test_thinking_that_is_switched_off_is_only_passed_through(tokenizer):
    stage = Stage(tokenizer, thinking=False)
    stage.stream("1" * 20)
    assert len(stage.sent) == 1


def test_a_budget_needs_no_probe(tokenizer):
    stage = Stage(tokenizer, ThinkingBudget(maximum=6))
    stage.stream("1" * 6)
    assert stage.sent[1:] == [Cancel(keys=(KEY,))]


@pytest.mark.parametrize("engine_class", [GenerateEngine, ContinuousBatchingEngine])
def test_engines_run_watched_requests_together(reasoner, engine_class):
    settings = WatchSettings(
        tokenizer=reasoner.tokenizer,
        rule=AnswerConsistency(window=2, interval=8),
        eos_token_ids=reasoner.eos_token_ids,
    )
    batch = encode(reasoner.tokenizer, QUESTIONS)
    sampling = SamplingParams(max_new_tokens=200, temperature=0.0)
    watches = [
        StreamWatch(
            settings, RequestKey(program_id="p", request_id=str(row)), ids[keep.bool()].tolist(), sampling
        )
        for row, (ids, keep) in enumerate(zip(batch["input_ids"], batch["attention_mask"], strict=True))
    ]
    with engine_class(reasoner) as engine:
        completions = run_watches(engine, watches, timeout=120)
    assert any(watch.verdict for watch in watches)
    for watch, completion in zip(watches, completions, strict=True):
        assert completion.finish_reason in (FinishReason.EOS, FinishReason.LENGTH)
        assert len(completion.token_ids) <= 200
        assert completion.text.count("</think>") <= 1
        if watch.verdict:
            assert completion.usage.probe > 0
            assert "</think>" in completion.text


def test_an_engine_that_never_answers_is_given_up_and_nothing_runs_on(tokenizer):
    """Peers' bug 14: a client that went away left its generation running."""
    settings = WatchSettings(tokenizer=tokenizer)
    watch = StreamWatch(settings, KEY, [3, 4], SamplingParams())
    engine = ScriptedEngine(lambda request: Reply(is_held=True))
    with pytest.raises(EngineTimeoutError, match="scripted"):
        run_watches(engine, [watch], timeout=0.05)
    assert engine.cancelled == [KEY]


def test_bad_options_raise_with_value_range_and_fix(tokenizer):
    with pytest.raises(ConfigurationError, match="Use AnswerConsistency"):
        WatchSettings(tokenizer=tokenizer, rule=EntropyAfterThinking())
    with pytest.raises(ConfigurationError, match="tokenizer = None"):
        WatchSettings(tokenizer=None)
    with pytest.raises(ConfigurationError, match="think marker '<a>'"):
        WatchSettings(tokenizer=tokenizer, markers=("<a>", "</a>"))
    with pytest.raises(ConfigurationError, match="at least 1"):
        WatchSettings(tokenizer=tokenizer, max_answer_tokens=0)
    with pytest.raises(ConfigurationError, match="logprobs=True"):
        StreamWatch(WatchSettings(tokenizer=tokenizer), KEY, [3], SamplingParams(logprobs=True))
