"""The faithful exit and `generate(custom_generate=...)`: one coherent text, one reason, exact counts."""

import pytest
import torch
from transformers import StoppingCriteria

from hf_dynasor.core import FinishReason
from hf_dynasor.errors import ConfigurationError, UnsupportedError
from hf_dynasor.stopping import (
    AnswerConsistency,
    AnyOf,
    CutCriteria,
    EarlyExit,
    GuidedProcessor,
    ThinkingBudget,
    find_think_markers,
)
from tests.stopping.kit import (
    QUESTIONS,
    Script,
    ScriptedProber,
    cut_padding,
    encode,
    make_plain_tokenizer,
    make_tiny_model,
)

NEVER = AnswerConsistency(window=10_000, interval=4)
SOON = AnswerConsistency(window=2, interval=4)
AGREE = ScriptedProber(lambda *_: "5")


def say(tokenizer, model, texts, early_exit, *, max_new_tokens=200, **options):
    """Generate what is scripted; returns the rows' texts and the reports."""
    batch = encode(tokenizer, ["What is 2+3?"] * len(texts))
    length = batch["input_ids"].shape[1]
    output = model.generate(
        **batch,
        custom_generate=early_exit,
        logits_processor=[Script(tokenizer, length, texts)],
        max_new_tokens=max_new_tokens,
        do_sample=False,
        return_dict_in_generate=True,
        **options,
    )
    rows = [cut_padding(row, tokenizer.pad_token_id) for row in output.sequences[:, length:]]
    return [tokenizer.decode(row) for row in rows], output.reports


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("num_rows", [1, 4])
@pytest.mark.parametrize("do_sample", [False, True])
def test_without_an_exit_the_tokens_are_those_of_plain_generate(reasoner, num_rows, do_sample, compact):
    """Left-padded, greedy and sampled with the same seed, probed every 4 tokens, with rows that leave."""
    batch = encode(reasoner.tokenizer, QUESTIONS[:num_rows])
    options = {"max_new_tokens": 160, "do_sample": do_sample}
    torch.manual_seed(5)
    plain = reasoner.model.generate(**batch, **options)
    early_exit = EarlyExit(reasoner.tokenizer, NEVER, compact=compact)
    torch.manual_seed(5)
    assert torch.equal(reasoner.model.generate(**batch, custom_generate=early_exit, **options), plain)
    assert all(report.trace and not report.is_early for report in early_exit.reports)


@pytest.mark.slow
@pytest.mark.parametrize("num_rows", [1, 4])
@pytest.mark.parametrize("do_sample", [False, True])
def test_on_smollm2_as_well_the_tokens_are_those_of_plain_generate(smollm2, num_rows, do_sample):
    batch = encode(smollm2.tokenizer, QUESTIONS[:num_rows])
    options = {"max_new_tokens": 24, "do_sample": do_sample}
    torch.manual_seed(5)
    plain = smollm2.model.generate(**batch, **options)
    early_exit = EarlyExit(smollm2.tokenizer, NEVER)
    torch.manual_seed(5)
    assert torch.equal(smollm2.model.generate(**batch, custom_generate=early_exit, **options), plain)


def test_an_exit_closes_the_thought_and_the_model_writes_its_answer(reasoner):
    """The text is what plain generation would write after the closed thought: the cache is the model's own."""
    model, tokenizer = reasoner.model, reasoner.tokenizer
    batch = encode(tokenizer, QUESTIONS)
    early_exit = EarlyExit(tokenizer, AnswerConsistency(window=2, interval=16))
    output = model.generate(
        **batch, custom_generate=early_exit, max_new_tokens=200, return_dict_in_generate=True
    )
    close = find_think_markers(tokenizer).close_ids[0]
    for row, report in enumerate(output.reports):
        ids = cut_padding(output.sequences[row, batch["input_ids"].shape[1] :], 0)
        assert report.usage.sampled + report.usage.forced == len(ids)
        if not report.is_early:
            continue
        end = ids.index(close) + 2
        start = batch["attention_mask"][row].argmax()
        context = torch.cat([batch["input_ids"][row, start:], torch.tensor(ids[:end])])[None]
        again = model.generate(context, attention_mask=torch.ones_like(context), max_new_tokens=200 - end)
        assert again[0, context.shape[1] :].tolist() == ids[end:]
        assert ids.count(close) == 1
        assert report.finish_reason is FinishReason.EOS
    assert any(report.is_early for report in output.reports)


def test_a_row_has_one_text_and_one_reason(tokenizer, tiny):
    """Peers' bug 6: several finish reasons, usage zero or per chunk, one-chunk fake streams."""
    early_exit = EarlyExit(tokenizer, SOON, prober=AGREE)
    closing = "\n</think>\n\n"
    script = "1" * 8 + "x" * len(tokenizer.encode(closing, add_special_tokens=False)) + "It is 5."
    (text,), (report,) = say(tokenizer, tiny, [script], early_exit)
    assert text == "1" * 8 + closing + "It is 5.<|end|>"
    assert report.finish_reason is FinishReason.EOS
    assert report.answer == "5"
    assert report.num_thinking_tokens == 9  # the end of the line before the marker is thinking
    usage = report.usage
    assert (usage.forced, usage.probe) == (3, 20)
    assert usage.sampled + usage.forced == len(tokenizer.encode(text, add_special_tokens=False))
    assert usage.net_tokens == usage.sampled + usage.forced + usage.probe
    assert report.to_dict()["trace"][-1]["vote"] == "stop"


def test_a_pasted_answer_ends_the_row(tokenizer, tiny):
    early_exit = EarlyExit(tokenizer, SOON, exit="paste", prober=AGREE)
    (text,), (report,) = say(tokenizer, tiny, ["1" * 90], early_exit)
    assert text == "1" * 8 + "\n</think>\n\n**Final Answer**\n\n\\boxed{5}"
    assert (report.finish_reason, report.answer) == (FinishReason.STOP, "5")


def test_a_bare_stop_ends_the_row_at_once(tokenizer, tiny):
    early_exit = EarlyExit(tokenizer, SOON, exit="stop", prober=AGREE)
    (text,), (report,) = say(tokenizer, tiny, ["1" * 90], early_exit)
    assert text == "1" * 8
    assert (report.finish_reason, report.answer, report.usage.forced) == (FinishReason.STOP, "5", 0)


@pytest.mark.parametrize("exit", ["answer", "paste", "stop"])
@pytest.mark.parametrize("limit", [1, 7, 8, 9, 10, 11, 12, 15, 40])
def test_max_new_tokens_is_exact_with_everything_counted(tokenizer, tiny, exit, limit):
    """Peers' bug 5: `max_tokens` overshot to whole chunks, 100 became 128."""
    early_exit = EarlyExit(tokenizer, SOON, exit=exit, prober=AGREE)
    (text,), (report,) = say(tokenizer, tiny, ["1" * 200], early_exit, max_new_tokens=limit)
    spent = report.usage.sampled + report.usage.forced
    assert spent == len(tokenizer.encode(text, add_special_tokens=False)) <= limit
    if report.finish_reason is FinishReason.LENGTH:
        assert spent == limit


def test_the_models_own_end_is_honoured_everywhere(tokenizer, tiny):
    """Peers' bug 4: EOS of the main stream was ignored, generation went on after the model had ended."""
    texts = ["1" * 3, "1" * 8 + "xxx" + "5", "5\n</think>\n\n5", "1" * 6]
    rows, reports = say(tokenizer, tiny, texts, EarlyExit(tokenizer, SOON, prober=AGREE))
    assert all(row.endswith("<|end|>") and row.count("<|end|>") == 1 for row in rows)
    assert {report.finish_reason for report in reports} == {FinishReason.EOS}
    assert rows[1] == "1" * 8 + "\n</think>\n\n5<|end|>"


def test_different_or_missing_answers_never_exit(tokenizer, tiny):
    """Peers' bug 1: `should_early_exit` ended in `return True`."""
    for answer in (lambda row, times: str(times), lambda *_: None, lambda *_: ""):
        early_exit = EarlyExit(tokenizer, SOON, prober=ScriptedProber(answer))
        (text,), (report,) = say(tokenizer, tiny, ["1" * 60], early_exit)
        assert text == "1" * 60 + "<|end|>"
        assert not report.is_early


def test_an_exit_can_wait_for_the_end_of_a_sentence(tokenizer, tiny):
    early_exit = EarlyExit(tokenizer, SOON, grace=6, prober=AGREE)
    (text,), _ = say(tokenizer, tiny, ["1" * 10 + ".\n\n" + "2" * 40], early_exit)
    assert text.startswith("1" * 10 + ".\n\n</think>\n\n")
    (text,), _ = say(tokenizer, tiny, ["1" * 90], early_exit)
    assert text.startswith("1" * 14 + "\n</think>\n\n")
    (text,), (report,) = say(tokenizer, tiny, ["1" * 10 + "</think>5"], early_exit)
    assert text == "1" * 10 + "</think>5<|end|>"
    assert report.usage.forced == 0


def test_a_thought_can_be_closed_with_a_sentence(tokenizer, tiny):
    early_exit = EarlyExit(tokenizer, SOON, closing="limited_time", prober=AGREE)
    (text,), (report,) = say(tokenizer, tiny, ["1" * 90], early_exit)
    assert text.startswith("1" * 8 + "\n\nConsidering the limited time by the user")
    assert "directly now.\n</think>\n\n1" in text
    assert report.usage.forced > 10


def test_a_budget_alone_reads_nothing(tokenizer, tiny):
    prober = ScriptedProber(lambda *_: "5")
    early_exit = EarlyExit(tokenizer, ThinkingBudget(maximum=6), prober=prober)
    (text,), (report,) = say(tokenizer, tiny, ["1" * 60], early_exit)
    assert text.startswith("1" * 6 + "\n</think>\n\n")
    assert not prober.asked
    assert report.usage.probe == 0


def test_rules_combine(tokenizer, tiny):
    rule = AnyOf((AnswerConsistency(window=1, interval=1), ThinkingBudget(minimum=9)))
    (text,), _ = say(tokenizer, tiny, ["1" * 60], EarlyExit(tokenizer, rule, prober=AGREE))
    assert text.startswith("1" * 9 + "\n</think>")


def test_rows_that_are_done_leave_the_batch(tokenizer, tiny):
    sizes = []
    handle = tiny.register_forward_pre_hook(
        lambda _, args, options: sizes.append(options["input_ids"].shape[0]), with_kwargs=True
    )
    early_exit = EarlyExit(tokenizer, NEVER, prober=ScriptedProber(lambda *_: None))
    ids = encode(tokenizer, ["What is 2+3?"] * 3)
    torch.manual_seed(0)
    texts = ["1" * 4, "1" * 20, "1" * 8]

    class Rowwise(Script):
        """The script by what a row has said, so that it may leave."""

        def __call__(self, input_ids, scores):
            forced = torch.full_like(scores, -float("inf"))
            for place, row in enumerate(input_ids[:, self._start :].tolist()):
                index = place if len(row) == 0 else [24, 25, 26].index(row[0])
                said = [24 + index, *self._ids[index]]
                forced[place, said[len(row)] if len(row) < len(said) else self._eos] = 0.0
            return forced

    Rowwise.__name__ = "LogitNormalization"  # a name that is known to look at rows one by one
    length = ids["input_ids"].shape[1]
    output = tiny.generate(
        **ids,
        custom_generate=early_exit,
        logits_processor=[Rowwise(tokenizer, length, texts)],
        max_new_tokens=60,
    )
    handle.remove()
    assert sizes[0] == 3
    assert sizes[-1] == 1
    assert set(sizes) == {3, 2, 1}
    assert len(cut_padding(output[1, length:], 0)) == 22


def test_processors_that_remember_places_keep_the_batch_whole(reasoner):
    batch = encode(reasoner.tokenizer, QUESTIONS)
    guided = GuidedProcessor(reasoner.model, reasoner.tokenizer, interval=16)
    options = {"max_new_tokens": 60, "do_sample": False}
    plain = reasoner.model.generate(
        **batch, logits_processor=[guided], stopping_criteria=[CutCriteria(guided)], **options
    )
    early_exit = EarlyExit(reasoner.tokenizer, NEVER)
    output = reasoner.model.generate(
        **batch,
        custom_generate=early_exit,
        logits_processor=[guided],
        stopping_criteria=[CutCriteria(guided)],
        **options,
    )
    assert torch.equal(output, plain)


def test_scores_and_samples_come_back_as_from_plain_generate(reasoner):
    batch = encode(reasoner.tokenizer, QUESTIONS[:2])
    options = {
        "max_new_tokens": 24,
        "do_sample": True,
        "num_return_sequences": 2,
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_logits": True,
    }
    torch.manual_seed(1)
    plain = reasoner.model.generate(**batch, **options)
    torch.manual_seed(1)
    output = reasoner.model.generate(**batch, custom_generate=EarlyExit(reasoner.tokenizer, NEVER), **options)
    assert torch.equal(output.sequences, plain.sequences)
    assert all(torch.equal(*pair) for pair in zip(output.scores, plain.scores, strict=True))
    assert all(torch.equal(*pair) for pair in zip(output.logits, plain.logits, strict=True))
    assert len(output.reports) == 4


def test_other_criteria_are_honoured(reasoner):
    batch = encode(reasoner.tokenizer, QUESTIONS[:2])

    class StopAt(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.full((input_ids.shape[0],), input_ids.shape[1] == length + 7)

    length = batch["input_ids"].shape[1]
    early_exit = EarlyExit(reasoner.tokenizer, NEVER)
    output = reasoner.model.generate(
        **batch, custom_generate=early_exit, stopping_criteria=[StopAt()], max_new_tokens=60
    )
    assert output.shape[1] == length + 7
    assert all(report.finish_reason is FinishReason.STOP for report in early_exit.reports)


class Collect:
    def __init__(self):
        self.tokens, self.has_ended = [], False

    def put(self, value):
        self.tokens.append(value)

    def end(self):
        self.has_ended = True


def test_a_stream_gets_every_token_as_it_comes(reasoner):
    """Peers' bug 6: one-chunk fake streaming; users' wish: a stream that the exit does not interrupt."""
    batch = encode(reasoner.tokenizer, QUESTIONS[:1])
    streamer = Collect()
    early_exit = EarlyExit(reasoner.tokenizer, AnswerConsistency(window=2, interval=16))
    output = reasoner.model.generate(
        **batch, custom_generate=early_exit, token_streamer=streamer, max_new_tokens=120
    )
    assert streamer.has_ended
    assert early_exit.reports[0].is_early
    assert torch.cat([item.reshape(-1) for item in streamer.tokens]).tolist() == output[0].tolist()
    assert all(item.numel() == 1 for item in streamer.tokens[1:])


def test_a_stream_that_breaks_ends_the_generation(reasoner):
    """Peers' bug 14: a client's disconnect left the generation running."""
    calls = []
    handle = reasoner.model.register_forward_pre_hook(lambda *_: calls.append(1))

    class Gone(Collect):
        def put(self, value):
            super().put(value)
            if len(self.tokens) == 4:
                raise ConnectionError("the reader went away")

    batch = encode(reasoner.tokenizer, QUESTIONS[:1])
    early_exit = EarlyExit(reasoner.tokenizer, NEVER)
    with pytest.raises(ConnectionError):
        reasoner.model.generate(**batch, custom_generate=early_exit, token_streamer=Gone(), max_new_tokens=60)
    handle.remove()
    assert len(calls) == 3


def test_a_model_without_markers_is_led_to_its_answer():
    plain = make_plain_tokenizer()
    model = make_tiny_model(plain)
    early_exit = EarlyExit(plain, SOON, prober=AGREE)
    batch = plain(["hello"], return_tensors="pt")
    ids = model.generate(
        batch["input_ids"],
        custom_generate=early_exit,
        max_new_tokens=60,
        suppress_tokens=[plain.eos_token_id],
    )
    text = plain.decode(ids[0, batch["input_ids"].shape[1] + 8 :])
    assert text.startswith("\n\n**Final Answer**\n\n\\boxed{")
    assert early_exit.reports[0].finish_reason is FinishReason.LENGTH


def test_two_calls_in_a_row_give_the_same(reasoner):
    batch = encode(reasoner.tokenizer, QUESTIONS)
    early_exit = EarlyExit(reasoner.tokenizer, AnswerConsistency(window=2, interval=16))
    first = reasoner.model.generate(**batch, custom_generate=early_exit, max_new_tokens=120)
    reports = early_exit.reports
    second = reasoner.model.generate(**batch, custom_generate=early_exit, max_new_tokens=120)
    assert torch.equal(first, second)
    assert reports == early_exit.reports


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exit": "leave"}, "Unknown exit 'leave'. Known: answer, paste, stop"),
        ({"closing": "bye"}, "closing = 'bye' .*limited_time, plain.*{close}"),
        ({"grace": -1}, "grace = -1 .* at least 0"),
        ({"markers": ("<a>", "<b>")}, "think marker '<a>'"),
    ],
)
def test_bad_options_raise_with_value_range_and_fix(tokenizer, options, message):
    with pytest.raises(ConfigurationError, match=message):
        EarlyExit(tokenizer, **options)
    with pytest.raises(ConfigurationError, match="tokenizer = None"):
        EarlyExit(None)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_beams": 3}, UnsupportedError, "num_beams=1"),
        ({"use_cache": False}, ConfigurationError, "use_cache=True"),
        ({"cache_implementation": "static"}, UnsupportedError, "leave cache_implementation out"),
        ({"token_streamer": Collect()}, ConfigurationError, "a streamer for 2 rows"),
        ({"prefill_chunk_size": 4}, UnsupportedError, "prefill_chunk_size"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(reasoner, options, error, message):
    batch = encode(reasoner.tokenizer, QUESTIONS[:2])
    with pytest.raises(error, match=message):
        reasoner.model.generate(**batch, custom_generate=EarlyExit(reasoner.tokenizer), **options)


@pytest.mark.filterwarnings("ignore")
def test_prompts_padded_on_the_right_are_refused(tokenizer, tiny):
    batch = {name: tensor.flip(1) for name, tensor in encode(tokenizer, QUESTIONS[:2]).items()}
    with pytest.raises(ConfigurationError, match="padding_side = 'left'"):
        tiny.generate(**batch, custom_generate=EarlyExit(tokenizer), max_new_tokens=4)
