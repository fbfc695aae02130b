"""What all local engines share: encoding, checking, taking and ending requests. The model runs in a backend."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from typing import Any, Protocol

from hf_dynasor.core import FinishReason, Generate, Prompt, Request, RequestKey, Score
from hf_dynasor.engine import Ability, Sink, check_abilities
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.serving.loading import LoadedModel
from hf_dynasor.serving.packed_linear import PackedLinears
from hf_dynasor.serving.prompts import PromptEncoder
from hf_dynasor.serving.rewards.model import RewardModel
from hf_dynasor.serving.rewards.steps import PromptReader
from hf_dynasor.serving.rewards.worker import ScoreTrack, ScoreWorker
from hf_dynasor.serving.text_stream import TextStream
from hf_dynasor.serving.tracks import Ledger, Track

CLOSE_TIMEOUT_S = 30.0
_serials = itertools.count()


class Backend(Protocol):
    """Runs tracks in a thread of its own and reports on them through the ledger that it was made with.

    `num_steps` counts the model's forwards so far, `num_tokens_drawn` the tokens that they were sampled for.
    """

    num_steps: int
    num_tokens_drawn: int

    @property
    def capacity(self) -> int | None:
        """Most tokens of one request, its prompt included; `None` where only the context limits it."""
        ...

    def check_fits(self, num_prompt_tokens: int, max_new_tokens: int) -> None:
        """Raise `ConfigurationError` if a request could never run."""
        ...

    def start(self, tracks: Sequence[Track]) -> None:
        """Take tracks; returns at once."""
        ...

    def cancel(self, tracks: Sequence[Track]) -> None:
        """Settle tracks that are marked as cancelled soon; returns at once."""
        ...

    def stop(self, timeout_s: float) -> None:
        """End the thread; waits for it at most so long."""
        ...


class LocalEngine:
    """An `Engine` over a model in this process. Use it as a context manager, or call `close`."""

    def __init__(
        self,
        name: str,
        loaded: LoadedModel,
        abilities: frozenset[Ability],
        ledger: Ledger,
        backend: Backend,
        reward: RewardModel | None = None,
    ) -> None:
        self._name = name
        self._abilities = abilities | ({Ability.SCORE} if reward is not None else set())
        self.loaded = loaded
        self._encoder = PromptEncoder(loaded)
        self._prompt_reader = PromptReader(loaded, self._encoder)
        self.scores = ScoreWorker(reward, ledger) if reward is not None else None
        self._ledger = ledger
        self._backend = backend
        # Also runs when the engine is forgotten and at interpreter exit, before the thread would be torn down.
        self._finalizer = weakref.finalize(
            self, _shut_down, ledger, backend, self.scores, PackedLinears(loaded.model)
        )

    @property
    def name(self) -> str:
        """Such as `generate(reasoner)`."""
        return self._name

    @property
    def abilities(self) -> frozenset[Ability]:
        """What it can do besides generating."""
        return self._abilities

    @property
    def num_in_flight(self) -> int:
        """Requests that were taken and have not ended yet."""
        return len(self._ledger)

    @property
    def num_tokens_drawn(self) -> int:
        """Tokens that the model was sampled for since the engine began."""
        return self._backend.num_tokens_drawn

    @property
    def progress(self) -> int:
        """Forwards since the engine began, each part of a prompt and batch of scores included; see `ReportsProgress`."""
        return self._backend.num_steps + (self.scores.num_batches if self.scores is not None else 0)

    def count_room(self, prompt: Prompt) -> int | None:
        """Tokens that the model's context and the engine's cache leave behind a prompt; see `MeasuresRoom`."""
        limits = (self.loaded.max_context, self._backend.capacity)
        known = [limit for limit in limits if limit is not None]
        return max(0, min(known) - len(self._encoder.encode(prompt))) if known else None

    def submit(self, requests: Sequence[Request], sink: Sink) -> None:
        """Take requests, all or none; see `Engine.submit`."""
        self._ledger.check_open()
        check_abilities(self._name, self._abilities, requests)
        if tracks := [self._make_any_track(request, sink) for request in requests]:
            self._ledger.enter(tracks, self._start)

    def cancel(self, keys: Sequence[RequestKey]) -> None:
        """Ask requests to end soon; see `Engine.cancel`."""
        marked = self._ledger.mark_cancelled(keys)
        if tracks := [track for track in marked if isinstance(track, Track)]:
            self._backend.cancel(tracks)
        if self.scores is not None and len(tracks) < len(marked):
            self.scores.cancel()

    def check_health(self) -> None:
        """Raise `EngineError` if the engine was closed or died."""
        self._ledger.check_open()

    def close(self) -> None:
        """End everything in flight as cancelled and join the thread. Safe to call twice."""
        self._finalizer()

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _start(self, tracks: Sequence[Track | ScoreTrack]) -> None:
        if generating := [track for track in tracks if isinstance(track, Track)]:
            self._backend.start(generating)
        if scoring := [track for track in tracks if isinstance(track, ScoreTrack)]:
            assert self.scores is not None  # without it the request would not have been taken
            self.scores.start(scoring)

    def _make_any_track(self, request: Request, sink: Sink) -> Track | ScoreTrack:
        if isinstance(request, Generate):
            return self._make_track(request, sink)
        if not isinstance(request, Score) or self.scores is None:
            raise ConfigurationError(
                f"Got a request of type {type(request).__name__} but expected Generate or Score."
            )
        step = self.scores.reward.encode(self._prompt_reader.read(request.prompt))
        return ScoreTrack(request=request, step=step, sink=sink)

    def _make_track(self, request: Generate, sink: Sink) -> Track:
        ids = self._encoder.encode(request.prompt)
        sampling = request.sampling
        self._encoder.check_length(len(ids), sampling.max_new_tokens)
        self._backend.check_fits(len(ids), sampling.max_new_tokens)
        is_watched = request.stream or sampling.logprobs
        return Track(
            request=request,
            prompt_ids=ids,
            eos_token_ids=self.loaded.eos_token_ids,
            sink=sink,
            stream=TextStream(self.loaded.tokenizer, ids, sampling.stop, is_watched=is_watched),
            serial=f"hf_dynasor-{next(_serials)}",
        )


def check_positive(**values: Any) -> None:
    """Raise `ConfigurationError` for the first value that is below 1."""
    for name, value in values.items():
        if value < 1:
            raise ConfigurationError(f"Got {name} = {value} but expected at least 1.")


def _shut_down(ledger: Ledger, backend: Backend, scores: ScoreWorker | None, linears: PackedLinears) -> None:
    ledger.refuse_new("is closed.")
    backend.stop(CLOSE_TIMEOUT_S)
    if scores is not None:
        scores.stop(CLOSE_TIMEOUT_S)
    linears.release()
    ledger.end("is closed.", FinishReason.CANCELLED)
