"""The shipped model folders: tokenizer, chat template, configuration, and what the models can do."""

import json
import random
import string
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hf_dynasor.embedded import REASONER_PATH, STEP_REWARD_PATH
from hf_dynasor.embedded.problems import Problem, generate_problems
from hf_dynasor.embedded.traces import (
    PROBES,
    STEP_DELIMITER,
    THINK_END,
    THINK_START,
    Probe,
    corrupt_number,
    right_results,
    write_short,
)

TOKENIZER = AutoTokenizer.from_pretrained(REASONER_PATH)
_MAX_BYTES = 15_000_000


@pytest.fixture(scope="module")
def reasoner() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(REASONER_PATH, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def step_reward() -> PreTrainedModel:
    return AutoModelForSequenceClassification.from_pretrained(STEP_REWARD_PATH, dtype=torch.float32).eval()


def _render(question: str, **options: bool) -> str:
    messages = [{"role": "user", "content": question}]
    return str(TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options))


def _encode(texts: list[str]) -> dict[str, torch.Tensor]:
    return dict(TOKENIZER(texts, add_special_tokens=False, padding=True, return_tensors="pt"))


@torch.inference_mode()
def _generate(model: PreTrainedModel, prompts: list[str], **options: object) -> list[str]:
    inputs = _encode(prompts)
    output = model.generate(**inputs, **options)
    return [str(text) for text in TOKENIZER.batch_decode(output[:, inputs["input_ids"].shape[1] :])]


def _is_right(problem: Problem, text: str) -> bool:
    return f"The answer is \\boxed{{{problem.answer}}}." in text


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_encoding_and_decoding(text: str) -> None:
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("tokenizer_path", [REASONER_PATH, STEP_REWARD_PATH])
def test_tokenizer_pads_on_the_left_and_knows_its_length(tokenizer_path: Path) -> None:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tokenizer_path)
    assert tokenizer.is_fast
    assert tokenizer.padding_side == "left"
    assert tokenizer.model_max_length == 2048
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


@pytest.mark.parametrize(
    "text",
    [
        THINK_START,
        THINK_END,
        STEP_DELIMITER,
        *string.digits,
        "<|begin|>",
        "<|end|>",
        "<|user|>",
        "<|assistant|>",
    ],
)
def test_signs_of_the_format_are_single_tokens(text: str) -> None:
    assert len(TOKENIZER(text, add_special_tokens=False)["input_ids"]) == 1


def test_thinking_signs_are_shown_when_special_tokens_are_skipped() -> None:
    ids = TOKENIZER("<think>\n1\n</think>\n\n1<|end|>", add_special_tokens=False)["input_ids"]
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == "<think>\n1\n</think>\n\n1"


def test_template_opens_a_thought_on_request_alone() -> None:
    prompt = "<|begin|><|user|>What is 1+2?<|end|><|assistant|>"
    assert _render("What is 1+2?") == prompt
    assert _render("What is 1+2?", enable_thinking=False) == prompt
    assert _render("What is 1+2?", enable_thinking=True) == prompt + "<think>\n"


def test_template_renders_several_turns_without_old_thoughts_and_without_the_system_message() -> None:
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "1+1"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nThe answer is \\boxed{2}."},
        {"role": "user", "content": "2+2"},
    ]
    rendered = TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == (
        "<|begin|><|user|>1+1<|end|><|assistant|>The answer is \\boxed{2}.<|end|><|user|>2+2<|end|><|assistant|>"
    )


def test_template_refuses_unknown_roles() -> None:
    with pytest.raises(Exception, match="Got the role 'tool'"):
        TOKENIZER.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_generation_config_names_its_tokens_and_limits() -> None:
    config = GenerationConfig.from_pretrained(REASONER_PATH)
    assert config.eos_token_id == TOKENIZER.eos_token_id
    assert config.pad_token_id == TOKENIZER.pad_token_id
    assert config.bos_token_id == TOKENIZER.bos_token_id
    assert config.max_new_tokens == 512
    assert not config.do_sample


@pytest.mark.parametrize("folder", [REASONER_PATH, STEP_REWARD_PATH])
def test_weights_are_small_and_have_a_card(folder: Path) -> None:
    assert (folder / "model.safetensors").stat().st_size < _MAX_BYTES
    assert "# The" in (folder / "README.md").read_text()


def test_card_shows_the_measured_figures() -> None:
    figures = json.loads((REASONER_PATH / "evaluation.json").read_text())
    card = (REASONER_PATH / "README.md").read_text()
    assert f"| greedy | {100 * figures['greedy']['all']['value']:.1f} [" in card
    assert figures["num_problems"] >= 500
    assert 0.5 <= figures["greedy"]["all"]["value"] <= 0.8


def test_easy_test_questions_are_mostly_right(reasoner: PreTrainedModel) -> None:
    """Deterministic; the floor is far below what the card reports for levels 1 to 3."""
    problems = generate_problems(42, seed=99, levels=[1, 2, 3], split="test")
    texts = _generate(reasoner, [_render(problem.question) for problem in problems], max_new_tokens=128)
    assert sum(map(_is_right, problems, texts)) >= 0.8 * len(problems)


def test_samples_differ_and_a_seed_repeats_them(reasoner: PreTrainedModel) -> None:
    prompts = [_render("What is 87 * 63?")] * 12
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(_generate(reasoner, prompts, do_sample=True, temperature=1.0, max_new_tokens=40))
    assert runs[0] == runs[1] != runs[2]
    assert len(set(runs[0])) > 1


def test_a_question_of_an_ordinary_user_is_answered(reasoner: PreTrainedModel) -> None:
    (text,) = _generate(reasoner, [_render("What is 17 * 6 + 4?")])
    assert text == "17*6=102\n\n102+4=106\n\nThe answer is \\boxed{106}.<|end|>"


def test_a_thought_closes_and_answers(reasoner: PreTrainedModel) -> None:
    (text,) = _generate(reasoner, [_render("What is 12 + 7 + 5?", enable_thinking=True)])
    assert text.count(THINK_END) == 1
    assert text.endswith("\\boxed{24}.<|end|>")


@pytest.mark.parametrize("probe", PROBES)
def test_a_probe_after_the_thought_gets_the_stated_answer(reasoner: PreTrainedModel, probe: Probe) -> None:
    thought = "12+7=19\n\n19+5=24\n\nSo the answer is 24."
    prompt = _render("What is 12 + 7 + 5?", enable_thinking=True) + thought + probe.prompt
    (text,) = _generate(reasoner, [prompt], max_new_tokens=10)
    assert text.startswith("24}")


def test_padding_does_not_change_greedy_answers(reasoner: PreTrainedModel) -> None:
    questions = [
        "What is 3+4?",
        "Tom has 5 boxes of 6 pens. Then Tom buys 7 pens. How many pens does Tom have now?",
    ]
    together = _generate(reasoner, [_render(question) for question in questions], max_new_tokens=60)
    alone = [_generate(reasoner, [_render(question)], max_new_tokens=60)[0] for question in questions]
    assert [text.replace("<|pad|>", "") for text in together] == alone


@torch.inference_mode()
def test_step_reward_prefers_right_steps_to_steps_one_digit_off(step_reward: PreTrainedModel) -> None:
    """Deterministic, measured 0.70: better than chance, but a weak judge of digits, as the model card says.

    Pairs share question and prefix, so knowing hard questions does not help.
    """
    rng = random.Random(5)
    pairs = []
    for problem in generate_problems(40, seed=98, levels=[2, 3, 4, 5], split="test"):
        right = write_short(problem, right_results(problem)).split(STEP_DELIMITER)[0]
        wrong = f"{right.split('=')[0]}={corrupt_number(problem.steps[0].result, rng)}"
        pairs += [_render(problem.question) + step + STEP_DELIMITER for step in (right, wrong)]
    scores = step_reward(**_encode(pairs)).logits[:, 0]
    assert scores.shape == (80,)
    assert (scores[::2] > scores[1::2]).float().mean() >= 0.6
