"""The stream of a completions request: chunks in OpenAI's shape, plain ones encoded but for their text."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Any

from hf_dynasor.serving.http import shapes, sse
from hf_dynasor.serving.http.generation import Choice, Update
from hf_dynasor.serving.http.streaming import StreamShape, stream_updates

if TYPE_CHECKING:
    from hf_dynasor.serving.http.completions import CompletionRun


def stream_completion(run: CompletionRun, updates: AsyncIterator[Update]) -> AsyncGenerator[str, None]:
    """The completion's events; nothing runs before the first is asked for."""
    options, body = run.body.stream_options, run.body
    is_continuous = options is not None and options.continuous_usage_stats
    is_plain = not is_continuous and body.logprobs is None and not body.return_token_ids
    texts = [
        sse.TextEvents(run.shape_envelope([_shape_piece(choice, "")]), ("choices", 0, "text"))
        for choice in run.choices
    ]

    def open_stream() -> list[str]:
        if not body.echo:
            return []
        return [texts[choice.index].encode(run.echoes[choice.index // body.n]) for choice in run.choices]

    def shape(update: Update) -> list[str]:
        choice = update.choice
        assert choice is not None
        if is_plain and not choice.is_done:
            content = update.split.content
            return [texts[choice.index].encode(content)] if content else []
        row = _shape_update(run, update)
        if row is None:
            return []
        if is_continuous:
            row["usage"] = _shape_running_usage(run)
        return [sse.encode_event(row)]

    def close_stream() -> list[str]:
        if options is None or not options.include_usage:
            return []
        return [sse.encode_event(run.shape_envelope([], usage=run.shape_usage()))]

    shaped = StreamShape(opening=open_stream, each=shape, closing=close_stream)
    return stream_updates(run.state, updates, shaped)


def _shape_update(run: CompletionRun, update: Update) -> dict[str, Any] | None:
    choice, piece = update.choice, update.piece
    assert choice is not None
    wants_tokens = run.body.logprobs is not None or run.body.return_token_ids  # also those without a text
    if not (update.split.content or choice.is_done or (piece.token_ids and wants_tokens)):
        return None
    row = _shape_piece(choice, update.split.content)
    if choice.is_done:
        row |= {
            "finish_reason": shapes.name_finish(choice.completion),
            "stop_reason": run.name_stop(choice),
        }
    if run.body.logprobs is not None and piece.logprobs:
        offset = len(choice.content) - len(update.split.content)
        row["logprobs"] = shapes.shape_text_logprobs(
            run.state.model.tokenizer, piece.token_ids, piece.logprobs, piece.top_logprobs, offset=offset
        )
    if run.body.return_token_ids:
        row["token_ids"] = list(piece.token_ids)
    return run.shape_envelope([row])


def _shape_piece(choice: Choice, text: str) -> dict[str, Any]:
    return {"index": choice.index, "text": text, "finish_reason": None, "logprobs": None}


def _shape_running_usage(run: CompletionRun) -> dict[str, Any]:
    prompt, num_sent = sum(map(len, run.prompts)), sum(len(choice.token_ids) for choice in run.choices)
    return {"prompt_tokens": prompt, "completion_tokens": num_sent, "total_tokens": prompt + num_sent}
