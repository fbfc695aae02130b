"""Prompts become ids segment by segment."""

from __future__ import annotations

import copy

import pytest

from hf_dynasor.core import Prompt, TokenIds
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.serving.loading import LoadedModel
from hf_dynasor.serving.prompts import PromptEncoder


def test_a_chat_is_rendered_with_the_models_template(loaded: LoadedModel) -> None:
    ids = PromptEncoder(loaded).encode(Prompt.chat("2+3?", system="Think."))
    text = "<|im_start|>system\nThink.<|im_end|>\n<|im_start|>user\n2+3?<|im_end|>\n<|im_start|>assistant\n"
    assert loaded.tokenizer.decode(ids) == text


def test_enable_thinking_reaches_the_template_only_when_set(loaded: LoadedModel) -> None:
    encoder = PromptEncoder(loaded)
    default, off = (encoder.encode(Prompt.chat("a", enable_thinking=value)) for value in (None, False))
    assert loaded.tokenizer.decode(off) == loaded.tokenizer.decode(default) + "<think></think>"


def test_a_longer_prompt_begins_with_the_shorter_ones_ids(loaded: LoadedModel) -> None:
    """Encoded in one go, "What" would be one token, not two."""
    encoder = PromptEncoder(loaded)
    short = Prompt.plain("Wh")
    longer = short + "at is" + TokenIds(ids=(5, 7))
    assert encoder.encode(longer)[: len(encoder.encode(short))] == encoder.encode(short)
    assert encoder.encode(longer)[-2:] == (5, 7)


def test_a_beginning_of_text_token_comes_once_and_only_with_plain_text(loaded: LoadedModel) -> None:
    tokenizer = copy.deepcopy(loaded.tokenizer)
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    encoder = PromptEncoder(LoadedModel(model=loaded.model, tokenizer=tokenizer, name="tiny"))
    plain = loaded.tokenizer.encode("ab")
    assert encoder.encode(Prompt.plain("ab") + "ab") == (0, *plain, *plain)
    assert encoder.encode(Prompt.plain("<|endoftext|>ab")) == (0, *plain)
    assert 0 not in encoder.encode(Prompt.chat("ab"))
    assert encoder.encode(Prompt((TokenIds(ids=(5,)), "ab"))) == (5, *plain)


def test_no_chat_template_says_what_to_do(loaded: LoadedModel) -> None:
    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.chat_template = None
    encoder = PromptEncoder(LoadedModel(model=loaded.model, tokenizer=tokenizer, name="tiny"))
    with pytest.raises(
        ConfigurationError, match=r"no chat template.*--prompt-format plain.*tokenizer.chat_template"
    ):
        encoder.encode(Prompt.chat("a"))


def test_a_template_that_refuses_is_a_clear_error(loaded: LoadedModel) -> None:
    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    encoder = PromptEncoder(LoadedModel(model=loaded.model, tokenizer=tokenizer, name="tiny"))
    with pytest.raises(ConfigurationError, match="no system role"):
        encoder.encode(Prompt.chat("a"))


def test_a_lone_surrogate_is_named_with_its_place(loaded: LoadedModel) -> None:
    """The tokenizer raised `TypeError: TextEncodeInput must be Union...`."""
    encoder = PromptEncoder(loaded)
    cases = {
        "prompt's text": Prompt.plain("ok") + "ab\udc80c",
        "user message": Prompt.chat("ab\udc80c"),
        "system message": Prompt.chat("fine", system="ab\udc80"),
    }
    for where, prompt in cases.items():
        with pytest.raises(ConfigurationError, match=rf"U\+DC80 at position 2 of the {where}") as caught:
            encoder.encode(prompt)
        str(caught.value).encode()  # can be printed
    encoder.encode(Prompt.plain("🙂 is a pair of surrogates elsewhere, and one character here"))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}",
            "System role not supported",
        ),
        ("{{ messages[0].nothing.more }}", "nothing"),
        ("{% if %}", "Expected an expression"),
        ("{{ messages[0].content + 1 }}", "can only concatenate str"),
        ("{{ 1 // 0 }}", "division"),
    ],
)
def test_what_a_template_raises_is_a_configuration_error(
    template: str, message: str, loaded: LoadedModel
) -> None:
    """Whatever a template does, its own message must reach the user as one error of this package."""
    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.chat_template = template
    encoder = PromptEncoder(LoadedModel(model=loaded.model, tokenizer=tokenizer, name="tiny"))
    with pytest.raises(
        ConfigurationError, match=f"tiny's chat template refuses the conversation: .*{message}"
    ):
        encoder.encode(Prompt.chat("a", system="Be brief."))


def test_unknown_ids_and_empty_prompts_are_refused(loaded: LoadedModel) -> None:
    encoder = PromptEncoder(loaded)
    with pytest.raises(ConfigurationError, match="999999"):
        encoder.encode(Prompt((TokenIds(ids=(999999,)),)))
    with pytest.raises(ConfigurationError, match="without a single token"):
        encoder.encode(Prompt.plain(""))


def test_a_prompt_that_does_not_fit_is_refused_with_numbers(loaded: LoadedModel) -> None:
    encoder = PromptEncoder(loaded)
    encoder.check_length(500, 12)
    with pytest.raises(
        ConfigurationError, match=r"500 tokens and max_new_tokens = 13, 513 together.*at most 512"
    ):
        encoder.check_length(500, 13)
