"""What every request passes before a handler sees it: its id, its size, its key, its rate. Plain ASGI, no framework."""

from __future__ import annotations

import hmac
import json
import logging
import re
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hf_dynasor.clock import Clock
from hf_dynasor.serving.http.errors import ApiError, overloaded
from hf_dynasor.serving.http.settings import ServerSettings, Tenant

logger = logging.getLogger("hf_dynasor.access")

OPEN_PATHS = frozenset(
    {
        *("/health", "/ready", "/version"),
        *("/", "/page/index.html", "/page/page.css", "/page/page.js", "/page/icon.svg"),
    }
)
"""Paths that need no key: load balancers ask them, and browsers load the page, which then shows its user's key."""

_MAX_CALLERS = 10_000
_ID = re.compile(r"[\x21-\x7e]{1,200}")


class RequestIds:
    """Gives each request an id, the client's own where it sent a plain one, and says it in the answer and the log."""

    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self._app, self._clock = app, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope).get("x-request-id", "")
        name = asked if _ID.fullmatch(asked) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = name
        begin, status = self._clock.now(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = name
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            row = {
                "request_id": name,
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "seconds": round(self._clock.now() - begin, 6),
            }
            logger.info(json.dumps(row))


class BodyLimit:
    """Refuses bodies that are too large, told or not, before they fill the memory."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on while it is small enough."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = Headers(scope=scope).get("content-length", "0")
        if told.isdecimal() and int(told) > self._max_bytes:
            await _refuse(self._make_error(), send)
            return
        num_bytes, has_answered = 0, False

        async def receive_counted() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_bytes:
                raise _TooLarge
            return message

        async def send_noted(message: Message) -> None:
            nonlocal has_answered
            has_answered = True
            await send(message)

        try:
            await self._app(scope, receive_counted, send_noted)
        except _TooLarge:
            if not has_answered:
                await _refuse(self._make_error(), send)

    def _make_error(self) -> ApiError:
        return ApiError(
            status=413,
            message=f"The body is larger than {self._max_bytes} bytes.",
            code="request_too_large",
        )


class _TooLarge(Exception):
    """A body that grew past the limit."""


class HeadRequests:
    """Answers HEAD as GET without the body: load balancers ask so."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self._app({**scope, "method": "GET"}, receive, send_head)


@dataclass(slots=True)
class _Caller:
    """One key's (or address's) bucket of requests and how many it has in flight."""

    name: str
    tokens: float
    filled_at: float
    num_running: int = field(default=0)


class Gate:
    """Asks for a key and keeps each caller within its rate and its number of requests in flight."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, clock: Clock) -> None:
        self._app, self._settings, self._clock = app, settings, clock
        self._callers: OrderedDict[str, _Caller] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on if its caller may."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or scope["method"] == "OPTIONS":
            await self._app(scope, receive, send)
            return
        try:
            name, key = self._identify(scope)
            caller = self._find_caller(name)
            self._take_turn(caller)
        except ApiError as error:
            await _refuse(error, send)
            return
        told = scope.setdefault("state", {})
        told["tenant"] = self._settings.tenants.get(key, Tenant(name=caller.name))
        if self._settings.api_keys:
            told["caller"] = caller.name
        caller.num_running += 1
        try:
            await self._app(scope, receive, send)
        finally:
            caller.num_running -= 1

    def _identify(self, scope: Scope) -> tuple[str, str]:
        """The caller's name (its key's place among the keys, or its address), and its key.

        Every key is compared, in constant time, so that the time tells nothing of any of them.
        """
        keys = self._settings.api_keys
        if not keys:
            return str((scope.get("client") or ("",))[0]), ""
        shown = Headers(scope=scope).get("authorization", "")
        offered = shown[7:].strip() if shown[:7].lower() == "bearer " else ""
        matches = [hmac.compare_digest(offered.encode(), key.encode()) for key in keys]
        if not any(matches):
            raise ApiError(
                status=401,
                message="No API key, or a wrong one. Send the header Authorization: Bearer KEY.",
                type="authentication_error",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        place = matches.index(True)
        return f"key-{place}", keys[place]

    def _find_caller(self, name: str) -> _Caller:
        caller = self._callers.get(name)
        if caller is None:
            limit = float(self._settings.requests_per_minute or 0)
            caller = self._callers[name] = _Caller(name, limit, self._clock.now())
        self._callers.move_to_end(name)
        while len(self._callers) > _MAX_CALLERS:
            self._callers.popitem(last=False)
        return caller

    def _take_turn(self, caller: _Caller) -> None:
        settings, now = self._settings, self._clock.now()
        most = settings.max_concurrent_per_key
        if most is not None and caller.num_running >= most:
            raise overloaded(f"{most} requests of this key are in flight already.", retry_after_s=1)
        rate = settings.requests_per_minute
        if rate is None:
            return
        caller.tokens = min(float(rate), caller.tokens + (now - caller.filled_at) * rate / 60)
        caller.filled_at = now
        if caller.tokens < 1:
            wait = (1 - caller.tokens) * 60 / rate
            raise overloaded(f"More than {rate} requests a minute.", retry_after_s=int(wait) + 1)
        caller.tokens -= 1


async def _refuse(error: ApiError, send: Send) -> None:
    body = json.dumps(error.to_dict()).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body))} | error.headers
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
