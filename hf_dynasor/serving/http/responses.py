"""`/v1/responses`: one answer to a conversation, whole, streamed, or in the background; kept for later turns."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse, Response

from hf_dynasor.errors import HFDynasorError
from hf_dynasor.serving.http import responses_shapes as shapes
from hf_dynasor.serving.http import sse, wire
from hf_dynasor.serving.http.chat import ChatRun, prepare_chat
from hf_dynasor.serving.http.errors import ApiError, bad_request, translate
from hf_dynasor.serving.http.generation import Update
from hf_dynasor.serving.http.responses_events import EventWriter
from hf_dynasor.serving.http.responses_store import Kept, ResponseStore
from hf_dynasor.serving.http.responses_wire import MessageItem, ResponseRequest
from hf_dynasor.serving.http.settings import Tenant
from hf_dynasor.serving.http.shapes import shape_chat_logprobs
from hf_dynasor.serving.http.state import ServerState

logger = logging.getLogger(__name__)

# Fields of a chat completion, by what they are called here.
_NAMES = {
    "max_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "messages": "input",
    "prompt": "input",
    "logprobs": "include",
}
_SAME = (
    *("model", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "priority", "stream"),
    "chat_template_kwargs",
)


@dataclass(slots=True, kw_only=True)
class ResponseRun:
    """One response on its way.

    Args:
        body: What the client sent.
        chat: The chat completion that answers it.
        store: Where it is kept.
        kept: How it is kept; the answer is added at its end.
    """

    body: ResponseRequest
    chat: ChatRun
    store: ResponseStore
    kept: Kept

    @property
    def name(self) -> str:
        """The response's id."""
        return self.chat.id

    def shape(self, status: str, **more: Any) -> dict[str, Any]:
        """The object as it is now."""
        model, created = self.chat.state.model.name, self.chat.created
        return shapes.shape_response(
            self.body, name=self.name, model=model, created=created, status=status, **more
        )

    def settle(self, status: str, *, error: dict[str, str] | None = None) -> dict[str, Any]:
        """Note how it ended, and keep it where that was asked for."""
        choice = self.chat.choices[0]
        has_text = bool(choice.token_ids)
        item_status = "completed" if status == "completed" else "incomplete"
        output = (
            shapes.list_items(self.name, choice, item_status, self.list_logprobs())
            if has_text or choice.is_done
            else []
        )
        usage = shapes.shape_usage(self.chat.shape_usage()) if choice.is_done else None
        self.kept.row = self.shape(status, output=output, usage=usage, error=error)
        if choice.is_done:
            self.kept.turns.append(wire.ChatMessage(role="assistant", content=choice.content))
        if self.body.store is not False:
            self.store.keep(self.kept)
        return self.kept.row

    def end(self) -> dict[str, Any]:
        """The object of an answer that is there."""
        return self.settle(self.end_status)

    @property
    def end_status(self) -> str:
        """`incomplete` where the limit cut it, else `completed`."""
        limit = self.chat.choices[0].completion.finish_reason.value
        return "incomplete" if limit == "length" else "completed"

    def list_logprobs(self) -> list[Any]:
        """Of all tokens so far, where asked for."""
        choice = self.chat.choices[0]
        return self.shape_logprobs(choice.token_ids, choice.logprobs, choice.top_logprobs)

    def shape_logprobs(self, ids: Any, logprobs: Any, top: Any) -> list[Any]:
        """Log-probabilities of tokens, where asked for."""
        if not self.chat.body.logprobs:
            return []
        shaped = shape_chat_logprobs(self.chat.state.model.tokenizer, ids, logprobs, top)
        return list(shaped["content"])


async def answer_response(
    body: ResponseRequest,
    state: ServerState,
    store: ResponseStore,
    *,
    owner: str,
    now: int,
    tenant: Tenant | None = None,
) -> Response:
    """A response, or its beginning where it runs in the background.

    Raises:
        ApiError: The request cannot be honoured.
    """
    run = prepare_response(body, state, store, owner=owner, now=now, tenant=tenant)
    if body.background:
        return JSONResponse(_start(run))
    updates = run.chat.run()
    if body.stream:
        return await sse.respond(_stream(run, updates), close=updates.aclose, done="")
    async for _ in updates:
        pass
    return JSONResponse(run.end())


def prepare_response(
    body: ResponseRequest,
    state: ServerState,
    store: ResponseStore,
    *,
    owner: str,
    now: int,
    tenant: Tenant | None = None,
) -> ResponseRun:
    """Check everything; nothing runs yet."""
    _check_combinations(body)
    turns = list(store.find(body.previous_response_id, owner).turns) if body.previous_response_id else []
    turns += _list_turns(body)
    try:
        chat = prepare_chat(_make_chat(body, turns), state, now=now, tenant=tenant)
    except ApiError as error:
        error.param = _NAMES.get(error.param or "", error.param)
        raise
    chat.id = f"resp_{uuid.uuid4().hex}"  # not a serial: whoever knows it may continue the conversation
    kept = Kept(row={}, turns=turns, input_items=shapes.shape_input(body), owner=owner)
    return ResponseRun(body=body, chat=chat, store=store, kept=kept)


def _check_combinations(body: ResponseRequest) -> None:
    if body.background and body.stream:
        raise bad_request("background cannot be combined with stream. Leave one out.", param="background")
    if body.background and body.store is False:
        raise bad_request("background needs store: its result is asked for later.", param="store")
    if body.stream_options is not None and not body.stream:
        raise bad_request("stream_options needs stream: true.", param="stream_options")
    if body.top_logprobs and not body.include:
        raise bad_request(
            "top_logprobs needs include: ['message.output_text.logprobs'].", param="top_logprobs"
        )


def _list_turns(body: ResponseRequest) -> list[wire.ChatMessage]:
    if isinstance(body.input, str):
        return [wire.ChatMessage(role="user", content=body.input)]
    turns = [
        wire.ChatMessage(role=item.role, content=wire.join_text(item.content))
        for item in body.input
        if isinstance(item, MessageItem)
    ]
    if not turns:
        raise bad_request("Got no message but expected at least one.", param="input")
    return turns


def _make_chat(body: ResponseRequest, turns: list[wire.ChatMessage]) -> wire.ChatRequest:
    head = [wire.ChatMessage(role="system", content=body.instructions)] if body.instructions else []
    options = wire.DynasorOptions.model_validate(body.dynasor.model_dump()) if body.dynasor else None
    return wire.ChatRequest(
        messages=[*head, *turns],
        max_completion_tokens=body.max_output_tokens,
        logprobs=True if body.include else None,
        top_logprobs=body.top_logprobs if body.include else None,
        reasoning_effort=body.reasoning.effort if body.reasoning else None,
        dynasor=options,
        **{name: getattr(body, name) for name in _SAME},
    )


def _start(run: ResponseRun) -> dict[str, Any]:
    """Begin in the background; the object as it is now."""
    run.chat.state.check_ready()
    run.store.check_room()
    run.kept.row = run.shape("queued")
    task = asyncio.ensure_future(_work(run))
    run.kept.task = task
    run.store.keep(run.kept)
    run.store.watch(task)
    return run.kept.row


async def _work(run: ResponseRun) -> None:
    try:
        async for _ in run.chat.run():
            run.kept.row["status"] = "in_progress"
        row = run.end()
    except asyncio.CancelledError:
        row = run.shape("cancelled")
    except HFDynasorError as error:
        row = run.settle("failed", error=_describe(translate(error)))
    except ApiError as error:
        row = run.settle("failed", error=_describe(error))
    except Exception as error:  # a fault of ours must not leave it running for ever
        logger.exception("Response %s failed.", run.name)
        row = run.settle("failed", error={"code": "server_error", "message": type(error).__name__})
    run.kept.row = row
    run.kept.task = None


async def cancel(kept: Kept) -> dict[str, Any]:
    """End a response that runs in the background; one that has ended stays as it is.

    Raises:
        ApiError: 400, it was never in the background.
    """
    if not kept.row["background"]:
        raise bad_request(
            "Only responses that run in the background can be cancelled. Close the connection of others.",
            param="response_id",
        )
    if kept.task is not None:
        kept.task.cancel()
        await asyncio.gather(kept.task, return_exceptions=True)
        if kept.task is not None:  # it was cancelled before it began
            kept.row, kept.task = kept.row | {"status": "cancelled"}, None
    return kept.row


async def _stream(run: ResponseRun, updates: AsyncGenerator[Update, None]) -> AsyncGenerator[str, None]:
    await anext(updates)  # let in: what fails before is a plain error with its status
    writer = EventWriter(run.name)
    yield writer.write("response.created", response=run.shape("in_progress"))
    yield writer.write("response.in_progress", response=run.shape("in_progress"))
    try:
        async for event in _follow(run, updates, writer):
            yield event
    except (ApiError, HFDynasorError) as error:
        failure = error if isinstance(error, ApiError) else translate(error)
        row = run.settle("failed", error=_describe(failure))
        yield writer.write("response.failed", response=row)
        return
    for event in writer.close(run.end_status):
        yield event
    yield writer.write(f"response.{run.end_status}", response=run.end())


async def _follow(
    run: ResponseRun, updates: AsyncGenerator[Update, None], writer: EventWriter
) -> AsyncGenerator[str, None]:
    state = run.chat.state
    last_sent = state.clock.now()
    async for update in updates:
        if update.choice is None:
            if state.clock.now() - last_sent >= state.settings.keep_alive_s:
                last_sent = state.clock.now()
                yield sse.KEEP_ALIVE
            continue
        piece = update.piece
        logprobs = run.shape_logprobs(piece.token_ids, piece.logprobs, piece.top_logprobs)
        for event in writer.take(update.split, logprobs):
            last_sent = state.clock.now()
            yield event


def _describe(error: ApiError) -> dict[str, str]:
    code = "rate_limit_exceeded" if error.status == 429 else "server_error"
    return {"code": code, "message": error.message}
