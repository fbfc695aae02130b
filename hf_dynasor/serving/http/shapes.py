"""OpenAI's JSON: choices, chunks, usage, log-probabilities. Knows no engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hf_dynasor.core import Completion, FinishReason, TopLogprobs, Usage

_FINISH = {
    FinishReason.EOS: "stop",
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.CANCELLED: "abort",
    FinishReason.FAILED: "error",
}


def name_finish(completion: Completion) -> str:
    """OpenAI's word for why a choice ended."""
    return _FINISH[completion.finish_reason]


def name_stop(
    completion: Completion, stop: Sequence[str], stop_token_ids: Sequence[int], tokenizer: Any
) -> str | int | None:
    """vLLM's `stop_reason`: the stop string or token id that ended a choice; `None` where it ended otherwise."""
    if completion.finish_reason is not FinishReason.STOP:
        return None
    if completion.token_ids and completion.token_ids[-1] in stop_token_ids:
        return completion.token_ids[-1]
    if len(stop) <= 1:
        return next(iter(stop), None)
    text = str(tokenizer.decode(list(completion.token_ids), skip_special_tokens=False))
    found = [(place, item) for item in stop if (place := text.find(item)) >= 0]
    return min(found)[1] if found else stop[0]


def shape_usage(
    usage: Usage, *, num_prompt: int, num_reasoning: int = 0, num_saved: int | None = None
) -> dict[str, Any]:
    """The token account. `completion_tokens` is what the client reads; probes and rewards stand beside it.

    Args:
        usage: All tokens of the request.
        num_prompt: Tokens of the prompt as the client sent it, once however many choices it has.
        num_reasoning: Tokens of the thinking.
        num_saved: Estimated tokens that stopping early saved; `None` where nothing could stop.
    """
    completion = usage.sampled + usage.forced
    extra: dict[str, Any] = {
        "net_tokens": usage.net_tokens,
        "probe_tokens": usage.probe,
        "forced_tokens": usage.forced,
        "reward_tokens": usage.reward,
    }
    if num_saved is not None:
        extra["saved_tokens"] = num_saved
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": completion,
        "total_tokens": num_prompt + completion,
        "prompt_tokens_details": {"cached_tokens": min(usage.cached, num_prompt)},
        "completion_tokens_details": {"reasoning_tokens": num_reasoning},
        "dynasor": extra,
    }


def shape_chat_logprobs(
    tokenizer: Any, ids: Sequence[int], logprobs: Sequence[float], top: Sequence[TopLogprobs]
) -> dict[str, Any]:
    """The `logprobs` of a chat choice."""
    content = []
    for index, (token_id, logprob) in enumerate(zip(ids, logprobs, strict=True)):
        entry = _shape_token(tokenizer, token_id, logprob)
        entry["top_logprobs"] = [_shape_token(tokenizer, *pair) for pair in top[index]] if top else []
        content.append(entry)
    return {"content": content, "refusal": None}


def shape_text_logprobs(
    tokenizer: Any,
    ids: Sequence[int],
    logprobs: Sequence[float | None],
    top: Sequence[TopLogprobs | None],
    *,
    offset: int = 0,
) -> dict[str, Any]:
    """The `logprobs` of a completions choice; the first token of an echoed prompt has none."""
    tokens = [_decode(tokenizer, token_id) for token_id in ids]
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": list(logprobs),
        "top_logprobs": [_shape_top(tokenizer, pairs) for pairs in top] if any(top) else None,
        "text_offset": offsets,
    }


def _shape_top(tokenizer: Any, pairs: TopLogprobs | None) -> dict[str, float] | None:
    if pairs is None:
        return None
    shaped: dict[str, float] = {}
    for token_id, logprob in pairs:
        shaped.setdefault(_decode(tokenizer, token_id), logprob)
    return shaped


def _shape_token(tokenizer: Any, token_id: int, logprob: float) -> dict[str, Any]:
    text = _decode(tokenizer, token_id)
    return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "replace"))}


def _decode(tokenizer: Any, token_id: int) -> str:
    return str(tokenizer.decode([token_id], skip_special_tokens=False))


def drop_nothing(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row without the fields that are not there (`None` fields that OpenAI always sends are kept by name)."""
    kept = {"finish_reason", "logprobs", "stop_reason", "usage"}
    return {name: value for name, value in row.items() if value is not None or name in kept}
