"""Turns a `Prompt` into token ids for one model. Knows no engine."""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError

from hf_dynasor.core import Chat, Prompt, Segment, TokenIds
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.serving.loading import LoadedModel

# A template's own refusals and mistakes, and what Python raises out of its expressions.
TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, LookupError, ArithmeticError)


class PromptEncoder:
    """Encodes prompts segment by segment, so that a longer prompt begins with the ids of the shorter one."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._tokenizer = loaded.tokenizer
        self._vocabulary_size = int(loaded.config.vocab_size)
        self._max_context = loaded.max_context
        self._name = loaded.name
        self._bos = _find_leading_special_ids(loaded.tokenizer)

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """The ids of a prompt.

        Raises:
            ConfigurationError: A conversation for a model without chat template, a template that refuses it,
                half a character (a lone surrogate), an id outside the vocabulary, or nothing to continue.
        """
        ids: list[int] = []
        for index, segment in enumerate(prompt.segments):
            ids.extend(self._encode_segment(segment, is_first=index == 0))
        if not ids:
            raise ConfigurationError(
                "Got a prompt without a single token but expected some text to continue."
            )
        outside = next((i for i in ids if not 0 <= i < self._vocabulary_size), None)
        if outside is not None:
            raise ConfigurationError(
                f"Got token id {outside} but {self._name}'s vocabulary has ids 0 to {self._vocabulary_size - 1}."
            )
        return tuple(ids)

    def check_length(self, num_prompt_tokens: int, max_new_tokens: int) -> None:
        """Raise `ConfigurationError` if prompt and answer together do not fit the model's context."""
        total = num_prompt_tokens + max_new_tokens
        if self._max_context is not None and total > self._max_context:
            raise ConfigurationError(
                f"Got a prompt of {num_prompt_tokens} tokens and {max_new_tokens = }, {total} together, but "
                f"{self._name} takes at most {self._max_context}. Shorten the prompt or lower max_new_tokens "
                "(of a chain of thought: its budget)."
            )

    def _encode_segment(self, segment: Segment, *, is_first: bool) -> list[int]:
        if isinstance(segment, TokenIds):
            return list(segment.ids)
        if isinstance(segment, Chat):
            return self._encode_chat(segment)
        _refuse_surrogates(segment, "the prompt's text")
        ids: list[int] = self._tokenizer.encode(segment, add_special_tokens=False)
        return [*self._bos, *ids] if is_first and ids[: len(self._bos)] != self._bos else ids

    def _encode_chat(self, chat: Chat) -> list[int]:
        if not getattr(self._tokenizer, "chat_template", None):
            raise ConfigurationError(
                f"{self._name} has no chat template. Use a plain prompt (prompt_format='plain', --prompt-format plain, "
                "Prompt.plain(...)), or set tokenizer.chat_template."
            )
        for message in chat.messages:
            _refuse_surrogates(message.content, f"the {message.role} message")
        options: dict[str, Any] = (
            {} if chat.enable_thinking is None else {"enable_thinking": chat.enable_thinking}
        )
        messages = [{"role": message.role, "content": message.content} for message in chat.messages]
        try:
            ids = self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=False, **options
            )
        except TEMPLATE_ERRORS as error:
            raise ConfigurationError(
                f"{self._name}'s chat template refuses the conversation: {error}"
            ) from error
        return [int(token_id) for token_id in ids]


def _refuse_surrogates(text: str, where: str) -> None:
    """Raise `ConfigurationError` for half of a UTF-16 pair, which is no character and has no bytes in UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(
            f"Got the lone surrogate U+{ord(text[error.start]):04X} at position {error.start} of {where}, which no "
            "tokenizer can encode. Remove it, or repair the text where it is decoded (errors='replace')."
        ) from error


def _find_leading_special_ids(tokenizer: Any) -> list[int]:
    """The ids that the tokenizer itself puts before a text: a beginning-of-text token, or none."""
    with_special = tokenizer.encode("a", add_special_tokens=True)
    without = tokenizer.encode("a", add_special_tokens=False)
    for start in range(len(with_special) - len(without) + 1):
        if with_special[start : start + len(without)] == without:
            return [int(token_id) for token_id in with_special[:start]]
    return []
