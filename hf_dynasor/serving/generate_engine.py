"""The engine for offline work: rows of one padded batch, decoded together with the model's own `forward`.

Rows join when there is room and leave when they end, so the batch is as small as the work that is left. Greedy
tokens equal `model.generate`'s. Models whose cache cannot lose rows run through `model.generate` itself.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch

from hf_dynasor.core import FinishReason, Prompt
from hf_dynasor.engine import Ability
from hf_dynasor.serving.failures import describe_death, describe_error
from hf_dynasor.serving.hidden_states import read_hidden_states
from hf_dynasor.serving.loading import LoadedModel
from hf_dynasor.serving.local_engine import LocalEngine, check_positive
from hf_dynasor.serving.padded_batch import PaddedBatch, find_cache_kind
from hf_dynasor.serving.plain_generate import generate_rows
from hf_dynasor.serving.rewards.model import RewardModel
from hf_dynasor.serving.sampling import draw_tokens
from hf_dynasor.serving.tracks import Ledger, Track

logger = logging.getLogger(__name__)

CPU_CACHE_BYTES = 2 * 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much runs at once; see `GenerateEngine`."""

    max_batch_size: int
    max_prefill_tokens: int
    max_cache_tokens: int

    def __post_init__(self) -> None:
        check_positive(**{item.name: getattr(self, item.name) for item in fields(self)})


class GenerateEngine(LocalEngine):
    """Decodes up to `max_batch_size` requests at a time as rows of one left-padded batch.

    Per-request seeds are honoured: a request draws the same tokens whatever runs beside it, as far as the
    model computes the same logits (float32 on a CPU does up to rounding). Equal prompts that arrive together
    are computed once, and counted as cached for all but the first.

    Args:
        loaded: The model.
        max_batch_size: Most rows that decode together; further requests wait.
        max_prefill_tokens: Most tokens, padding included, that one prefill computes, unless a single prompt is
            longer.
        max_cache_tokens: Most tokens, padding included, that the batch may grow to; a request that needs more
            runs alone. `None` takes what fits 2 GiB, or half of a CUDA device's free memory.
        reward: Answers `Score` requests.

    Raises:
        UnsupportedError: The model is split over processes. One whose layers are on several devices runs.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        max_batch_size: int = 64,
        max_prefill_tokens: int = 4096,
        max_cache_tokens: int | None = None,
        reward: RewardModel | None = None,
    ) -> None:
        loaded.check_whole("The engine 'generate'")
        if max_cache_tokens is None:
            max_cache_tokens = _count_affordable_tokens(loaded)
        limits = Limits(
            max_batch_size=max_batch_size,
            max_prefill_tokens=max_prefill_tokens,
            max_cache_tokens=max_cache_tokens,
        )
        name = f"generate({loaded.name})"
        ledger = Ledger(name)
        worker = _Worker(loaded, ledger, limits)
        abilities = frozenset({Ability.SEEDS, Ability.LOGPROBS, Ability.STREAM, Ability.HIDDEN_STATES})
        super().__init__(name, loaded, abilities, ledger, worker, reward)
        worker.thread.start()

    def read_hidden_states(self, prompts: Sequence[Prompt]) -> list[tuple[float, ...]]:
        """The hidden state of each prompt's last token; see `ReadsHiddenStates`."""
        self.check_health()
        return read_hidden_states(self.loaded, [self._encoder.encode(prompt) for prompt in prompts])


class _Worker:
    """The engine's thread: takes what waits, steps the batch, lets go what has ended."""

    def __init__(self, loaded: LoadedModel, ledger: Ledger, limits: Limits) -> None:
        self._loaded = loaded
        self._ledger = ledger
        self._limits = limits
        self._cache_kind = find_cache_kind(loaded.model)
        self._waiting: deque[Track] = deque()
        self._running: list[Track] = []
        self._batch = self._make_batch()
        self._wake = threading.Condition()
        self._is_stopping = False
        self.num_steps = self.num_tokens_drawn = 0
        self.thread = threading.Thread(target=self._run, name=ledger.name, daemon=True)

    @property
    def capacity(self) -> int | None:
        """None besides the context."""
        return None

    def check_fits(self, num_prompt_tokens: int, max_new_tokens: int) -> None:
        """Every prompt that fits the model's context runs: the cache grows as needed."""

    def start(self, tracks: Sequence[Track]) -> None:
        """Queue tracks."""
        with self._wake:
            self._waiting.extend(tracks)
            self._wake.notify()

    def cancel(self, tracks: Sequence[Track]) -> None:
        """Wake the thread: it looks at the marks before it draws anything."""
        with self._wake:
            self._wake.notify()

    def stop(self, timeout_s: float) -> None:
        """End the thread at its next step."""
        with self._wake:
            self._is_stopping = True
            self._wake.notify()
        if self.thread is not threading.current_thread():
            self.thread.join(timeout_s)
        if self.thread.is_alive():
            logger.warning("The thread of %s did not end within %s s.", self._ledger.name, timeout_s)

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._settle_cancelled()
                self._admit()
                self._step()
        except (
            Exception
        ) as error:  # the boundary: whatever the model raises must reach the callers as failed completions
            logger.exception("%s died.", self._ledger.name)
            why = describe_death(error, sizes="max_batch_size or max_cache_tokens")
            self._ledger.end(why, FinishReason.FAILED, describe_error(error))
        finally:
            if not self._is_stopping:  # also where something worse than an exception ended the thread
                why = describe_death(None, sizes="")
                self._ledger.end(why, FinishReason.FAILED, describe_error(None))
            self._running, self._batch = [], self._make_batch()  # frees the keys and values

    def _wait_for_work(self) -> bool:
        with self._wake:
            self._wake.wait_for(lambda: self._is_stopping or self._waiting or self._running)
            return not self._is_stopping

    def _settle_cancelled(self) -> None:
        with self._wake:
            cancelled = [track for track in self._waiting if track.is_cancelled]
            self._waiting = deque(track for track in self._waiting if not track.is_cancelled)
        cancelled.extend(track for track in self._running if track.is_cancelled)
        for track in cancelled:
            self._ledger.settle(track, FinishReason.CANCELLED)
        self._keep([index for index, track in enumerate(self._running) if not track.is_settled])

    def _admit(self) -> None:
        """Let waiting requests join, prompts of about equal length first computed together."""
        if self._running and self._cache_kind != "joinable":
            return
        with self._wake:
            num_new = self._count_admissible()
            new = [self._waiting.popleft() for _ in range(num_new)]
        if new and self._cache_kind == "opaque":
            self._run_plain(new)
            return
        for group in (
            _split_by_tokens(new, self._limits.max_prefill_tokens)
            if self._cache_kind == "joinable"
            else [new]
        ):
            if group:
                self._prefill(group)

    def _count_admissible(self) -> int:
        """How many of those that wait find a place now: rows of the batch, and memory for all to grow to their end."""
        num_rows = len(self._running)
        longest = max((_get_full_length(track) for track in self._running), default=0)
        for count, track in enumerate(self._waiting):
            longest = max(longest, _get_full_length(track))
            num_rows += 1
            is_full = (
                num_rows > self._limits.max_batch_size or num_rows * longest > self._limits.max_cache_tokens
            )
            if is_full and num_rows > 1:
                return count
        return len(self._waiting)

    def _prefill(self, tracks: list[Track]) -> None:
        prompts: dict[tuple[int, ...], int] = {}
        for track in tracks:
            track.is_started = True
            if track.prompt_ids in prompts:
                track.num_cached = len(track.prompt_ids)
            prompts.setdefault(track.prompt_ids, len(prompts))
        part = self._make_batch()
        logits = part.prefill(list(prompts), [prompts[track.prompt_ids] for track in tracks])
        alive = self._push(tracks, logits)
        part.keep(alive)
        if alive:
            self._batch.join(part)
            self._running.extend(tracks[index] for index in alive)

    def _step(self) -> None:
        if self._running:
            logits = self._batch.step([track.tokens[-1] for track in self._running])
            self._keep(self._push(self._running, logits))

    def _push(self, tracks: list[Track], logits: torch.Tensor) -> list[int]:
        """Draw a token for every row that is still wanted; returns the indices of the rows that go on."""
        self.num_steps += 1
        for track in tracks:
            if track.is_cancelled:
                self._ledger.settle(track, FinishReason.CANCELLED)
        wanted = [index for index, track in enumerate(tracks) if not track.is_settled]
        if not wanted:
            return []
        picked = logits if len(wanted) == len(tracks) else logits[wanted]
        drawn = draw_tokens(picked, [tracks[index].sampler for index in wanted])
        self.num_tokens_drawn += len(wanted)
        moves = zip(wanted, drawn.list_rows(), strict=True)
        return [index for index, row in moves if not self._ledger.advance(tracks[index], *row)]

    def _keep(self, rows: list[int]) -> None:
        if len(rows) == len(self._running):
            return
        self._running = [self._running[index] for index in rows]
        self._batch.keep(rows)

    def _run_plain(self, tracks: list[Track]) -> None:
        """Run tracks to their end through `model.generate`."""
        for track in tracks:
            track.is_started = True
        generate_rows(
            self._loaded,
            [track.prompt_ids for track in tracks],
            lambda logits: self._draw_plain(tracks, logits),
        )
        for track in tracks:
            self._ledger.settle(track, FinishReason.CANCELLED)

    def _draw_plain(self, tracks: list[Track], logits: torch.Tensor) -> list[int | None]:
        """The next token of every row, or `None` for rows that are over."""
        if self._is_stopping:
            return [None] * len(tracks)
        live = [index for index, track in enumerate(tracks) if not track.is_settled]
        self._push([tracks[index] for index in live], logits[live])
        return [
            track.tokens[-1] if index in live and track.tokens else None for index, track in enumerate(tracks)
        ]

    def _make_batch(self) -> PaddedBatch:
        return PaddedBatch(self._loaded.model, self._loaded.pad_token_id)


def _count_affordable_tokens(loaded: LoadedModel) -> int:
    device = loaded.input_device
    budget = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else CPU_CACHE_BYTES
    return max(1, int(budget) // max(1, loaded.kv_bytes_per_token))


def _get_full_length(track: Track) -> int:
    return len(track.prompt_ids) + track.request.sampling.max_new_tokens


def _split_by_tokens(tracks: Sequence[Track], max_tokens: int) -> list[list[Track]]:
    """Groups of neighbours in length whose padded prompts hold at most `max_tokens`, or a single prompt each."""
    groups: list[list[Track]] = []
    for track in sorted(tracks, key=lambda track: len(track.prompt_ids), reverse=True):
        longest = len(groups[-1][0].prompt_ids) if groups else 0
        distinct = {other.prompt_ids for other in groups[-1]} | {track.prompt_ids} if groups else set()
        if groups and longest * len(distinct) <= max_tokens:
            groups[-1].append(track)
        else:
            groups.append([track])
    return groups
