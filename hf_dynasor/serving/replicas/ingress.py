"""Where requests come in: each is read once, sent to one replica, and answered as that replica answers."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import re
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from hf_dynasor.serving.http import sse
from hf_dynasor.serving.http.errors import ApiError, unavailable
from hf_dynasor.serving.replicas.account import Account
from hf_dynasor.serving.replicas.hints import Hint, find_answer_id, read_hint
from hf_dynasor.serving.replicas.metrics import merge_metrics

logger = logging.getLogger(__name__)

REPLICA_HEADER = "x-replica"
MAX_TRIES = 3
"""Replicas that a request is offered to, as long as none has begun to answer."""

ASK_S = 5.0
"""Seconds that a replica gets to tell its metrics."""

_TAIL = 4096
_TOKENS = re.compile(rb'"completion_tokens": ?(\d+)')

_SCOPE = (
    "type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path", "headers",
    "client", "server",
)  # fmt: skip
_REPEATABLE = ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize")
"""What may be asked of another replica when one died before it answered: it leaves nothing behind."""

Call = Callable[[Hint, dict[str, Any], bytes], Any]
"""Calls `Replica.handle` where the hint says; what comes back is iterated, and cancelled by `cancel`."""


class _Gone(Exception):
    """The replica died.

    Args:
        replica: Its name, where one was chosen.
        why: What was raised.
    """

    def __init__(self, replica: str, why: str) -> None:
        super().__init__(why)
        self.replica = replica


class Ingress:
    """A starlette handler over replicas.

    Args:
        call: Reaches a replica.
        account: Who is there.
        max_body_bytes: Largest body; then 413.
        lost: What a call raises when its replica is gone.
    """

    def __init__(
        self, call: Call, account: Account, *, max_body_bytes: int, lost: tuple[type[Exception], ...]
    ) -> None:
        self._call, self._account = call, account
        self._max_body_bytes, self._lost = max_body_bytes, lost
        self._serials = itertools.count()

    async def answer(self, request: Request) -> Response:
        """One request."""
        try:
            if request.url.path == "/replicas":
                return JSONResponse(await self._describe())
            if request.url.path == "/metrics":
                return await self._collect_metrics(request)
            body = await self._read_body(request)
            return await self._pass_on(request, body)
        except ApiError as error:
            return JSONResponse(error.to_dict(), error.status, headers=error.headers)
        except ClientDisconnect:
            return Response(status_code=499)

    async def _pass_on(self, request: Request, body: bytes) -> Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        hint = read_hint(
            uuid.uuid4().hex, next(self._serials), request.method, request.url.path, headers, body
        )
        scope = _copy_scope(request)
        may_repeat = request.method in ("GET", "HEAD") or request.url.path in _REPEATABLE
        for attempt in range(MAX_TRIES):
            answer = _Answer(self._call, self._account, hint, scope, body, self._lost)
            try:
                owner = await answer.begin()
            except _Gone as error:
                logger.warning("A replica was lost under %s %s: %s", request.method, request.url.path, error)
                if may_repeat and attempt + 1 < MAX_TRIES:
                    hint = replace(hint, avoid=(*hint.avoid, error.replica))
                    continue
                raise unavailable("The replica that had this request died. Send it again.") from None
            if owner is None:
                return answer.respond()
            await answer.close()
            hint = replace(hint, replica=owner)
        raise unavailable("The replicas could not agree on who has this program. Send it again.")

    async def _read_body(self, request: Request) -> bytes:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self._max_body_bytes:
                raise ApiError(
                    status=413,
                    message=f"The body is larger than {self._max_body_bytes} bytes.",
                    code="request_too_large",
                )
        return bytes(body)

    async def _collect_metrics(self, request: Request) -> Response:
        texts = await self._ask_all(_copy_scope(request))
        return PlainTextResponse(
            merge_metrics(
                {name: body.decode() for name, (_, status, body) in texts.items() if status == 200}
            ),
            headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    async def _describe(self) -> dict[str, Any]:
        scope = {**_PLAIN_SCOPE, "path": "/load", "raw_path": b"/load"}
        loads = await self._ask_all(scope)
        work = {row["replica"]: row for row in self._account.describe()}
        return {
            "replicas": [
                {**work.get(name, {"replica": name}), "pid": pid, "load": json.loads(body)}
                for name, (pid, status, body) in sorted(loads.items())
                if status == 200
            ]
        }

    async def _ask_all(self, scope: dict[str, Any]) -> dict[str, tuple[int, int, bytes]]:
        """Each replica's process, status and body for a request without a body.

        One after the other: Ray tells calls that wait for a replica apart by the request that they belong to.
        """
        found: dict[str, tuple[int, int, bytes]] = {}
        if not self._account.replicas:  # nobody was asked for anything yet
            await self._ask(replace(_PLAIN_HINT, key=uuid.uuid4().hex), scope)
        for name in self._account.replicas:
            hint = replace(_PLAIN_HINT, key=uuid.uuid4().hex, replica=name)
            try:
                replica, pid, status, body = await asyncio.wait_for(self._ask(hint, scope), ASK_S)
            except self._lost as error:
                logger.warning("Replica %s was lost while it told its figures: %s", name, error)
            except (_Gone, asyncio.TimeoutError) as error:
                logger.warning("Replica %s did not tell its figures: %s", name, error)
            else:
                found[replica] = (pid, status, body)
        return found

    async def _ask(self, hint: Hint, scope: dict[str, Any]) -> tuple[str, int, int, bytes]:
        answer = _Answer(self._call, self._account, hint, scope, b"", self._lost)
        await answer.begin()
        body = b"".join([chunk async for chunk in answer.read_body()])
        return answer.replica, answer.pid, answer.status, body


_PLAIN_HINT = read_hint("", 0, "GET", "/", {}, b"")
_PLAIN_SCOPE: dict[str, Any] = {
    "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
    "query_string": b"", "root_path": "", "headers": [], "client": None, "server": None,
}  # fmt: skip


class _Answer:
    """One replica's answer to one request."""

    def __init__(
        self,
        call: Call,
        account: Account,
        hint: Hint,
        scope: dict[str, Any],
        body: bytes,
        lost: tuple[type[Exception], ...],
    ) -> None:
        self._account, self._hint, self._lost = account, hint, lost
        self._call: Callable[[], Any] = partial(call, hint, scope, body)
        self._stream: Any = None
        self._messages: AsyncIterator[dict[str, Any]] | None = None
        self._is_over = False
        self._tokens: float | None = None
        self.replica, self.pid, self.status = "", 0, 0
        self.headers: list[tuple[bytes, bytes]] = []

    async def begin(self) -> str | None:
        """Wait for its head; returns another replica that has to answer instead, if one has.

        Raises:
            _Gone: The replica died before that.
        """
        try:
            self._stream = self._call()
            self._messages = aiter(self._stream)
            first = await anext(self._messages)
            self.replica, self.pid = first["replica"], first["pid"]
            if first["owner"] is not None:
                return str(first["owner"])
            head = await anext(self._messages)
        except self._lost as error:
            raise await self._give_up(error) from None
        except StopAsyncIteration as error:
            raise await self._give_up(error) from None
        except BaseException:
            await self.close()
            raise
        self.status, self.headers = head["status"], list(head["headers"])
        return None

    async def _give_up(self, error: Exception) -> _Gone:
        name = self._account.find(self._hint.key) or ""
        await self.close()
        return _Gone(name, (str(error) or type(error).__name__).splitlines()[0])

    def respond(self) -> Response:
        """The answer, streamed on as it comes."""
        response = _ClosedStream(self.read_body(), status_code=self.status)
        # Ray's proxy says the request's id already, the client's own where there is one.
        kept = [pair for pair in self.headers if pair[0].lower() != b"x-request-id"]
        response.raw_headers = [*kept, (REPLICA_HEADER.encode(), self.replica.encode())]
        return response

    async def read_body(self) -> AsyncGenerator[bytes, None]:
        """Chunks. A replica that dies in the middle of events is an event of its own; of another body, a cut."""
        is_first, tail = True, b""
        try:
            assert self._messages is not None  # it has begun
            async for message in self._messages:
                chunk = message.get("body", b"")
                if is_first and chunk:
                    is_first = False
                    self._note_answer(chunk)
                tail = (tail + chunk)[-_TAIL:]
                yield chunk
            self._is_over = True
            if told := _TOKENS.findall(tail):
                self._tokens = float(told[-1])
        except self._lost as error:
            logger.warning("Replica %s was lost in the middle of an answer: %s", self.replica, error)
            if not self._is_events:
                raise
            words = unavailable("The replica that gave this answer died. Send the request again.")
            yield (sse.encode_event(words.to_dict()) + sse.DONE).encode()
        finally:
            await self.close()

    async def close(self) -> None:
        """Have the replica stop, if it has not; the account hears of the end. Safe to call twice."""
        self._account.note_end(self._hint.key, self._tokens)
        stream, self._stream = self._stream, None
        if stream is not None and not self._is_over:
            stream.cancel()

    @property
    def _is_events(self) -> bool:
        return any(name == b"content-type" and b"event-stream" in value for name, value in self.headers)

    def _note_answer(self, chunk: bytes) -> None:
        if (answer_id := find_answer_id(chunk)) is not None:
            self._account.note_answer(answer_id, self.replica)


class _ClosedStream(StreamingResponse):
    """A stream whose source is closed whatever ends it."""

    def __init__(self, chunks: AsyncGenerator[bytes, None], status_code: int) -> None:
        super().__init__(chunks, status_code)
        self._chunks = chunks

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send, then close."""
        async with aclosing(self._chunks):
            await super().__call__(scope, receive, send)


def _copy_scope(request: Request) -> dict[str, Any]:
    """What of a request's scope may travel to another process."""
    return {name: request.scope[name] for name in _SCOPE if name in request.scope}


__all__ = ["MAX_TRIES", "REPLICA_HEADER", "Ingress"]
