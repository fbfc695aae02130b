"""Public fakes: an engine that follows a script, and a clock that moves when told to.

They are what the package's own tests run on; use them to test programs and policies of your own without
a model.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from hf_dynasor.core import Completion, FinishReason, Generate, Request, RequestKey, Score, TokenDelta, Usage
from hf_dynasor.engine import Ability, Sink, check_abilities
from hf_dynasor.errors import ConfigurationError, EngineError


class VirtualClock:
    """A clock that stands still until it is advanced.

    Examples:
        >>> clock = VirtualClock()
        >>> clock.advance(1.5)
        >>> clock.now()
        1.5
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        """Seconds of virtual time."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass; negative seconds raise."""
        if seconds < 0:
            raise ConfigurationError(f"Got {seconds = } but expected 0 or more: time never goes back.")
        self._now += seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a `ScriptedEngine` answers to one request.

    Args:
        text: The generated text.
        num_tokens: Tokens that it counts for; by default the number of words, at least 1.
        finish_reason: How it ends.
        is_held: It never ends by itself: only a cancellation (or `close`) ends it, as cancelled.
        error: For `FinishReason.FAILED`.
        score: For `Score` requests, in [0, 1].
        probability: Of each token, where log-probabilities are asked for; above 0.
    """

    text: str = ""
    num_tokens: int | None = None
    finish_reason: FinishReason = FinishReason.EOS
    is_held: bool = False
    error: str | None = None
    score: float | None = None
    probability: float = 1.0


Script: TypeAlias = Callable[[Request], Reply]


class ScriptedEngine:
    """An engine without a model: every request gets the reply that a script gives.

    Replies are delivered from inside `submit`, in the order of the requests or shuffled by `rng`; held ones
    wait for a cancellation.

    Args:
        script: From a request to its reply; or a list of texts, given out in order of submission.
        rng: Shuffles the order of delivery within one `submit`.

    Attributes:
        submitted: Every request so far.
        cancelled: Every key that ended as cancelled.

    Examples:
        >>> engine = ScriptedEngine(["The answer is \\\\boxed{4}."])
        >>> engine.name
        'scripted'
    """

    def __init__(self, script: Script | Sequence[str], *, rng: random.Random | None = None) -> None:
        self.submitted: list[Request] = []
        self.cancelled: list[RequestKey] = []
        self._script = script if callable(script) else _read_in_order(script)
        self._rng = rng
        self._held: dict[RequestKey, tuple[Request, Reply, Sink]] = {}
        self._lock = threading.Lock()
        self._is_closed = False

    @property
    def name(self) -> str:
        """`scripted`."""
        return "scripted"

    @property
    def abilities(self) -> frozenset[Ability]:
        """All of them: a script can say anything."""
        return frozenset(Ability)

    def submit(self, requests: Sequence[Request], sink: Sink) -> None:
        """Deliver the script's replies; hold those that are to be held."""
        self.check_health()
        check_abilities(self.name, self.abilities, requests)
        ready = []
        with self._lock:
            for request in requests:
                if request.key in self._held:
                    raise ConfigurationError(f"Got request {request.key} while one of that key is in flight.")
                self.submitted.append(request)
                reply = self._script(request)
                if reply.is_held:
                    self._held[request.key] = (request, reply, sink)
                else:
                    ready.append((request, reply))
        if self._rng is not None:
            self._rng.shuffle(ready)
        for request, reply in ready:
            _deliver(request, reply, sink)

    def cancel(self, keys: Sequence[RequestKey]) -> None:
        """End held requests as cancelled."""
        for key in keys:
            with self._lock:
                held = self._held.pop(key, None)
            if held is not None:
                request, reply, sink = held
                self.cancelled.append(key)
                ended = Reply(
                    text=reply.text, num_tokens=reply.num_tokens, finish_reason=FinishReason.CANCELLED
                )
                _deliver(request, ended, sink)

    def check_health(self) -> None:
        """Raise once closed."""
        if self._is_closed:
            raise EngineError("The scripted engine is closed.")

    def close(self) -> None:
        """Cancel what is held."""
        self.cancel(tuple(self._held))
        self._is_closed = True


def _read_in_order(texts: Sequence[str]) -> Script:
    remaining = iter(texts)

    def reply(request: Request) -> Reply:
        try:
            return Reply(text=next(remaining))
        except StopIteration:
            raise EngineError(f"The script of {len(texts)} texts has none left for {request.key}.") from None

    return reply


def _deliver(request: Request, reply: Reply, sink: Sink) -> None:
    num_tokens = max(1, len(reply.text.split())) if reply.num_tokens is None else reply.num_tokens
    token_ids: tuple[int, ...] = ()
    if isinstance(request, Score):
        usage = Usage(reward=num_tokens)
    else:
        usage = Usage(probe=num_tokens) if request.is_probe else Usage(sampled=num_tokens)
        token_ids = tuple(range(num_tokens))
    if isinstance(request, Generate) and request.stream:
        sink(TokenDelta(key=request.key, text=reply.text, token_ids=token_ids))
    wants_logprobs = isinstance(request, Generate) and request.sampling.logprobs
    offsets = tuple(index * len(reply.text) // max(1, num_tokens) for index in token_ids)
    sink(
        Completion(
            key=request.key,
            text=reply.text,
            token_ids=token_ids,
            finish_reason=reply.finish_reason,
            usage=usage,
            logprobs=(math.log(reply.probability),) * len(token_ids) if wants_logprobs else None,
            offsets=offsets if wants_logprobs else None,
            score=reply.score,
            error=reply.error,
        )
    )
