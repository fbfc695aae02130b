"""Naming no rule: every face finds what was calibrated for the model; what is named wins."""

import pytest

from hf_dynasor.core import FinishReason, RequestKey, SamplingParams
from hf_dynasor.embedded import REASONER_PATH
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.serving import GenerateEngine
from hf_dynasor.stopping import (
    DEFAULT_RULE,
    EFFORTS,
    POLICY_FILE,
    BoundaryConfidence,
    CutCriteria,
    DepthPolicy,
    EarlyExit,
    GuidedProcessor,
    ProbingCriteria,
    StreamWatch,
    ThinkingBudget,
    WatchSettings,
    run_watches,
)
from tests.stopping.kit import QUESTIONS, ScriptedProber, cut_padding, encode
from tests.stopping.test_early_exit import AGREE, SOON, say

SHIPPED = DepthPolicy.from_file(REASONER_PATH / POLICY_FILE)


def test_nothing_named_takes_the_settings_beside_the_model(reasoner):
    batch = encode(reasoner.tokenizer, QUESTIONS)
    early_exit = EarlyExit(reasoner.tokenizer)
    assert early_exit.policy is None
    reasoner.model.generate(**batch, custom_generate=early_exit, max_new_tokens=256, do_sample=False)
    assert early_exit.policy == SHIPPED
    assert any(report.is_early for report in early_exit.reports)
    assert [report.answer for report in early_exit.reports] == ["5", "87", "137", "14"]


def test_a_model_without_settings_takes_the_default_rule(tokenizer, tiny, monkeypatch):
    monkeypatch.setattr(tokenizer, "name_or_path", "nowhere/nothing")
    early_exit = EarlyExit(tokenizer)
    say(tokenizer, tiny, ["5"], early_exit)
    assert early_exit.policy == DepthPolicy(rule=DEFAULT_RULE)


def test_options_that_are_named_win_over_the_file(tokenizer, tiny, tmp_path):
    DepthPolicy(rule=ThinkingBudget(maximum=6), exit="stop").save(tmp_path / "mine.json")
    for early_exit in (
        EarlyExit(tokenizer, tmp_path / "mine.json"),
        EarlyExit.from_file(tmp_path / "mine.json", tokenizer),
    ):
        (text,), _ = say(tokenizer, tiny, ["1" * 60], early_exit)
        assert text == "1" * 6
    (text,), _ = say(
        tokenizer, tiny, ["1" * 60], EarlyExit.from_file(tmp_path / "mine.json", tokenizer, exit="answer")
    )
    assert text.startswith("1" * 6 + "\n</think>\n\n")
    with pytest.raises(ConfigurationError, match="Unknown exit 'leave'"):
        EarlyExit.from_file(tmp_path / "mine.json", tokenizer, exit="leave")


def test_another_model_with_the_same_early_exit_is_looked_up_anew(reasoner, tokenizer, tiny, monkeypatch):
    monkeypatch.setattr(tokenizer, "name_or_path", "")
    early_exit = EarlyExit(tokenizer)
    batch = encode(tokenizer, QUESTIONS[:1])
    reasoner.model.generate(**batch, custom_generate=early_exit, max_new_tokens=4)
    assert early_exit.policy == SHIPPED
    tiny.generate(**batch, custom_generate=early_exit, max_new_tokens=4)
    assert early_exit.policy == DepthPolicy()


@pytest.mark.parametrize(("style", "ending"), [("answer", "5}."), ("paste", "5}")])
def test_a_closing_that_opens_the_answer_is_filled(tokenizer, tiny, style, ending):
    early_exit = EarlyExit(tokenizer, SOON, exit=style, closing="boxed", prober=AGREE)
    head = "1" * 8 + "\n</think>\n\nThe answer is \\boxed{"
    forced = len(tokenizer.encode(head[8:], add_special_tokens=False))
    (text,), (report,) = say(tokenizer, tiny, ["1" * 8 + "x" * forced + "5}."], early_exit)
    assert text.removesuffix("<|end|>") == head + ending
    assert report.answer == "5"


def test_the_probing_criterion_finds_the_settings_too(reasoner):
    probing = ProbingCriteria(reasoner.model, reasoner.tokenizer)
    inputs = probing.prepare(**encode(reasoner.tokenizer, QUESTIONS))
    output = reasoner.model.generate(
        **inputs, stopping_criteria=[probing], max_new_tokens=256, do_sample=False
    )
    assert any(report.is_early for report in probing.reports)
    assert all("probability" in r.verdict.reason for r in probing.reports if r.verdict)
    assert len(cut_padding(output[0], reasoner.tokenizer.pad_token_id))


def test_a_watch_finds_the_settings_and_asks_for_the_probabilities_that_they_need(reasoner):
    settings = WatchSettings(tokenizer=reasoner.tokenizer, eos_token_ids=reasoner.eos_token_ids)
    assert settings.policy.rule == SHIPPED.rule
    assert settings.wants_logprobs
    assert not WatchSettings(tokenizer=reasoner.tokenizer, rule="mid").wants_logprobs
    batch = encode(reasoner.tokenizer, QUESTIONS[1:2])
    watch = StreamWatch(
        settings,
        RequestKey(program_id="p", request_id="r"),
        batch["input_ids"][0].tolist(),
        SamplingParams(max_new_tokens=256, temperature=0.0),
    )
    with GenerateEngine(reasoner) as engine:
        (completion,) = run_watches(engine, [watch], timeout=120)
    assert watch.verdict is not None
    assert watch.answer == "87"
    assert completion.text.count("</think>") == 1


@pytest.mark.parametrize(("style", "reason"), [("paste", FinishReason.STOP), ("stop", FinishReason.STOP)])
def test_a_watch_pastes_or_ends_at_once(reasoner, style, reason):
    settings = WatchSettings(
        tokenizer=reasoner.tokenizer, exit=style, closing="plain", eos_token_ids=reasoner.eos_token_ids
    )
    batch = encode(reasoner.tokenizer, QUESTIONS[1:2])
    sampling = SamplingParams(max_new_tokens=256, temperature=0.0)
    ids = batch["input_ids"][0].tolist()
    watch = StreamWatch(settings, RequestKey(program_id="p", request_id="r"), ids, sampling)
    with GenerateEngine(reasoner) as engine:
        (completion,) = run_watches(engine, [watch], timeout=120)
    assert completion.finish_reason is reason
    assert completion.text.endswith("</think>\n\n**Final Answer**\n\n\\boxed{87}") == (style == "paste")
    assert completion.usage.sampled + completion.usage.forced >= len(completion.token_ids)
    with pytest.raises(ConfigurationError, match="Unknown exit 'leave'"):
        WatchSettings(tokenizer=reasoner.tokenizer, exit="leave")


def test_answers_in_the_stream_have_no_probabilities_to_cut_by(tokenizer, tiny):
    with pytest.raises(ConfigurationError, match="use AnswerConsistency"):
        CutCriteria(GuidedProcessor(tiny, tokenizer), BoundaryConfidence())


def test_efforts_can_be_named(tokenizer, tiny):
    early_exit = EarlyExit(tokenizer, "crazy", prober=ScriptedProber(lambda *_: "5"))
    assert early_exit.policy is not None
    assert early_exit.policy.rule == EFFORTS["crazy"]
    (text,), _ = say(tokenizer, tiny, ["1" * 90], early_exit)
    assert text.startswith("1" * 64 + "\n</think>")
