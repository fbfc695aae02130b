"""`RemoteEngine`: requests of programs over any OpenAI-compatible server."""

from __future__ import annotations

import itertools
import logging
import random
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from hf_dynasor.clock import Clock, MonotonicClock
from hf_dynasor.core import FinishReason, Generate, Request, RequestKey
from hf_dynasor.engine import Ability, Sink, check_abilities
from hf_dynasor.errors import ConfigurationError, EngineError
from hf_dynasor.program_plan import ProgramPlan
from hf_dynasor.serving.loading import LoadedModel
from hf_dynasor.serving.local_engine import CLOSE_TIMEOUT_S, check_positive
from hf_dynasor.serving.program_scheduling import ProgramScheduling
from hf_dynasor.serving.remote.address import read_address
from hf_dynasor.serving.remote.exchange import Bounds, Exchange
from hf_dynasor.serving.remote.ordering import DEFAULT_SCHEDULER, Priorities, make_scheduling
from hf_dynasor.serving.remote.probing import Found, look_at_server
from hf_dynasor.serving.remote.prompts import PromptWriter
from hf_dynasor.serving.remote.retries import RetryPolicy
from hf_dynasor.serving.remote.scoring import Scoring
from hf_dynasor.serving.remote.setup import (
    BodyBuilder,
    check_agreement,
    choose_writer,
    find_tokenizer,
    open_client,
)
from hf_dynasor.serving.remote.tracks import Knowledge, RemoteTrack
from hf_dynasor.serving.remote.wire import check_sampling
from hf_dynasor.serving.remote.worker import RemoteWorker
from hf_dynasor.serving.rewards.model import RewardModel
from hf_dynasor.serving.rewards.worker import ScoreTrack
from hf_dynasor.serving.tracks import Ledger

logger = logging.getLogger(__name__)
RewardChoice: TypeAlias = Callable[[Found, LoadedModel | None], RewardModel | None]

_serials = itertools.count()
_instance = uuid.uuid4().hex[:12]  # some servers mix up requests of one name, whoever sends them


class RemoteEngine:
    """Runs requests on an OpenAI-compatible server: vLLM, SGLang, TGI, llama.cpp, `transformers serve`, our own.

    The server is looked at once, when the engine is made: what it is, which model it has. What it can do is declared;
    asking for more is an error that names it. Every request is streamed, so that cancelling one closes its stream.

    Args:
        url: The address of the API, which ends in `/v1`.
        model: What the server calls the model; `None` takes its only one.
        dialect: What kind of server it is, a name of `DIALECTS`; `auto` looks.
        tokenizer: The model's: a `LoadedModel`, or where it is (a hub name, a folder, a `.gguf` file, `"embedded"`). With
            it prompts go as token ids where the server takes them, and chains can go on from what was generated. `auto`
            has the server encode where it can (vLLM, our own), and looks for the server's own name of the model else;
            `None` does without.
        api_key: `None` takes it from the environment, see `API_KEY_VARIABLE`.
        reward: Answers `Score` requests; a `RemoteReward` or one in this process, or what chooses it once the server
            is known.
        max_in_flight: Most requests at the server at once; the others wait here.
        max_waiting: Most requests that wait.
        scheduler: Which programs' requests go first, a name of `SCHEDULING_POLICIES`. What runs is never paused.
        retries: When a request is sent again.
        bounds: How long things may take.
        clock, rng, wall_time: Time and randomness, for retries and scheduling.
        transport: What stands in for the network in tests: `(httpx.BaseTransport, httpx.AsyncBaseTransport)`.

    Raises:
        EngineError: There is no server there, or not now.
        ConfigurationError: The address cannot work, the key is refused, or the server has not that model.
        ModelLoadError: The tokenizer that was named is not there.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        dialect: str = "auto",
        tokenizer: str | Path | LoadedModel | None = "auto",
        api_key: str | None = None,
        reward: RewardModel | RewardChoice | None = None,
        max_in_flight: int = 32,
        max_waiting: int = 10_000,
        scheduler: str = DEFAULT_SCHEDULER,
        retries: RetryPolicy | None = None,
        bounds: Bounds | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        wall_time: Any = time.time,
        transport: tuple[Any, Any] | None = None,
    ) -> None:
        check_positive(max_in_flight=max_in_flight, max_waiting=max_waiting)
        bounds, clock = bounds or Bounds(), clock or MonotonicClock()
        self.address = read_address(url, api_key)
        sync_transport, async_transport = transport or (None, None)
        self.found: Found = look_at_server(
            self.address,
            model=model,
            dialect=dialect,
            timeout_s=bounds.connect_s,
            transport=sync_transport,
        )
        self._name = f"{self.found.dialect.name}({self.found.model} at {self.address.label})"
        self.loaded = find_tokenizer(tokenizer, self.found)
        check_agreement(
            self.loaded, self.found, self.address, timeout_s=bounds.connect_s, transport=sync_transport
        )
        self.writer: PromptWriter = choose_writer(self.loaded, self.found, self._name, asked=tokenizer)
        self._max_waiting = max_waiting
        self._rng = rng or random.Random()
        self._rng_lock = threading.Lock()
        self._is_counted_by_server = True
        self._knowledge = self._know()
        self._priorities = Priorities()
        self._ledger = Ledger(self._name)
        if reward is not None and not isinstance(reward, RewardModel):
            reward = reward(self.found, self.loaded)
        self._scoring = Scoring(reward, self._ledger, self.loaded)
        self._scheduling: ProgramScheduling = make_scheduling(scheduler, max_in_flight, clock)
        self.worker = RemoteWorker(
            self._ledger,
            self._scheduling,
            self.writer,
            BodyBuilder(self.found, self.loaded),
            partial(open_client, self.address, bounds, max_in_flight, async_transport),
            partial(
                Exchange,
                address=self.address,
                policy=retries or RetryPolicy(),
                bounds=bounds,
                clock=clock,
                rng=random.Random(self._rng.random()),
                wall_time=wall_time,
            ),
        )
        self._finalizer = weakref.finalize(self, _shut_down, self._ledger, self.worker, self._scoring)
        self.worker.thread.start()

    @property
    def name(self) -> str:
        """Such as `vllm(Qwen/Qwen3-8B at 127.0.0.1:8000)`."""
        return self._name

    @property
    def abilities(self) -> frozenset[Ability]:
        """What the server honours, by its dialect; scores where there is a reward model."""
        return self.found.dialect.abilities | self._scoring.abilities

    @property
    def progress(self) -> int:
        """Grows with each piece that comes; see `ReportsProgress`."""
        return self.worker.num_pieces + self.worker.num_ended + self._scoring.num_batches

    @property
    def num_in_flight(self) -> int:
        """Requests that were taken and have not ended yet."""
        return len(self._ledger)

    @property
    def num_sent(self) -> int:
        """Requests that went over the wire, each attempt counted."""
        return self.worker.exchange.num_sent if self.worker.exchange else 0

    @property
    def num_retries(self) -> int:
        """Those of them that were sent again."""
        return self.worker.exchange.num_retries if self.worker.exchange else 0

    @property
    def is_counted_by_server(self) -> bool:
        """Whether every account of tokens so far is the server's own; else some were counted or estimated here."""
        return self._is_counted_by_server

    def submit(self, requests: Sequence[Request], sink: Sink) -> None:
        """Take requests, all or none; see `Engine.submit`.

        Raises:
            EngineError: The engine is closed or has lost its server, or too many requests wait.
        """
        self._ledger.check_open()
        check_abilities(self._name, self.abilities, requests)
        if len(self._ledger) + len(requests) > self._max_waiting:
            raise EngineError(
                f"{self._name} has {len(self._ledger)} requests in hand and takes at most {self._max_waiting}. Wait for "
                "some, or raise max_waiting."
            )
        tracks = [self._make_track(request, sink) for request in requests]
        if tracks:
            self._ledger.enter(tracks, self._start)

    def cancel(self, keys: Sequence[RequestKey]) -> None:
        """Close the streams of requests; see `Engine.cancel`."""
        marked = self._ledger.mark_cancelled(keys)
        if remote := [track for track in marked if isinstance(track, RemoteTrack)]:
            self.worker.cancel(remote)
        if len(remote) < len(marked):
            self._scoring.cancel()

    def note_program(self, program_id: str, plan: ProgramPlan) -> None:
        """A program begins or stands elsewhere now; see `SchedulesPrograms`."""
        self._priorities.note(program_id, plan.terms.priority)
        self._scheduling.note_program(program_id, plan)

    def note_end(self, program_id: str) -> None:
        """A program is over; see `SchedulesPrograms`."""
        self._priorities.forget(program_id)
        self._scheduling.note_end(program_id)

    def check_health(self) -> None:
        """Raise `EngineError` if the engine was closed, or lost its server."""
        self._ledger.check_open()

    def close(self) -> None:
        """End everything in flight as cancelled and join the thread. Safe to call twice."""
        self._finalizer()

    def __enter__(self) -> RemoteEngine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _start(self, tracks: Sequence[RemoteTrack | ScoreTrack]) -> None:
        if remote := [track for track in tracks if isinstance(track, RemoteTrack)]:
            self.worker.start(remote)
        if scoring := [track for track in tracks if isinstance(track, ScoreTrack)]:
            self._scoring.start(scoring)

    def _make_track(self, request: Request, sink: Sink) -> RemoteTrack | ScoreTrack:
        if not isinstance(request, Generate):
            return self._scoring.make_track(request, sink)
        check_sampling(request.sampling, self.found.dialect, self._name)
        wire = self.writer.write(request.prompt)
        track = RemoteTrack(
            request=self._seed(request),
            sink=sink,
            serial=f"hf_dynasor-{_instance}-{next(_serials)}",
            knowledge=self._knowledge,
            wire=wire,
            priority=self._priorities.get(request.key.program_id),
        )
        if wire is not None and wire.ids is not None:
            self._check_length(len(wire.ids), request.sampling.max_new_tokens)
        return track

    def _seed(self, request: Generate) -> Generate:
        """A stream that breaks is asked for again from the beginning: its draws must be the same then."""
        sampling = request.sampling
        is_free = request.stream and sampling.temperature > 0 and sampling.seed is None
        if not is_free or Ability.SEEDS not in self.found.dialect.abilities:
            return request
        with self._rng_lock:
            seed = self._rng.randrange(2**31)
        return replace(request, sampling=replace(sampling, seed=seed))

    def _check_length(self, num_prompt_tokens: int, max_new_tokens: int) -> None:
        limit = self.found.max_length
        total = num_prompt_tokens + max_new_tokens
        if limit is not None and total > limit:
            raise ConfigurationError(
                f"Got a prompt of {num_prompt_tokens} tokens and {max_new_tokens = }, {total} together, but "
                f"{self._name} takes at most {limit}. Shorten the prompt or lower max_new_tokens (of a chain of thought: "
                "its budget)."
            )

    def _know(self) -> Knowledge:
        return Knowledge(
            tokenizer=self.loaded.tokenizer if self.loaded is not None else None,
            eos_token_ids=self.loaded.eos_token_ids if self.loaded is not None else frozenset(),
            stops_here=not self.found.dialect.stops_itself,
            on_uncounted=self._note_uncounted,
        )

    def _note_uncounted(self) -> None:
        if self._is_counted_by_server:
            self._is_counted_by_server = False
            how = "with the tokenizer" if self.loaded is not None else "by pieces and characters, roughly"
            logger.warning(
                "%s gave no account of a request's tokens: they are counted here, %s.", self._name, how
            )


def _shut_down(ledger: Ledger, worker: RemoteWorker, scoring: Scoring) -> None:
    ledger.refuse_new("is closed.")
    worker.stop(CLOSE_TIMEOUT_S)
    scoring.stop(CLOSE_TIMEOUT_S)
    ledger.end("is closed.", FinishReason.CANCELLED)
