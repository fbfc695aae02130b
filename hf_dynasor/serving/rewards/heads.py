"""Runs a model's body and head: the scores of tokens, or the logits of the next token. Knows no text."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch

from hf_dynasor.errors import ConfigurationError
from hf_dynasor.serving.loading import LoadedModel
from hf_dynasor.serving.rewards.reader import Forward, PathReader


def make_reader(
    loaded: LoadedModel, forward: Forward, *, num_features: int, rates_tokens: bool = False, **sizes: Any
) -> PathReader:
    """A reader for a model that is loaded."""
    return PathReader(
        loaded.model,
        forward,
        num_features=num_features,
        pad_token_id=loaded.pad_token_id,
        kv_bytes_per_token=loaded.kv_bytes_per_token,
        rates_tokens=rates_tokens,
        **sizes,
    )


def run_head(model: Any, head: Callable[[torch.Tensor], torch.Tensor]) -> Forward:
    """The head's output at the last column, whatever the rest of the model would make of it."""

    def forward(inputs: dict[str, Any]) -> torch.Tensor:
        hidden = model.base_model(**inputs).last_hidden_state
        return head(hidden[:, -1:])

    return forward


def run_logits(model: Any, *, all_columns: bool) -> Forward:
    """The logits of the next token, at every column or at the last."""
    keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
    options = {"logits_to_keep": 1} if keeps and not all_columns else {}

    def forward(inputs: dict[str, Any]) -> torch.Tensor:
        logits: torch.Tensor = model(**inputs, **options).logits
        return logits

    return forward


def check_context(loaded: LoadedModel, ids: Sequence[int]) -> None:
    """Raise `ConfigurationError` for a path that is longer than the model's context, or empty."""
    longest = loaded.max_context
    if longest is not None and len(ids) > longest:
        raise ConfigurationError(
            f"Got a path of {len(ids)} tokens to score but {loaded.name} takes at most {longest}. Shorten the path, or "
            "use a reward model with a longer context."
        )
    if not ids:
        raise ConfigurationError("Got a path without a single token to score.")


def encode_text(tokenizer: Any, text: str) -> tuple[int, ...]:
    """The ids of a text without special tokens; `ConfigurationError` for half a character."""
    try:
        return tuple(tokenizer.encode(text, add_special_tokens=False))
    except (UnicodeEncodeError, TypeError) as error:  # how tokenizers refuse a lone surrogate
        raise ConfigurationError(
            f"Got a text that {type(tokenizer).__name__} cannot encode: {error}"
        ) from error


def find_token(tokenizer: Any, text: str, *, option: str) -> int:
    """The one token that spells a text, a leading space aside.

    Raises:
        ConfigurationError: The vocabulary has no such token.
    """
    known = tokenizer.get_vocab()
    if text in known:
        return int(known[text])
    for variant in (text, f" {text}"):
        ids = tokenizer.encode(variant, add_special_tokens=False)
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
            return int(ids[0])
    raise ConfigurationError(
        f"Got {option} = {text!r} but the reward model's vocabulary has no single token for it. Name the token that the "
        f"model was trained with: load_reward_model(..., {option}=...)."
    )


def render_chat(loaded: LoadedModel, messages: list[dict[str, str]], **options: Any) -> str:
    """A conversation in the model's own chat template.

    Raises:
        ConfigurationError: The model has none, or it refuses the conversation.
    """
    from hf_dynasor.serving.prompts import TEMPLATE_ERRORS

    if not getattr(loaded.tokenizer, "chat_template", None):
        raise ConfigurationError(
            f"{loaded.name} has no chat template, which its scores need. Set tokenizer.chat_template."
        )
    try:
        return str(loaded.tokenizer.apply_chat_template(messages, tokenize=False, **options))
    except TEMPLATE_ERRORS as error:
        raise ConfigurationError(
            f"{loaded.name}'s chat template refuses the conversation: {error}"
        ) from error
