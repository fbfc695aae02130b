"""Ends a handler whose client went away. Streams notice by themselves; whole answers have to be watched."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

CLIENT_CLOSED = 499
_INTERVAL_S = 0.5


async def until_disconnect(request: Request, handler: Coroutine[Any, Any, Response]) -> Response:
    """Run a handler; cancel it, and with it its requests, once the client is gone."""
    task = asyncio.ensure_future(handler)
    try:
        while True:
            done, _ = await asyncio.wait({task}, timeout=_INTERVAL_S)
            if done:
                return task.result()
            if await request.is_disconnected():
                return Response(status_code=CLIENT_CLOSED)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
