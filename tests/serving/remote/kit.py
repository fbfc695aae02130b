"""What the remote engine's tests share: a server that is a script, and a proxy that breaks things. Both are public fakes."""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from hf_dynasor.serving.remote import Bounds, RemoteEngine, RetryPolicy
from hf_dynasor.serving.remote.exchange import ATTEMPT_HEADER

QUICK = RetryPolicy(max_attempts=6, max_total_s=20.0, base_s=0.01, max_delay_s=0.05)
URL = "http://server.test/v1"


def encode(*rows: dict[str, Any] | str, done: bool = True) -> bytes:
    """Events of a stream."""
    texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    return "".join(f"data: {text}\n\n" for text in (*texts, *(["[DONE]"] if done else []))).encode()


def piece(text: str = "", *, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """A chunk of a completions stream."""
    return {"choices": [{"index": 0, "text": text, "finish_reason": finish, **more}]}


def usage(prompt: int = 5, completion: int = 1) -> dict[str, Any]:
    """The chunk with the account."""
    return {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}}


Reply = Callable[[dict[str, Any], httpx.Request], Any]


@dataclass
class ScriptedServer:
    """Answers requests from a function; keeps what it was sent, and how many streams are open.

    Args:
        reply: From a body to a response, an async iterator of bytes (a stream), or bytes (the same).
        models: What `/v1/models` lists.
        routes: What `/openapi.json` lists.
    """

    reply: Reply
    models: Sequence[dict[str, Any]] = ({"id": "m", "owned_by": "vllm", "max_model_len": 4096},)
    routes: Sequence[str] = ("/v1/completions",)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[httpx.Headers] = field(default_factory=list)
    num_open: int = 0
    most_open: int = 0

    def look(self, request: httpx.Request) -> httpx.Response:
        """The questions that are asked at the start."""
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": list(self.models)})
        if request.url.path == "/openapi.json" and self.routes:
            return httpx.Response(200, json={"paths": {route: {} for route in self.routes}})
        return httpx.Response(404, json={"detail": "Not Found"})

    async def answer(self, request: httpx.Request) -> httpx.Response:
        """Everything else."""
        body = json.loads(request.content)
        self.bodies.append(body | {"_path": request.url.path})
        self.headers.append(request.headers)
        said = self.reply(body, request)
        if isinstance(said, httpx.Response):
            return said
        stream = _whole(said) if isinstance(said, bytes) else said
        return httpx.Response(
            200, headers={"content-type": "text/event-stream"}, stream=_Stream(self, stream)
        )

    def open(self, **options: Any) -> RemoteEngine:
        """An engine over it."""
        transports = (httpx.MockTransport(self.look), httpx.MockTransport(self.answer))
        given = {"retries": QUICK, "tokenizer": None, "rng": random.Random(0)} | options
        return RemoteEngine(URL, transport=transports, **given)


class _Stream(httpx.AsyncByteStream):
    def __init__(self, server: ScriptedServer, parts: AsyncIterator[bytes]) -> None:
        self._server, self._parts = server, parts
        server.num_open += 1
        server.most_open = max(server.most_open, server.num_open)
        self._is_open = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._parts:
            yield part

    async def aclose(self) -> None:
        self._server.num_open -= self._is_open
        self._is_open = False


async def _whole(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def drip(data: bytes, *, size: int = 7, pause_s: float = 0.0) -> AsyncIterator[bytes]:
    """Bytes in small parts."""
    for start in range(0, len(data), size):
        yield data[start : start + size]
        await asyncio.sleep(pause_s)


async def break_off(data: bytes) -> AsyncIterator[bytes]:
    """Bytes, and then the connection breaks."""
    yield data
    raise httpx.ReadError("broken")


class Fault(str, Enum):
    """What a `FaultProxy` does to a request."""

    NONE = "none"
    LATENCY = "latency"
    TOO_MANY = "429"
    INTERNAL = "500"
    DROPPED = "dropped before an answer"
    CUT = "a stream cut in the middle"
    TRUNCATED = "half an event, then a clean end"


@dataclass(frozen=True)
class Entry:
    """One request that came to a `FaultProxy`.

    Args:
        serial: The request's name without the number of the attempt.
        fault: What was done to it.
        was_answered: Whether the whole answer went out.
    """

    serial: str
    fault: Fault
    was_answered: bool


class FaultProxy:
    """Stands before a server, breaks some answers on purpose, and keeps a log of what came and what went out.

    Args:
        upstream: The server's address, without `/v1`.
        choose: Which fault the next request gets.
        latency_s: How long `LATENCY` waits.
    """

    def __init__(self, upstream: str, choose: Callable[[], Fault], *, latency_s: float = 0.2) -> None:
        self._upstream, self._choose, self._latency_s = upstream, choose, latency_s
        self.log: list[Entry] = []
        self.app = Starlette(
            routes=[
                Route("/v1/completions", self._generate, methods=["POST"]),
                Route("/v1/chat/completions", self._generate, methods=["POST"]),
                Route("/{path:path}", self._pass, methods=["GET", "POST"]),
            ]
        )

    def list_attempts(self) -> dict[str, list[Entry]]:
        """The log by request."""
        attempts = defaultdict(list)
        for entry in self.log:
            attempts[entry.serial].append(entry)
        return attempts

    async def _pass(self, request: Request) -> Response:
        async with httpx.AsyncClient(base_url=self._upstream, timeout=60) as client:
            reply = await client.request(request.method, request.url.path, content=await request.body())
        return Response(reply.content, reply.status_code, media_type=reply.headers.get("content-type"))

    async def _generate(self, request: Request) -> Response:
        fault = self._choose()
        serial = request.headers[ATTEMPT_HEADER].rsplit(".", 1)[0]
        if fault in (Fault.TOO_MANY, Fault.INTERNAL, Fault.DROPPED):
            self.log.append(Entry(serial, fault, was_answered=False))
        if fault is Fault.TOO_MANY:
            return JSONResponse({"error": {"message": "slow down"}}, 429, headers={"Retry-After": "0.02"})
        if fault is Fault.INTERNAL:
            return JSONResponse({"error": {"message": "oh no"}}, 500)
        if fault is Fault.DROPPED:
            return StreamingResponse(_drop(b""), media_type="text/event-stream")
        if fault is Fault.LATENCY:
            await asyncio.sleep(self._latency_s)
        headers = {"content-type": "application/json"}
        async with httpx.AsyncClient(base_url=self._upstream, timeout=60) as client:
            reply = await client.post(request.url.path, content=await request.body(), headers=headers)
        whole = reply.content
        cut = whole.rfind(b"data: ", 0, whole.find(b'"finish_reason":"')) + 12
        if fault is Fault.CUT:
            body = _drop(whole[: cut // 2])
        elif fault is Fault.TRUNCATED:
            body = _whole(whole[:cut])
        else:
            body = self._send(serial, fault, whole)
        if fault in (Fault.CUT, Fault.TRUNCATED):
            self.log.append(Entry(serial, fault, was_answered=False))
        return StreamingResponse(body, reply.status_code, media_type=reply.headers.get("content-type"))

    async def _send(self, serial: str, fault: Fault, whole: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(whole), 101):
            yield whole[start : start + 101]
        self.log.append(Entry(serial, fault, was_answered=True))


async def _drop(data: bytes) -> AsyncIterator[bytes]:
    if data:
        yield data
    raise ConnectionResetError("on purpose")


def choose_randomly(seed: int, shares: dict[Fault, float]) -> Callable[[], Fault]:
    """Faults at random, each with its share; nothing else is broken."""
    rng = random.Random(seed)
    faults, weights = list(shares), list(shares.values())
    return lambda: rng.choices([*faults, Fault.NONE], [*weights, 1 - sum(weights)])[0]


def open_engine(url: str, **options: Any) -> RemoteEngine:
    """An engine over a server on loopback, quick to try again."""
    bounds = Bounds(connect_s=5.0, silence_s=30.0, attempt_s=60.0)
    return RemoteEngine(url, **{"retries": QUICK, "bounds": bounds, "rng": random.Random(0)} | options)
