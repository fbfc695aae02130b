"""QwQ guided and cut, and the thinking budget, as logits processors of stock `generate`."""

import pytest

from hf_dynasor.errors import ConfigurationError, UnsupportedError
from hf_dynasor.stopping import (
    AnswerConsistency,
    CutCriteria,
    EntropyAfterThinking,
    GuidedProcessor,
    ThinkingBudgetProcessor,
    find_think_markers,
)
from tests.stopping.kit import Script, cut_padding, encode, make_plain_tokenizer, make_tiny_model

PROMPT = "\n\n**Final Answer**\n\n\\boxed{"


def say(tokenizer, model, texts, processors=(), criteria=(), *, thinking=True, max_new_tokens=200):
    batch = encode(tokenizer, ["What is 2+3?"] * len(texts), thinking=thinking)
    length = batch["input_ids"].shape[1]
    output = model.generate(
        **batch,
        logits_processor=[Script(tokenizer, length, texts), *processors],
        stopping_criteria=list(criteria),
        max_new_tokens=max_new_tokens,
        do_sample=False,
    )
    return [tokenizer.decode(cut_padding(row, tokenizer.pad_token_id)) for row in output[:, length:]]


def count(tokenizer, text):
    return len(tokenizer.encode(text, add_special_tokens=False))


def test_the_prompt_is_forced_after_each_interval(tokenizer, tiny):
    guided = GuidedProcessor(tiny, tokenizer, interval=8)
    # What is scripted under the forced tokens is never said; the script's brace ends the first answer.
    script = "1" * 8 + "x" * count(tokenizer, PROMPT) + "5}" + "2" * 8 + "x" * count(tokenizer, PROMPT) + "6}"
    (text,) = say(tokenizer, tiny, [script], [guided])
    assert text == "1" * 8 + PROMPT + "5}" + "2" * 8 + PROMPT + "6}<|end|>"
    assert guided.answers == (("5", "6"),)
    assert guided.num_forced == (2 * count(tokenizer, PROMPT),)


def test_guided_answers_end_at_the_unpaired_brace(tokenizer, tiny):
    guided = GuidedProcessor(tiny, tokenizer, interval=4)
    say(tokenizer, tiny, ["1" * 4 + "x" * count(tokenizer, PROMPT) + "\\frac{1}{2}} and"], [guided])
    assert guided.answers == (("\\frac{1}{2}",),)


def test_a_resume_text_keeps_the_row_thinking(tokenizer, tiny):
    resume = "\n\nWait."
    guided = GuidedProcessor(tiny, tokenizer, interval=4, resume=resume)
    script = "1" * 4 + "x" * count(tokenizer, PROMPT) + "5}"
    (text,) = say(tokenizer, tiny, [script], [guided])
    assert text == "1" * 4 + PROMPT + "5}" + resume + "<|end|>"


def test_a_closed_or_ended_row_is_left_alone(tokenizer, tiny):
    guided = GuidedProcessor(tiny, tokenizer, interval=8)
    texts = ["5\n</think>\n\n" + "7" * 30, "5", "1" * 7]
    rows = say(tokenizer, tiny, texts, [guided])
    assert rows == [text + "<|end|>" for text in texts]
    assert guided.answers == ((), (), ())


def test_thinking_that_is_switched_off_is_left_alone(tokenizer, tiny):
    guided = GuidedProcessor(tiny, tokenizer, interval=4)
    budget = ThinkingBudgetProcessor(tiny, tokenizer, maximum=4)
    assert say(tokenizer, tiny, ["7" * 20], [guided, budget], thinking=False) == ["7" * 20 + "<|end|>"]


def test_cut_stops_on_agreeing_answers_and_guided_alone_does_not(tokenizer, tiny):
    gap = "x" * count(tokenizer, PROMPT)
    script = "".join("1" * 4 + gap + answer for answer in ("4}", "5}", "5}", "5}"))
    guided = GuidedProcessor(tiny, tokenizer, interval=4)
    cut = CutCriteria(guided, AnswerConsistency(window=2, interval=1))
    (text,) = say(tokenizer, tiny, [script], [guided], [cut])
    assert guided.answers == (("4", "5", "5"),)
    assert text.endswith("5}")
    assert [entry.verdict.is_stop for entry in cut.traces[0]] == [False, False, True]
    (full,) = say(tokenizer, tiny, [script], [guided])
    assert len(guided.answers[0]) == 4
    assert full.startswith(text)


def test_cut_with_different_answers_runs_on(tokenizer, tiny):
    """Peers' bug 1: `should_early_exit` ended in `return True`, different answers exited."""
    gap = "x" * count(tokenizer, PROMPT)
    script = "".join("1" * 4 + gap + f"{answer}}}" for answer in range(4))
    guided = GuidedProcessor(tiny, tokenizer, interval=4)
    (text,) = say(
        tokenizer, tiny, [script], [guided], [CutCriteria(guided, AnswerConsistency(window=2, interval=1))]
    )
    assert text.endswith("<|end|>")


def test_cut_without_its_processor_says_so(tokenizer, tiny):
    guided = GuidedProcessor(tiny, tokenizer)
    with pytest.raises(UnsupportedError, match=r"logits_processor=\[guided\]"):
        say(tokenizer, tiny, ["5"], [], [CutCriteria(guided)])


def test_max_new_tokens_counts_forced_tokens(tokenizer, tiny):
    """Peers' bug 5: whole chunks were appended, 100 tokens became 128."""
    for limit in range(1, 24):
        guided = GuidedProcessor(tiny, tokenizer, interval=4)
        (text,) = say(tokenizer, tiny, ["1" * 100], [guided], max_new_tokens=limit)
        assert count(tokenizer, text) <= limit


@pytest.mark.parametrize("maximum", [1, 2, 5, 13])
def test_a_budget_closes_with_the_special_token_and_is_never_exceeded(tokenizer, tiny, maximum):
    budget = ThinkingBudgetProcessor(tiny, tokenizer, maximum=maximum, grace=0)
    (text,) = say(tokenizer, tiny, ["1" * 60], [budget])
    thinking, _, answer = text.partition("</think>")
    assert count(tokenizer, thinking) <= maximum
    assert budget.num_thinking_tokens[0] <= maximum
    assert answer.startswith("\n\n1")
    assert "</think>" not in answer


def test_a_budget_prefers_the_end_of_a_sentence(tokenizer, tiny):
    budget = ThinkingBudgetProcessor(tiny, tokenizer, maximum=20, grace=12)
    (text,) = say(tokenizer, tiny, ["1" * 5 + "\n\n" + "2" * 5 + "\n\n" + "3" * 60], [budget])
    assert text.startswith("1" * 5 + "\n\n" + "2" * 5 + "\n\n</think>\n\n3")


def test_a_budget_counts_from_where_the_model_opens_its_thinking(tokenizer, tiny):
    """Users' wish (mlx-vlm#1911): a budget that works when the model opens `<think>` itself."""
    budget = ThinkingBudgetProcessor(tiny, tokenizer, maximum=5, grace=0)
    (text,) = say(tokenizer, tiny, ["7" * 9 + "<think>" + "1" * 60], [budget], thinking=False)
    assert text.startswith("7" * 9 + "<think>" + "1" * 4 + "\n</think>\n\n")


def test_below_the_minimum_thinking_cannot_end(tokenizer, tiny):
    budget = ThinkingBudgetProcessor(tiny, tokenizer, minimum=6)
    batch = encode(tokenizer, ["What is 2+3?"])
    close = find_think_markers(tokenizer).close_ids[0]

    class Eager(Script):
        def __call__(self, input_ids, scores):
            scores = scores.clone()
            scores[:, close] = 1000.0
            return scores

    output = tiny.generate(**batch, logits_processor=[Eager(tokenizer, 0, []), budget], max_new_tokens=12)
    new = output[0, batch["input_ids"].shape[1] :].tolist()
    assert new.index(close) == 6
    assert tokenizer.eos_token_id not in new[:6]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m, t: GuidedProcessor(m, t, interval=0), "interval = 0 .* at least 1"),
        (lambda m, t: GuidedProcessor(m, t, prompt="So?"), "prompt = 'So\\?' .*opens a box"),
        (lambda m, t: GuidedProcessor(m, t, max_answer_tokens=0), "at least 1"),
        (lambda m, t: GuidedProcessor(m, None), "tokenizer"),
        (lambda m, t: CutCriteria(None), "guided = None .* GuidedProcessor"),
        (lambda m, t: CutCriteria(GuidedProcessor(m, t), EntropyAfterThinking()), "use AnswerConsistency"),
        (lambda m, t: ThinkingBudgetProcessor(m, t, maximum=0), "maximum = 0 .* at least 1"),
        (lambda m, t: ThinkingBudgetProcessor(m, t, maximum=4, minimum=5), "at least 5"),
        (lambda m, t: ThinkingBudgetProcessor(m, t, grace=-1), "grace = -1 .* at least 0"),
        (lambda m, t: ThinkingBudgetProcessor(m, t, markers=("<a>", "<b>")), "think marker '<a>'"),
    ],
)
def test_bad_options_raise_with_value_range_and_fix(tokenizer, tiny, make, message):
    with pytest.raises(ConfigurationError, match=message):
        make(tiny, tokenizer)


def test_a_budget_without_markers_is_refused():
    plain = make_plain_tokenizer()
    with pytest.raises(ConfigurationError, match=r"no markers .*max_new_tokens"):
        ThinkingBudgetProcessor(make_tiny_model(plain), plain, maximum=10)
