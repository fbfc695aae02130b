"""Server-sent events: data lines, comments that keep a connection alive, errors inside a stream, `[DONE]`."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from hf_dynasor.errors import HFDynasorError
from hf_dynasor.serving.http.errors import ApiError, translate

_MARK = "\0text\0"
KEEP_ALIVE = ": keep-alive\n\n"
DONE = "data: [DONE]\n\n"
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))  # `json.dumps` makes one for each call
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def encode_event(row: dict[str, Any], event: str | None = None) -> str:
    """One event with a JSON body."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {_ENCODER.encode(row)}\n\n"


class TextEvents:
    """Events that differ in one text only, as those of a choice do: the rest is encoded once.

    Args:
        row: The event with an empty text in the place of its own.
        path: Where in the row the text stands.
    """

    def __init__(self, row: dict[str, Any], path: Sequence[str | int]) -> None:
        place: Any = row
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = _MARK
        self._head, self._tail = encode_event(row).split(_ENCODER.encode(_MARK))

    def encode(self, text: str) -> str:
        """The event with this text."""
        return f"{self._head}{_ENCODER.encode(text)}{self._tail}"


async def guard(events: AsyncIterator[str], *, done: str = DONE) -> AsyncIterator[str]:
    """The events, then the end; an error after the first byte is an event of its own, and then the end."""
    try:
        async for event in events:
            yield event
    except ApiError as error:
        yield encode_event(error.to_dict())
    except HFDynasorError as error:
        yield encode_event(translate(error).to_dict())
    if done:
        yield done


class EventResponse(StreamingResponse):
    """A stream that is closed whatever ends it: its end, an error, a client that went away or never reads."""

    def __init__(self, events: AsyncGenerator[str, None], close: Callable[[], Awaitable[None]]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=HEADERS)
        self._events, self._close = events, close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, then close."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()
            await self._close()


async def respond(
    events: AsyncGenerator[str, None], *, close: Callable[[], Awaitable[None]], done: str = DONE
) -> EventResponse:
    """A streaming response that began: what fails before the first event is still a plain error with its status.

    Args:
        events: Encoded events.
        close: Called once the stream is over, to let go of what feeds it.
        done: What is written at the end.
    """
    try:
        first = await anext(events, "")
    except BaseException:
        await close()
        raise

    async def body() -> AsyncGenerator[str, None]:
        if first:
            yield first
        async for event in guard(events, done=done):
            yield event

    return EventResponse(body(), close)
