"""An ASGI app behind a stream of messages: how a replica answers requests that came in at another process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, MutableMapping
from contextlib import suppress
from typing import Any

from starlette.types import ASGIApp

MAX_MESSAGES = 256
"""Messages that wait for a slow reader; then the app waits, too."""

LEAVE_S = 10.0
"""Seconds that an app gets to end once its client went away."""


async def stream_messages(
    app: ASGIApp, scope: dict[str, Any], body: bytes
) -> AsyncGenerator[MutableMapping[str, Any], None]:
    """What the app sends for a request, message by message. Closing the stream tells the app that the client left.

    Args:
        app: Answers.
        scope: The request's ASGI scope.
        body: Its whole body.
    """
    messages: asyncio.Queue[MutableMapping[str, Any] | None] = asyncio.Queue(MAX_MESSAGES)
    has_left, is_read = asyncio.Event(), False

    async def receive() -> MutableMapping[str, Any]:
        nonlocal is_read
        if not is_read:
            is_read = True
            return {"type": "http.request", "body": body, "more_body": False}
        await has_left.wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        if has_left.is_set():
            raise OSError("The client went away.")
        await messages.put(message)

    async def run() -> None:
        try:
            await app(scope, receive, send)
        finally:
            if not has_left.is_set():
                await messages.put(None)

    task = asyncio.ensure_future(run())
    try:
        while (message := await messages.get()) is not None:
            yield message
        await task
    finally:
        has_left.set()
        while not messages.empty():  # lets an app go on that waits for room
            messages.get_nowait()
        with suppress(asyncio.TimeoutError, OSError):
            await asyncio.wait_for(task, LEAVE_S)


__all__ = ["stream_messages"]
