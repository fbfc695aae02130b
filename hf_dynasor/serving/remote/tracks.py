"""One request of a remote engine, from the moment that it was taken to its completion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hf_dynasor.core import Completion, FinishReason, Generate, RequestKey, TokenDelta, Usage
from hf_dynasor.engine import Sink
from hf_dynasor.serving.remote.received import Piece, Received, Teller
from hf_dynasor.serving.remote.wire import WirePrompt
from hf_dynasor.serving.text_stream import TextStream


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """What is known here of the model beyond what its server says.

    Args:
        tokenizer: The model's own, where it is at hand.
        eos_token_ids: What ends a turn; empty where nobody knows.
        stops_here: Whether stop strings are found here.
        on_uncounted: Called where a server gave no account of a request's tokens.
    """

    tokenizer: Any = None
    eos_token_ids: frozenset[int] = frozenset()
    stops_here: bool = False
    on_uncounted: Callable[[], None] = lambda: None

    def count(self, text: str) -> int | None:
        """Tokens of a text, where a tokenizer is at hand."""
        if self.tokenizer is None:
            return None
        return len(self.tokenizer.encode(text, add_special_tokens=False)) if text else 0


@dataclass(slots=True, eq=False)
class RemoteTrack:
    """One request in flight. Only the engine's thread changes it, except for `is_cancelled`.

    Args:
        request: What was asked for; a streamed one has a seed wherever the server honours any.
        sink: Where its events go.
        serial: Unique in the process; with the number of the attempt it names what is sent.
        knowledge: Of the model.
        wire: Its prompt as it is sent; `None` until the server has been asked for it.
        priority: Passed on where it is not 0.
    """

    request: Generate
    sink: Sink
    serial: str
    knowledge: Knowledge
    wire: WirePrompt | None = None
    priority: int = 0
    received: Received | None = None
    teller: Teller = field(default_factory=Teller)
    num_attempts: int = 0
    num_wasted: int = 0
    is_answered: bool = False
    is_cancelled: bool = False
    is_settled: bool = False

    @property
    def key(self) -> RequestKey:
        """The request's name."""
        return self.request.key

    @property
    def num_prompt_tokens(self) -> int:
        """Of the prompt, as well as it is known before the server counts."""
        if self.wire is None or self.wire.kind == "chat":
            return max(1, sum(len(str(segment)) for segment in self.request.prompt.segments) // 4)
        if self.wire.ids is not None:
            return len(self.wire.ids)
        known = self.knowledge.count(self.wire.text or "")
        return known if known is not None else max(1, len(self.wire.text or "") // 4)

    def begin_attempt(self) -> Received:
        """Forget what an attempt that broke had brought; its tokens were generated and count."""
        if self.received is not None:
            self.num_wasted += self.received.num_tokens
        self.teller.restart()
        self.num_attempts += 1
        self.received = Received(
            request=self.request,
            eos_token_ids=self.knowledge.eos_token_ids,
            stops_here=self.knowledge.stops_here,
        )
        return self.received

    def make_delta(self, piece: Piece) -> TokenDelta | None:
        """What a stream is told of a piece, if anything of it is new."""
        if not self.request.stream:
            return None
        new = self.teller.take(piece)
        if not (new.text or new.token_ids):
            return None
        return TokenDelta(
            key=self.key,
            text=new.text,
            token_ids=new.token_ids,
            logprobs=new.logprobs if self.request.sampling.logprobs else (),
        )

    def finish(self) -> str:
        """Deltas have told everything."""
        return ""

    def complete(self, reason: FinishReason, error: str | None) -> Completion:
        """The completion of what came."""
        received = self.received
        if received is None:
            return Completion(key=self.key, finish_reason=reason, error=error)
        if self.request.sampling.logprobs and received.token_ids:  # may differ where it was broken off
            count = min(len(received.token_ids), len(received.logprobs))
            del received.token_ids[count:], received.logprobs[count:]
        logprobs, offsets = self._read_logprobs(received)
        return Completion(
            key=self.key,
            text=received.text,
            token_ids=tuple(received.token_ids),
            finish_reason=reason,
            usage=self._count_usage(received),
            logprobs=logprobs,
            offsets=offsets,
            error=error,
        )

    def _read_logprobs(self, received: Received) -> tuple[tuple[float, ...] | None, tuple[int, ...] | None]:
        if not self.request.sampling.logprobs:
            return None, None
        return tuple(received.logprobs), self._find_offsets(received)

    def _find_offsets(self, received: Received) -> tuple[int, ...]:
        """Where each token begins, by the tokenizer at hand, else by the tokens' texts as the server spelt them."""
        size = len(received.text)
        if received.token_ids and self.knowledge.tokenizer is not None and self.wire is not None:
            offsets = self._decode_offsets(received)
        else:
            offsets, place = [], 0
            for token in received.tokens:
                offsets.append(place)
                place += len(token)
        offsets += [size] * (len(received.logprobs) - len(offsets))
        return tuple(min(offset, size) for offset in offsets)

    def _decode_offsets(self, received: Received) -> list[int]:
        sampling = self.request.sampling
        prompt_ids = self.wire.ids if self.wire is not None and self.wire.ids is not None else ()
        stream = TextStream(self.knowledge.tokenizer, prompt_ids, sampling.stop, is_watched=True)
        for token_id in received.token_ids:
            if token_id in self.knowledge.eos_token_ids or token_id in sampling.stop_token_ids:
                stream.push_silent()
            else:
                stream.push(token_id)
        stream.finish()
        return list(stream.offsets)

    def _count_usage(self, received: Received) -> Usage:
        counted = received.counted
        if counted is None:
            self.knowledge.on_uncounted()
            completion, prompt, cached = self._count_here(received), self.num_prompt_tokens, 0
        else:
            completion, prompt, cached = counted.completion, counted.prompt, counted.cached
        kind = "probe" if self.request.is_probe else "sampled"
        return Usage(prompt=prompt, cached=cached, **{kind: completion + self.num_wasted})

    def _count_here(self, received: Received) -> int:
        """Tokens of an answer without an account: its ids, else those of its text and the one that ended it."""
        limit = self.request.sampling.max_new_tokens
        if received.token_ids:
            return len(received.token_ids)
        if received.reason is FinishReason.LENGTH:
            return limit
        known = self.knowledge.count(received.text)
        has_ending = received.reason in (FinishReason.EOS, FinishReason.STOP)
        return min(limit, (known if known is not None else received.num_tokens) + has_ending)
