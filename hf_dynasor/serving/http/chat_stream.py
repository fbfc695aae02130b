"""The stream of a chat completion: chunks in OpenAI's shape, text ones encoded but for their text."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Any

from hf_dynasor.serving.http import shapes, sse
from hf_dynasor.serving.http.generation import Choice, Update
from hf_dynasor.serving.http.reasoning import Split
from hf_dynasor.serving.http.streaming import StreamShape, stream_updates

if TYPE_CHECKING:
    from hf_dynasor.serving.http.chat import ChatRun


def stream_chat(run: ChatRun, updates: AsyncIterator[Update]) -> AsyncGenerator[str, None]:
    """The completion's events; nothing runs before the first is asked for."""
    options, body = run.body.stream_options, run.body
    is_continuous = options is not None and options.continuous_usage_stats
    is_plain = not (is_continuous or body.logprobs or body.return_token_ids)
    texts = [_TextChunks(run, choice) for choice in run.choices]

    def open_stream() -> list[str]:
        role = {"role": "assistant", "content": ""}
        return [sse.encode_event(_shape_chunk(run, choice, role)) for choice in run.choices]

    def shape(update: Update) -> list[str]:
        choice = update.choice
        assert choice is not None
        if is_plain and not choice.is_done:
            return texts[choice.index].encode(update.split)
        more = {"usage": run.shape_running_usage()} if is_continuous else {}
        return [sse.encode_event(row | more) for row in _list_chunks(run, update, choice)]

    def close_stream() -> list[str]:
        if options is None or not options.include_usage:
            return []
        return [sse.encode_event(_shape_envelope(run, [], usage=run.shape_usage()))]

    shaped = StreamShape(opening=open_stream, each=shape, closing=close_stream)
    return stream_updates(run.state, updates, shaped)


class _TextChunks:
    """Chunks of a choice that hold text and nothing else: nearly all of them."""

    def __init__(self, run: ChatRun, choice: Choice) -> None:
        self._content, self._reasoning = (
            sse.TextEvents(_shape_chunk(run, choice, {name: ""}), ("choices", 0, "delta", name))
            for name in ("content", "reasoning_content")
        )

    def encode(self, split: Split) -> list[str]:
        """No event where there is no text."""
        events = [self._reasoning.encode(split.reasoning)] if split.reasoning else []
        return [*events, self._content.encode(split.content)] if split.content else events


def _list_chunks(run: ChatRun, update: Update, choice: Choice) -> list[dict[str, Any]]:
    piece, split = update.piece, update.split
    delta: dict[str, Any] = {}
    if split.reasoning:
        delta["reasoning_content"] = split.reasoning
    if split.content:
        delta["content"] = split.content
    rows = []
    wants_tokens = run.body.return_token_ids and piece.token_ids
    if delta or wants_tokens or (run.body.logprobs and piece.logprobs):
        row = _shape_chunk(run, choice, delta)
        if run.body.logprobs:
            row["choices"][0]["logprobs"] = run.shape_logprobs(
                piece.token_ids, piece.logprobs, piece.top_logprobs
            )
        if wants_tokens:
            row["choices"][0]["token_ids"] = list(piece.token_ids)
        rows.append(row)
    if choice.is_done:
        end = _shape_chunk(run, choice, {}, finish=shapes.name_finish(choice.completion))
        rows.append(end | run.shape_deadline())
    return rows


def _shape_chunk(
    run: ChatRun, choice: Choice, delta: dict[str, Any], *, finish: str | None = None
) -> dict[str, Any]:
    row = {"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": finish}
    return _shape_envelope(run, [row])


def _shape_envelope(run: ChatRun, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "id": run.id,
        "object": "chat.completion.chunk",
        "created": run.created,
        "model": run.state.model.name,
        "choices": choices,
        **more,
    }
