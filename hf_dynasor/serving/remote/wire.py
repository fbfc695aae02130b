"""From a request to the body that a server takes. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from hf_dynasor.core import Chat, SamplingParams
from hf_dynasor.errors import UnsupportedError
from hf_dynasor.serving.remote.dialects import Dialect

_NEUTRAL = SamplingParams()
_NOT_SAMPLING = {"seed", "logprobs", "num_top_logprobs"}
_ALWAYS_SENT = {
    "max_new_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty",
}  # fmt: skip
"""Where a server's own default may differ from doing nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WirePrompt:
    """A prompt as it goes over the wire: exactly one of the three.

    Args:
        ids: Token ids, for `/completions`.
        text: A text, for `/completions`.
        chat: A conversation, for `/chat/completions`.
        written: With `chat`: what the assistant has written so far, to be continued.
    """

    ids: tuple[int, ...] | None = None
    text: str | None = None
    chat: Chat | None = None
    written: str = ""

    @property
    def kind(self) -> Literal["ids", "text", "chat"]:
        """Which of the three it is."""
        return "ids" if self.ids is not None else "text" if self.text is not None else "chat"

    @property
    def route(self) -> str:
        """Where it is sent, below `/v1`."""
        return "/chat/completions" if self.kind == "chat" else "/completions"


def check_sampling(sampling: SamplingParams, dialect: Dialect, engine_name: str) -> None:
    """Raise `UnsupportedError` for the first setting that the server does not have."""
    if sampling.num_top_logprobs:
        raise UnsupportedError(
            f"{engine_name} reports the log-probabilities of sampled tokens only, and the request asks for "
            f"num_top_logprobs = {sampling.num_top_logprobs}. Leave it at 0."
        )
    for item in fields(sampling):
        if item.name in _NOT_SAMPLING or item.name in dialect.fields:
            continue
        value = getattr(sampling, item.name)
        if value != getattr(_NEUTRAL, item.name):
            raise UnsupportedError(
                f"{engine_name} has no {item.name}, and the request asks for {value!r}. It has: "
                f"{', '.join(sorted(dialect.fields))}. Leave it out, or use a server that has it."
            )


def build_body(
    prompt: WirePrompt,
    sampling: SamplingParams,
    dialect: Dialect,
    *,
    model: str,
    priority: int = 0,
    eos_token_ids: Sequence[int] = (),
    pad_token_id: int | None = None,
) -> dict[str, Any]:
    """The JSON of one attempt; it always streams, so that a cancellation reaches the server.

    Args:
        prompt: What is continued.
        sampling: How; checked before.
        dialect: Whose names are used.
        model: What the server calls the model.
        priority: Higher first; left out where it is 0 or the server has none.
        eos_token_ids, pad_token_id: Where the server must be told them.
    """
    body: dict[str, Any] = {"model": model, "stream": True}
    if dialect.has_usage_in_stream:
        body["stream_options"] = {"include_usage": True}
    body |= _shape_prompt(prompt, dialect)
    if dialect.uses_generation_config:
        config = _shape_generation_config(sampling, dialect, eos_token_ids, pad_token_id)
        body["generation_config"] = json.dumps(config)
        body["max_tokens"] = sampling.max_new_tokens
    else:
        body |= _shape_sampling(sampling, dialect)
    if sampling.seed is not None and sampling.temperature > 0:
        body["seed"] = sampling.seed % (dialect.max_seed + 1)
    if sampling.logprobs:
        # Completions take a number of further tokens to report; 0 is refused by some servers.
        body["logprobs"] = True if prompt.kind == "chat" else 0 if dialect.returns_ids else 1
    if dialect.returns_ids:
        body["return_token_ids"] = True
    if priority and dialect.has_priority:
        body["priority"] = -priority
    return body


def _shape_prompt(prompt: WirePrompt, dialect: Dialect) -> dict[str, Any]:
    if prompt.chat is None:
        return {"prompt": list(prompt.ids) if prompt.ids is not None else prompt.text}
    messages = [{"role": turn.role, "content": turn.content} for turn in prompt.chat.messages]
    shaped: dict[str, Any] = {"messages": messages}
    if prompt.written:
        messages.append({"role": "assistant", "content": prompt.written})
        if dialect.continues == "flag":
            shaped |= {"continue_final_message": True, "add_generation_prompt": False}
    if prompt.chat.enable_thinking is not None:
        shaped["chat_template_kwargs"] = {"enable_thinking": prompt.chat.enable_thinking}
    return shaped


def _shape_sampling(sampling: SamplingParams, dialect: Dialect) -> dict[str, Any]:
    shaped: dict[str, Any] = {}
    for name, wire_name in dialect.fields.items():
        value = getattr(sampling, name)
        if name == "stop" and not dialect.stops_itself:
            continue
        if value == getattr(_NEUTRAL, name) and name not in _ALWAYS_SENT:
            continue
        shaped[wire_name] = _shape_value(name, value, dialect)
    return shaped


def _shape_value(name: str, value: Any, dialect: Dialect) -> Any:
    if name == "top_k":
        return dialect.keeps_all if value is None else value
    if name == "logit_bias":
        return {str(token_id): bias for token_id, bias in value}
    return list(value) if isinstance(value, tuple) else value


def _shape_generation_config(
    sampling: SamplingParams, dialect: Dialect, eos_token_ids: Sequence[int], pad_token_id: int | None
) -> dict[str, Any]:
    """Everything that `generate` reads, since what is sent takes the place of the model's own."""
    config: dict[str, Any] = {
        "max_new_tokens": sampling.max_new_tokens,
        "do_sample": sampling.temperature > 0,
    }
    if sampling.temperature > 0:
        config |= {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or 0,
            "min_p": sampling.min_p or None,
        }
    if sampling.repetition_penalty != 1:
        config["repetition_penalty"] = sampling.repetition_penalty
    if eos_token_ids:
        config["eos_token_id"] = list(eos_token_ids)
    if pad_token_id is not None:
        config["pad_token_id"] = pad_token_id
    return config
