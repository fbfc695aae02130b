"""What an engine knows of each request in flight, and the one place where requests begin and end.

`Ledger` keeps the promise of the engine protocol: every request that was taken gets exactly one completion.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from hf_dynasor.core import (
    Completion,
    Event,
    FinishReason,
    Generate,
    RequestKey,
    TokenDelta,
    TopLogprobs,
    Usage,
)
from hf_dynasor.engine import Sink
from hf_dynasor.errors import ConfigurationError, EngineError
from hf_dynasor.serving.sampling import RowSampler
from hf_dynasor.serving.text_stream import TextStream

logger = logging.getLogger(__name__)


class InFlight(Protocol):
    """What the ledger needs to know of a request, whatever it asks for."""

    is_cancelled: bool
    is_settled: bool

    @property
    def sink(self) -> Sink:
        """Where its events go."""
        ...

    @property
    def key(self) -> RequestKey:
        """The request's name."""
        ...

    def finish(self) -> str:
        """End the request's text; returns what a stream still has to deliver."""
        ...

    def complete(self, reason: FinishReason, error: str | None) -> Completion:
        """The request's completion, after `finish`."""
        ...


@dataclass(slots=True, eq=False)
class Track:
    """One request in flight. Only the engine's thread changes it, except for `is_cancelled`.

    Args:
        request: What was asked for.
        prompt_ids: Its prompt, encoded.
        eos_token_ids: The ids that end a turn.
        sink: Where its events go.
        stream: Its text.
        serial: Unique in the process: the engine's own name for it.
    """

    request: Generate
    prompt_ids: tuple[int, ...]
    eos_token_ids: frozenset[int]
    sink: Sink
    stream: TextStream
    serial: str
    sampler: RowSampler = field(init=False)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[TopLogprobs] = field(default_factory=list)
    num_cached: int = 0
    is_started: bool = False
    is_cancelled: bool = False
    is_settled: bool = False

    def __post_init__(self) -> None:
        self.sampler = RowSampler(self.request.sampling, self.prompt_ids, self.eos_token_ids)

    @property
    def key(self) -> RequestKey:
        """The request's name."""
        return self.request.key

    def push(
        self, token_id: int, logprob: float | None, top_logprobs: TopLogprobs = ()
    ) -> tuple[str, FinishReason | None]:
        """Take a token; returns the text that it released and why the request is over, if it is."""
        sampling = self.request.sampling
        self.tokens.append(token_id)
        if sampling.logprobs and logprob is not None:
            self.logprobs.append(logprob)
            self.top_logprobs.append(top_logprobs)
        if token_id in self.eos_token_ids or token_id in sampling.stop_token_ids:
            self.stream.push_silent()
            piece, ending = "", self._find_ending(token_id)
        else:
            piece = self.stream.push(token_id)
            ending = FinishReason.STOP if self.stream.is_stopped else None
        if ending is None and len(self.tokens) >= sampling.max_new_tokens:
            ending = FinishReason.LENGTH
        return piece, ending

    def _find_ending(self, token_id: int) -> FinishReason | None:
        if token_id in self.request.sampling.stop_token_ids:
            return FinishReason.STOP
        return None if self.request.sampling.ignore_eos else FinishReason.EOS

    def finish(self) -> str:
        """End the text; returns what a stream still has to deliver."""
        rest = self.stream.finish()
        return rest if self.request.stream else ""

    def complete(self, reason: FinishReason, error: str | None) -> Completion:
        """The completion of what was generated so far; `stream` must be finished."""
        wants_logprobs = self.request.sampling.logprobs
        return Completion(
            key=self.key,
            text=self.stream.text,
            token_ids=tuple(self.tokens),
            finish_reason=reason,
            usage=self._count_usage(),
            logprobs=tuple(self.logprobs) if wants_logprobs else None,
            top_logprobs=tuple(self.top_logprobs) if self.request.sampling.num_top_logprobs else None,
            offsets=self.stream.offsets if wants_logprobs else None,
            error=error,
        )

    def _count_usage(self) -> Usage:
        num_prompt = len(self.prompt_ids) if self.is_started else 0
        generated = {"probe" if self.request.is_probe else "sampled": len(self.tokens)}
        return Usage(prompt=num_prompt, cached=min(self.num_cached, num_prompt), **generated)


TrackT = TypeVar("TrackT", bound=InFlight)


class Ledger:
    """The requests in flight of one engine; safe to use from any thread."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._tracks: dict[RequestKey, InFlight] = {}
        self._lock = threading.Lock()
        self._ended: str | None = None  # why nothing is taken any more

    def __len__(self) -> int:
        return len(self._tracks)

    def enter(self, tracks: Sequence[TrackT], start: Callable[[Sequence[TrackT]], None]) -> None:
        """Take all tracks and hand them to `start`, or none.

        Raises:
            EngineError: The engine is closed or dead.
            ConfigurationError: A key is in flight already, or twice among the new ones.
        """
        with self._lock:
            self.check_open()
            seen = set(self._tracks)
            for track in tracks:
                if track.key in seen:
                    raise ConfigurationError(
                        f"Request {track.key} is already in flight: keys must be unique."
                    )
                seen.add(track.key)
            start(tracks)
            self._tracks |= {track.key: track for track in tracks}

    def check_open(self) -> None:
        """Raise `EngineError` if the engine was closed or died."""
        if self._ended is not None:
            raise EngineError(f"Engine {self.name} {self._ended}")

    def mark_cancelled(self, keys: Sequence[RequestKey]) -> list[InFlight]:
        """Mark requests as cancelled; returns those that are in flight."""
        with self._lock:
            found = [self._tracks[key] for key in keys if key in self._tracks]
            for track in found:
                track.is_cancelled = True
            return found

    def advance(
        self, track: Track, token_id: int, logprob: float | None, top_logprobs: TopLogprobs = ()
    ) -> bool:
        """Give a track its next token and report on it; returns whether the request is over."""
        if track.is_settled:
            return True
        piece, reason = track.push(token_id, logprob, top_logprobs)
        if track.request.stream:
            _deliver(track, _make_delta(track, piece, token_id))
        if reason is None:
            return False
        self.settle(track, reason)
        return True

    def tell(self, track: InFlight, event: Event) -> None:
        """Pass a part of a request's answer on, unless the request is over."""
        if not track.is_settled:
            _deliver(track, event)

    def settle(self, track: InFlight, reason: FinishReason, error: str | None = None) -> None:
        """Report the end of a request, once."""
        with self._lock:
            if track.is_settled:
                return
            track.is_settled = True
            self._tracks.pop(track.key, None)
        if rest := track.finish():
            _deliver(track, TokenDelta(key=track.key, text=rest, token_ids=()))
        _deliver(track, track.complete(reason, error))

    def end(self, why: str, reason: FinishReason, error: str | None = None) -> None:
        """Take nothing any more and settle everything in flight. The first reason given stays."""
        with self._lock:
            self._ended = self._ended or why
            left = list(self._tracks.values())
        for track in left:
            self.settle(track, reason, error)

    def refuse_new(self, why: str) -> None:
        """Take nothing any more; what is in flight goes on."""
        with self._lock:
            self._ended = self._ended or why


def _make_delta(track: Track, piece: str, token_id: int) -> TokenDelta:
    sampling = track.request.sampling
    return TokenDelta(
        key=track.key,
        text=piece,
        token_ids=(token_id,),
        logprobs=(track.logprobs[-1],) if sampling.logprobs else (),
        top_logprobs=(track.top_logprobs[-1],) if sampling.num_top_logprobs else (),
    )


def _deliver(track: InFlight, event: Event) -> None:
    try:
        track.sink(event)
    except Exception:  # one caller's broken sink (a closed event loop) must not end the others' requests
        logger.exception("The sink of request %s failed; the request is given up.", track.key)
        track.is_cancelled = True
