"""From a client's fields to sampling settings, prompts and rules. What cannot be honoured is a 400 with its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hf_dynasor.core import Chat, Message, Prompt, SamplingParams, TokenIds
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.program import derive_seed
from hf_dynasor.serving.http import wire
from hf_dynasor.serving.http.errors import bad_request
from hf_dynasor.serving.http.settings import ServerSettings
from hf_dynasor.stopping import EFFORTS, AnswerConsistency, AnyOf, StoppingRule, ThinkingBudget

# Thinking tokens of each effort; `high` and `xhigh` set no limit.
REASONING_EFFORTS: dict[str, int | None] = {
    "none": 0,
    "minimal": 64,
    "low": 256,
    "medium": 1024,
    "high": None,
    "xhigh": None,
}


def build_sampling(
    body: wire.Sampling,
    *,
    room: int,
    max_new_tokens: int | None,
    num_logprobs: int | None,
    vocabulary_size: int,
) -> SamplingParams:
    """How each choice is decoded.

    Args:
        body: The client's fields.
        room: Tokens that prompt and model leave for the answer.
        max_new_tokens: What the client asked for; `None` takes all the room there is.
        num_logprobs: How many likeliest tokens to report; `None` reports no log-probabilities at all.
        vocabulary_size: Ids that there are.

    Raises:
        ApiError: 400 for a value that cannot work.
    """
    limit = room if max_new_tokens is None else max_new_tokens
    if limit > room:
        raise bad_request(
            f"Got a limit of {limit} tokens but the prompt leaves room for {room}. Ask for fewer, or shorten it.",
            param="max_tokens",
            code="context_length_exceeded",
        )
    bias = _read_bias(body.logit_bias)
    _check_ids("logit_bias", [token_id for token_id, _ in bias], vocabulary_size)
    _check_ids("stop_token_ids", body.stop_token_ids or [], vocabulary_size)
    values: dict[str, Any] = {
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k if body.top_k and body.top_k > 0 else None,
        "min_p": body.min_p,
        "presence_penalty": body.presence_penalty,
        "frequency_penalty": body.frequency_penalty,
        "repetition_penalty": body.repetition_penalty,
        "stop_token_ids": tuple(body.stop_token_ids or ()) or None,
        "ignore_eos": body.ignore_eos,
        "min_new_tokens": body.min_tokens,
        "seed": body.seed,
        "stop": _read_stop(body.stop) or None,
        "logit_bias": bias or None,
    }
    given = {name: value for name, value in values.items() if value is not None}
    wanted: dict[str, Any] = (
        {} if num_logprobs is None else {"logprobs": True, "num_top_logprobs": num_logprobs}
    )
    try:
        return SamplingParams(max_new_tokens=limit, **given, **wanted)
    except ConfigurationError as error:
        raise bad_request(str(error).replace("self.", ""), code="invalid_value") from None


def seed_choice(sampling: SamplingParams, index: int) -> SamplingParams:
    """The settings of one choice: the first keeps the request's seed, the others get seeds made from it."""
    return sampling if index == 0 else replace(sampling, seed=derive_seed(sampling.seed, "choice", index))


def build_chat_prompt(messages: Sequence[wire.ChatMessage], options: wire.TemplateOptions | None) -> Prompt:
    """The conversation, to be rendered by the model's own template."""
    turns = tuple(
        Message(
            role="system" if message.role == "developer" else message.role,
            content=wire.join_text(message.content),
        )
        for message in messages
    )
    return Prompt((Chat(messages=turns, enable_thinking=options.enable_thinking if options else None),))


def list_prompts(prompt: str | list[str] | list[int] | list[list[int]]) -> list[Prompt]:
    """The prompts of a completions request: a text, ids, or a list of either.

    Raises:
        ApiError: 400, an empty prompt or a mixed list.
    """
    if isinstance(prompt, str):
        return [_make_prompt(prompt)]
    if not prompt:
        raise bad_request("Got an empty list of prompts but expected at least one.", param="prompt")
    if isinstance(prompt[0], int):
        return [_make_prompt(prompt)]
    return [_make_prompt(item) for item in prompt]


def build_rule(
    body: wire.ChatRequest | wire.CompletionRequest, switch: StoppingRule | None = None
) -> StoppingRule | None:
    """When the thinking of a choice ends besides by itself; `None` where nothing asks for that.

    Args:
        body: The client's fields.
        switch: A rule that is always there, such as one that a client can throw while the request runs.
    """
    rules: list[StoppingRule] = [] if switch is None else [switch]
    if isinstance(body, wire.ChatRequest):
        budget = body.thinking_token_budget
        if budget is None and body.reasoning_effort is not None:
            budget = REASONING_EFFORTS[body.reasoning_effort]
        if budget is not None:
            rules.append(ThinkingBudget(maximum=max(1, budget)))
        if body.dynasor is not None and body.dynasor.saving_effort is not None:
            rules.append(EFFORTS[body.dynasor.saving_effort])
    elif body.adaptive_compute is not None:
        asked = body.adaptive_compute
        rules.append(AnswerConsistency(window=asked.certainty_window, interval=asked.token_interval))
    if not rules:
        return None
    return rules[0] if len(rules) == 1 else AnyOf(rules=tuple(rules))


def check_counts(settings: ServerSettings, body: wire.Sampling, num_prompts: int = 1) -> None:
    """Raise 400 where a request asks for more at once than the server allows."""
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    for param, value, limit in (
        ("n", body.n, settings.max_choices),
        ("prompt", num_prompts, settings.max_prompts),
        ("stop", len(stops), settings.max_stop_strings),
    ):
        if value > limit:
            raise bad_request(f"Got {value} for {param} but this server allows at most {limit}.", param=param)
    if body.n > 1 and body.temperature == 0:
        raise bad_request(
            f"Got n = {body.n} with temperature 0: all choices would be the same. Expected a temperature above 0.",
            param="n",
        )


def _check_ids(param: str, ids: Sequence[int], size: int) -> None:
    if (outside := next((i for i in ids if i >= size), None)) is not None:
        raise bad_request(
            f"Got token id {outside} in {param} but the vocabulary has ids 0 to {size - 1}.", param=param
        )


def _make_prompt(item: str | list[int]) -> Prompt:
    if not item:
        raise bad_request("Got an empty prompt but expected some text or token ids.", param="prompt")
    if isinstance(item, str):
        return Prompt.plain(item)
    return Prompt((TokenIds(ids=tuple(item)),))


def _read_stop(stop: str | list[str] | None) -> tuple[str, ...]:
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def _read_bias(bias: dict[str, float] | None) -> tuple[tuple[int, float], ...]:
    pairs = []
    for key, value in (bias or {}).items():
        if not key.isdecimal():
            raise bad_request(f"Got the logit_bias key {key!r} but expected a token id.", param="logit_bias")
        pairs.append((int(key), value))
    return tuple(pairs)
