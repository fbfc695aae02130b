"""Probing stop per row, and the vote of a batch, each on its own."""

import math

import pytest
import torch

from hf_dynasor.certaindex import Thresholds
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.stopping import (
    AnswerConsistency,
    AnyOf,
    BatchCertaindexCriteria,
    BoundaryConfidence,
    EntropyAfterThinking,
    Prober,
    ProbingCriteria,
    ThinkingBudget,
    find_think_markers,
)
from hf_dynasor.stopping.caches import LiveBatch
from tests.stopping.kit import QUESTIONS, Script, ScriptedProber, cut_padding, encode, make_tiny_model

NEVER = AnswerConsistency(window=10_000, interval=4)


def run(model, batch, criteria, **options):
    prepared = criteria.prepare(**batch) if hasattr(criteria, "prepare") else batch
    return model.generate(**prepared, stopping_criteria=[criteria], **options)


def say(tokenizer, model, texts, criterion, **options):
    """Generate what is scripted, and return the rows' texts up to where they stopped."""
    batch = encode(tokenizer, ["What is 2+3?"] * len(texts))
    length = batch["input_ids"].shape[1]
    prepared = criterion.prepare(**batch) if hasattr(criterion, "prepare") else batch
    output = model.generate(
        **prepared,
        stopping_criteria=[criterion],
        logits_processor=[Script(tokenizer, length, texts)],
        max_new_tokens=options.pop("max_new_tokens", 200),
        do_sample=False,
    )
    return [tokenizer.decode(cut_padding(row, tokenizer.pad_token_id)) for row in output[:, length:]]


@pytest.mark.parametrize("mode", ["verify", "decode"])
@pytest.mark.parametrize("num_rows", [1, 4])
@pytest.mark.parametrize("do_sample", [False, True])
def test_with_probing_but_no_exit_the_tokens_are_those_of_plain_generate(reasoner, num_rows, do_sample, mode):
    """Left-padded, greedy and sampled with the same seed, every 4 tokens a probe."""
    batch = encode(reasoner.tokenizer, QUESTIONS[:num_rows])
    options = {"max_new_tokens": 80, "do_sample": do_sample}
    torch.manual_seed(3)
    plain = reasoner.model.generate(**batch, **options)
    prober = Prober(reasoner.model, reasoner.tokenizer, mode=mode)
    probing = ProbingCriteria(reasoner.model, reasoner.tokenizer, NEVER, prober=prober)
    torch.manual_seed(3)
    assert torch.equal(run(reasoner.model, batch, probing, **options), plain)
    assert all(report.trace and report.verdict is None for report in probing.reports)


@pytest.mark.slow
@pytest.mark.parametrize("num_rows", [1, 4])
@pytest.mark.parametrize("do_sample", [False, True])
def test_on_smollm2_as_well_the_tokens_are_those_of_plain_generate(smollm2, num_rows, do_sample):
    batch = encode(smollm2.tokenizer, QUESTIONS[:num_rows])
    options = {"max_new_tokens": 24, "do_sample": do_sample}
    torch.manual_seed(3)
    plain = smollm2.model.generate(**batch, **options)
    probing = ProbingCriteria(smollm2.model, smollm2.tokenizer, NEVER)
    torch.manual_seed(3)
    assert torch.equal(run(smollm2.model, batch, probing, **options), plain)
    assert any(report.trace for report in probing.reports)


def test_a_row_stops_where_its_last_answers_agree(reasoner):
    batch = encode(reasoner.tokenizer, QUESTIONS)
    plain = reasoner.model.generate(**batch, max_new_tokens=200)
    probing = ProbingCriteria(reasoner.model, reasoner.tokenizer, AnswerConsistency(window=2, interval=16))
    output = run(reasoner.model, batch, probing, max_new_tokens=200)
    length = batch["input_ids"].shape[1]
    for row, report in enumerate(probing.reports):
        new = cut_padding(output[row, length:], 0)
        assert new == plain[row, length : length + len(new)].tolist()
        assert report.usage.sampled == len(new)
        if report.is_early:
            assert [entry.answer for entry in report.trace][-2:] == [report.answer] * 2
            assert report.num_thinking_tokens == report.trace[-1].num_tokens
        assert report.usage.probe == sum(entry.num_probe_tokens for entry in report.trace)
    assert any(report.is_early for report in probing.reports)


def test_only_rows_that_are_due_are_asked(tokenizer, tiny):
    """A row that ended, and one whose thinking is closed, cost no probe."""
    prober = ScriptedProber(lambda row, times: str(times))
    rule = AnswerConsistency(window=2, interval=4)
    probing = ProbingCriteria(tiny, tokenizer, rule, prober=prober)
    texts = ["2+3=5 " * 4, "5\n</think>\n\n" + "5 " * 12, "5"]
    say(tokenizer, tiny, texts, probing)
    assert prober.asked
    assert set(prober.asked) == {(0,)}


def test_the_models_own_end_is_honoured(tokenizer, tiny):
    """Peers' bug 4: the main stream's EOS was ignored, generation went on after the model had ended."""
    probing = ProbingCriteria(tiny, tokenizer, NEVER, prober=ScriptedProber(lambda *_: "5"))
    (text,) = say(tokenizer, tiny, ["2+3=5"], probing)
    assert text == "2+3=5<|end|>"


@pytest.mark.parametrize("answer", [lambda row, times: str(times), lambda *_: None, lambda *_: ""])
def test_different_or_missing_answers_never_exit(tokenizer, tiny, answer):
    """Peers' bug 1: `should_early_exit` ended in `return True`."""
    rule = AnswerConsistency(window=2, interval=2)
    probing = ProbingCriteria(tiny, tokenizer, rule, prober=ScriptedProber(answer))
    (text,) = say(tokenizer, tiny, ["1+1=2 " * 5], probing)
    assert text.endswith("<|end|>")
    assert not probing.reports[0].is_early


def test_rules_of_every_kind_stop_a_row(tokenizer, tiny):
    prober = ScriptedProber(lambda *_: "5")
    for rule, place in (
        (AnswerConsistency(window=2, interval=4), 8),
        (BoundaryConfidence(threshold=0.9, min_gap=2), 4),
        (EntropyAfterThinking(window=1, interval=6), 6),
        (ThinkingBudget(maximum=7), 7),
        (AnyOf((AnswerConsistency(window=1, interval=1), ThinkingBudget(minimum=5))), 5),
    ):
        probing = ProbingCriteria(tiny, tokenizer, rule, prober=prober)
        say(tokenizer, tiny, ["2+3\n\n" + "7" * 40], probing)
        assert probing.reports[0].num_thinking_tokens == place, rule


def test_the_rule_of_a_call_is_the_one_that_was_given(tokenizer, tiny):
    """Peers' bug 7: per-request knobs were dead, read through a `hasattr` that was always false."""
    for interval in (3, 5):
        rule = AnswerConsistency(window=2, interval=interval)
        probing = ProbingCriteria(tiny, tokenizer, rule, prober=ScriptedProber(lambda *_: "5"))
        say(tokenizer, tiny, ["7" * 40], probing)
        assert [entry.num_tokens for entry in probing.reports[0].trace] == [interval, 2 * interval]


def test_a_static_cache_works_where_the_context_is_computed_anew(reasoner):
    batch = encode(reasoner.tokenizer, QUESTIONS[:1])
    rule = AnswerConsistency(window=2, interval=16)
    reports = []
    for recompute, options in ((False, {}), (True, {"cache_implementation": "static"})):
        probing = ProbingCriteria(reasoner.model, reasoner.tokenizer, rule, recompute=recompute)
        run(reasoner.model, batch, probing, max_new_tokens=48, **options)
        reports.append([(entry.num_tokens, entry.answer) for entry in probing.reports[0].trace])
    assert reports[0] == reports[1]
    assert reports[0]


def test_entropy_is_read_after_the_end_of_thinking(reasoner):
    rule = EntropyAfterThinking(interval=16, window=1, threshold=0.0)
    probing = ProbingCriteria(reasoner.model, reasoner.tokenizer, rule)
    batch = encode(reasoner.tokenizer, QUESTIONS[:2])
    output = run(reasoner.model, batch, probing, max_new_tokens=40)
    assert all(report.num_thinking_tokens == 16 and report.answer is None for report in probing.reports)
    markers = find_think_markers(reasoner.tokenizer)
    closed = Prober(reasoner.model, reasoner.tokenizer, suffix="closed", markers=markers)
    mask = torch.nn.functional.pad(batch["attention_mask"], (0, 16), value=1)
    fresh = closed.read(LiveBatch(cache=None, pending=output, mask=mask), [0, 1])
    for report, result in zip(probing.reports, fresh, strict=True):
        assert report.trace[0].verdict.certainty == pytest.approx(math.exp(-result.entropy), abs=1e-4)


BOXED = "\n</think>\n\nThe answer is \\boxed{%s}."


def test_samples_stop_together_once_the_vote_is_certain(tokenizer, tiny):
    texts = [BOXED % "5", BOXED % "5.0", "7 " + BOXED % "5", "7 " * 90]
    criteria = BatchCertaindexCriteria(tiny, tokenizer, detect_at=3)
    rows = say(tokenizer, tiny, texts, criteria)
    assert len(tokenizer.encode(rows[3])) < 60
    (outcome,) = criteria.outcomes
    assert (outcome.answer, outcome.is_certain) == ("5", True)
    assert (outcome.certaindex.entropy, outcome.certaindex.num_paths) == (1.0, 3)


def test_samples_that_disagree_run_on(tokenizer, tiny):
    texts = [BOXED % "5", BOXED % "6", "7 " + BOXED % "7", "7 " * 30]
    criteria = BatchCertaindexCriteria(tiny, tokenizer, detect_at=2)
    assert all(row.endswith("<|end|>") for row in say(tokenizer, tiny, texts, criteria))
    assert not criteria.outcomes[0].is_certain


def test_samples_without_an_answer_agree_with_nothing(tokenizer, tiny):
    criteria = BatchCertaindexCriteria(tiny, tokenizer, detect_at=2)
    say(tokenizer, tiny, ["so it goes on"] * 3 + ["so " * 60], criteria)
    assert criteria.outcomes[0].answer is None
    assert not criteria.outcomes[0].is_certain


def test_questions_of_one_batch_are_judged_apart(tokenizer, tiny):
    texts = [BOXED % "5", BOXED % "5", "7 " * 60, BOXED % "1", BOXED % "2", "7 " * 60]
    criteria = BatchCertaindexCriteria(tiny, tokenizer, detect_at=2, num_return_sequences=3)
    rows = say(tokenizer, tiny, texts, criteria)
    assert not rows[2].endswith("<|end|>")
    assert rows[5].endswith("<|end|>")
    assert [outcome.is_certain for outcome in criteria.outcomes] == [True, False]


def test_fewer_finished_samples_than_the_detect_knob_never_stop(tokenizer, tiny):
    criteria = BatchCertaindexCriteria(tiny, tokenizer, Thresholds(agreement=0.0), detect_at=4)
    rows = say(tokenizer, tiny, [BOXED % "5"] * 3 + ["7 " * 30], criteria)
    assert rows[3].endswith("<|end|>")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m, t: ProbingCriteria(m, None), "tokenizer"),
        (lambda m, t: ProbingCriteria("m", t), "transformers model"),
        (lambda m, t: ProbingCriteria(m, t, markers=("<a>", "<b>")), "think marker '<a>'"),
        (lambda m, t: BatchCertaindexCriteria(m, t, detect_at=1), "detect_at = 1 .* at least 2"),
        (lambda m, t: BatchCertaindexCriteria(m, t, num_return_sequences=0), "at least 1"),
        (lambda m, t: BatchCertaindexCriteria(m, t, format="poem"), "Unknown answer format"),
        (lambda m, t: BatchCertaindexCriteria(m, None), "tokenizer"),
    ],
)
def test_bad_options_raise_with_value_range_and_fix(tokenizer, tiny, make, message):
    with pytest.raises(ConfigurationError, match=message):
        make(tiny, tokenizer)


def test_prompts_padded_on_the_right_are_refused(tokenizer, tiny):
    batch = {name: tensor.flip(1) for name, tensor in encode(tokenizer, QUESTIONS[:2]).items()}
    with pytest.raises(ConfigurationError, match="padding_side = 'left'"):
        ProbingCriteria(tiny, tokenizer).prepare(**batch)


def test_a_batch_that_is_no_multiple_of_the_samples_is_refused(tokenizer, tiny):
    criteria = BatchCertaindexCriteria(tiny, tokenizer, num_return_sequences=3)
    with pytest.raises(ConfigurationError, match=r"4 rows .* multiple of num_return_sequences = 3"):
        say(tokenizer, tiny, ["5"] * 4, criteria)


def test_a_model_without_markers_is_probed_from_its_first_token():
    from tests.stopping.kit import make_plain_tokenizer

    plain = make_plain_tokenizer()
    model = make_tiny_model(plain)
    probing = ProbingCriteria(model, plain, NEVER, prober=ScriptedProber(lambda *_: "5"))
    batch = plain(["hello"], return_tensors="pt")
    run(model, {"input_ids": batch["input_ids"]}, probing, max_new_tokens=9, min_new_tokens=9)
    assert [entry.num_tokens for entry in probing.reports[0].trace] == [4, 8]
