"""One request over the wire, as often as it takes, until it is answered or given up."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import httpx

from hf_dynasor.clock import Clock
from hf_dynasor.serving.remote.address import Address
from hf_dynasor.serving.remote.chunks import DONE, read_chunk
from hf_dynasor.serving.remote.failures import (
    RemoteFailure,
    broken,
    looks_like_html,
    read_status,
    read_transport_error,
)
from hf_dynasor.serving.remote.received import Piece, Received
from hf_dynasor.serving.remote.retries import RetryPolicy
from hf_dynasor.serving.remote.sse import EventParser
from hf_dynasor.serving.remote.tracks import RemoteTrack

logger = logging.getLogger(__name__)

ATTEMPT_HEADER = "X-HF-Dynasor-Attempt"
"""Names a request and counts how often it was sent, for logs of proxies."""
MAX_ANSWER_BYTES = 64 * 2**20
_DRAIN_S = 1.0
"""Seconds for a stream that said its last word to end, so that its connection can be used again."""

Tell: TypeAlias = Callable[[RemoteTrack, Piece], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How long things may take, in seconds.

    Args:
        connect_s: Until a connection stands.
        silence_s: Between two pieces of an answer, and to its first.
        attempt_s: One attempt in all.
    """

    connect_s: float = 10.0
    silence_s: float = 300.0
    attempt_s: float = 3600.0

    @property
    def timeout(self) -> httpx.Timeout:
        """For httpx."""
        return httpx.Timeout(self.silence_s, connect=self.connect_s, pool=None)


class Exchange:
    """Sends requests to one server; a retry is bounded by the policy, an attempt by the bounds.

    Args:
        client: Its connections.
        address: The server.
        policy: When a request is sent again.
        bounds: How long an attempt may take.
        clock: For the policy.
        rng: Draws the jitter.
        wall_time: Unix seconds, for dates in `Retry-After`.
        sleep: Waits between attempts.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        address: Address,
        policy: RetryPolicy,
        bounds: Bounds,
        *,
        clock: Clock,
        rng: random.Random,
        wall_time: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client, self._address = client, address
        self._policy, self._bounds = policy, bounds
        self._clock, self._rng, self._wall_time, self._sleep = clock, rng, wall_time, sleep
        self.num_sent = self.num_retries = 0
        self.answered_at = float("-inf")

    def now(self) -> float:
        """The policy's time."""
        return self._clock.now()

    async def run(self, track: RemoteTrack, body: Mapping[str, Any], tell: Tell) -> None:
        """Have a request answered; what came is in the track.

        Args:
            track: The request.
            body: What is sent for it.
            tell: Told of each piece.

        Raises:
            RemoteFailure: It was given up.
        """
        route = track.wire.route if track.wire is not None else "/completions"

        async def attempt() -> None:
            await self._attempt(track, f"{self._address.base_url}{route}", body, tell)

        await self._repeat(attempt, lambda: track.num_attempts)

    async def ask(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Post to a route beside the API's, and read the JSON of the answer.

        Raises:
            RemoteFailure: It was given up.
        """
        num_tries = 0
        answer: dict[str, Any] = {}

        async def attempt() -> None:
            nonlocal num_tries, answer
            num_tries += 1
            answer = await self._ask_once(f"{self._address.root}{path}", body)

        await self._repeat(attempt, lambda: num_tries)
        return answer

    async def _repeat(self, attempt: Callable[[], Awaitable[None]], count: Callable[[], int]) -> None:
        failed_at: float | None = None
        while True:
            self.num_sent += 1
            try:
                await asyncio.wait_for(attempt(), self._bounds.attempt_s)
                self.answered_at = self._clock.now()
                return
            except asyncio.TimeoutError:
                raise RemoteFailure(
                    f"The backend {self._address.base_url} took longer than {self._bounds.attempt_s:g} s for one answer."
                ) from None
            except RemoteFailure as failure:
                now = self._clock.now()
                failed_at = now if failed_at is None else failed_at
                delay = self._find_delay(failure, count(), now - failed_at)
                if delay is None:
                    raise _close_report(failure, count()) from None
                logger.info("Attempt %d failed, the next is in %.2f s: %s", count(), delay, failure)
            self.num_retries += 1
            await self._sleep(delay)

    def _find_delay(self, failure: RemoteFailure, num_failed: int, elapsed_s: float) -> float | None:
        if not failure.is_transient:
            return None
        return self._policy.find_delay(
            num_failed=num_failed,
            elapsed_s=elapsed_s,
            retry_after_s=failure.retry_after_s,
            rng=self._rng,
        )

    async def _attempt(self, track: RemoteTrack, url: str, body: Mapping[str, Any], tell: Tell) -> None:
        received = track.begin_attempt()
        headers = {
            "X-Request-Id": str(
                uuid.uuid4()
            ),  # some servers take no other form, and hang on one that was there before
            ATTEMPT_HEADER: f"{track.serial}.{track.num_attempts}",
            "Accept": "text/event-stream",
        }
        try:
            async with self._client.stream("POST", url, json=body, headers=headers) as reply:
                await self._check_status(reply)
                if "text/event-stream" in reply.headers.get("content-type", ""):
                    await self._read_stream(reply, received, track, tell)
                else:
                    self._read_whole(await _read_bounded(reply), received, track, tell)
        except (httpx.HTTPError, httpx.StreamError) as error:
            if received.reason is None:  # else it was answered before the connection broke
                raise _explain(error, self._address.base_url) from None
        except RemoteFailure as failure:
            if received.reason is None or not failure.is_transient:
                raise
        received.check_whole()
        track.teller.finish()

    async def _check_status(self, reply: httpx.Response) -> None:
        if reply.status_code >= 300:
            text = (await _read_bounded(reply)).decode("utf-8", "replace")
            raise read_status(
                reply.status_code, reply.headers, text, self._address.base_url, now=self._wall_time()
            )

    async def _read_stream(
        self, reply: httpx.Response, received: Received, track: RemoteTrack, tell: Tell
    ) -> None:
        parser = EventParser()
        stream = reply.aiter_bytes()
        async for data in stream:
            for event in parser.push(data):
                if event.strip() == DONE:
                    received.end()
                    with suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(_drain(stream), _DRAIN_S)
                    return
                tell(track, received.take(read_chunk(event)))
            if received.is_stopped_here:
                return  # leaving closes the stream, which tells the server
            if parser.is_overlong:
                raise RemoteFailure(
                    f"The backend {self._address.base_url} streams something else than events."
                )
        received.end()

    def _read_whole(self, data: bytes, received: Received, track: RemoteTrack, tell: Tell) -> None:
        """A server that does not stream answers at once."""
        text = data.decode("utf-8", "replace")
        if looks_like_html(text):
            raise RemoteFailure(
                f"The backend {self._address.base_url} answered with a page of HTML, which no API sends. Is this the "
                "address of the API itself?"
            )
        tell(track, received.take(read_chunk(text)))
        received.end()

    async def _ask_once(self, url: str, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            async with self._client.stream("POST", url, json=body) as reply:
                await self._check_status(reply)
                answer = json.loads(await _read_bounded(reply))
        except httpx.HTTPError as error:
            raise _explain(error, self._address.base_url) from None
        except ValueError:
            raise broken(f"The backend {self._address.base_url} answered {url} with no JSON.") from None
        if not isinstance(answer, dict):
            raise broken(f"The backend {self._address.base_url} answered {url} with {str(answer)[:60]!r}.")
        return answer


def _explain(error: Exception, url: str) -> RemoteFailure:
    if isinstance(error, httpx.HTTPError):
        return read_transport_error(error, url)
    return broken(f"The connection to the backend {url} broke: {error}.")


def _close_report(failure: RemoteFailure, num_attempts: int) -> RemoteFailure:
    """The last failure, with how often it was tried."""
    words = f"{failure} Given up after {num_attempts} attempts." if num_attempts > 1 else str(failure)
    return RemoteFailure(
        words,
        is_transient=failure.is_transient,
        is_unreachable=failure.is_unreachable,
        status=failure.status,
    )


async def _read_bounded(reply: httpx.Response) -> bytes:
    """An answer that is no stream; what is longer than any such answer is cut, and then read as one that was."""
    parts, size = [], 0
    async for part in reply.aiter_bytes():
        parts.append(part)
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            break
    return b"".join(parts)


async def _drain(stream: Any) -> None:
    with suppress(httpx.HTTPError, httpx.StreamError):
        async for _ in stream:
            pass
