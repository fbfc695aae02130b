"""OpenAI's JSON of a response: the object, its items, its usage. Knows no engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_dynasor.serving.http.generation import Choice
from hf_dynasor.serving.http.responses_wire import MessageItem, ResponseRequest


def shape_response(
    body: ResponseRequest,
    *,
    name: str,
    model: str,
    created: int,
    status: str,
    output: Sequence[dict[str, Any]] = (),
    usage: dict[str, Any] | None = None,
    error: dict[str, str] | None = None,
) -> dict[str, Any]:
    """The object, with the request's own settings in it.

    Args:
        body: What was asked.
        name: The response's id.
        model: What the model is called.
        created: Unix seconds.
        status: `queued`, `in_progress`, `completed`, `incomplete`, `failed` or `cancelled`.
        output: Its items so far.
        usage: The token account, once it has ended.
        error: Code and message, where it failed.
    """
    return {
        "id": name,
        "object": "response",
        "created_at": created,
        "status": status,
        "background": bool(body.background),
        "error": error,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "model": model,
        "output": list(output),
        "parallel_tool_calls": False,
        "previous_response_id": body.previous_response_id,
        "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
        "store": body.store is not False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": {"type": "text"}},
        "tool_choice": body.tool_choice or "auto",
        "tools": [],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "usage": usage,
        "user": body.user,
    }


def shape_usage(chat_usage: dict[str, Any]) -> dict[str, Any]:
    """The account of a chat completion, by the names of this API."""
    return {
        "input_tokens": chat_usage["prompt_tokens"],
        "input_tokens_details": chat_usage["prompt_tokens_details"],
        "output_tokens": chat_usage["completion_tokens"],
        "output_tokens_details": chat_usage["completion_tokens_details"],
        "total_tokens": chat_usage["total_tokens"],
        "dynasor": chat_usage["dynasor"],
    }


def list_items(name: str, choice: Choice, status: str, logprobs: Sequence[Any] = ()) -> list[dict[str, Any]]:
    """The items of an answer: the thinking where there was some, then the message."""
    items = []
    if choice.reasoning:
        items.append(shape_reasoning(name, status, [shape_part("reasoning_text", choice.reasoning)]))
    if choice.content or not choice.reasoning:
        part = shape_part("output_text", choice.content, logprobs)
        items.append(shape_message(name, status, [part]))
    return items


def shape_reasoning(name: str, status: str, content: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """An item of thinking."""
    return {
        "id": name_item(name, "rs"),
        "type": "reasoning",
        "summary": [],
        "content": list(content),
        "status": status,
    }


def shape_message(name: str, status: str, content: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """An item of answer."""
    return {
        "id": name_item(name, "msg"),
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": list(content),
    }


def shape_part(kind: str, text: str, logprobs: Sequence[Any] = ()) -> dict[str, Any]:
    """A piece of an item."""
    if kind == "reasoning_text":
        return {"type": kind, "text": text}
    return {"type": kind, "text": text, "annotations": [], "logprobs": list(logprobs)}


def shape_input(body: ResponseRequest) -> list[dict[str, Any]]:
    """What was asked, as items with ids of their own."""
    items = (
        [MessageItem.model_validate({"role": "user", "content": body.input})]
        if isinstance(body.input, str)
        else list(body.input)
    )
    rows = []
    for place, item in enumerate(items):
        row = item.model_dump(exclude_none=True)
        if isinstance(item, MessageItem):
            row |= {"type": "message", "status": "completed", "content": _shape_input_parts(item)}
        rows.append(row | {"id": row.get("id") or f"in_{place}"})
    return rows


def _shape_input_parts(item: MessageItem) -> list[dict[str, Any]]:
    texts = [item.content] if isinstance(item.content, str) else [part.text for part in item.content]
    if item.role == "assistant":
        return [shape_part("output_text", text) for text in texts]
    return [{"type": "input_text", "text": text} for text in texts]


def name_item(name: str, prefix: str) -> str:
    """The id of an item, made from its response's."""
    return f"{prefix}_{name.partition('_')[2]}"
