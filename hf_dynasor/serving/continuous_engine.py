"""The engine for many programs at once: transformers' continuous batching over shared pages.

Every step runs whatever is in flight, each request at its own position; prompts that begin alike share the pages
of their common beginning, generated tokens included.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
import transformers

from hf_dynasor.core import FinishReason
from hf_dynasor.engine import Ability
from hf_dynasor.errors import ConfigurationError, UnsupportedError
from hf_dynasor.serving.failures import describe_death, describe_error, is_out_of_memory
from hf_dynasor.serving.loading import LoadedModel
from hf_dynasor.serving.local_engine import LocalEngine, check_positive
from hf_dynasor.serving.model_source import first_line
from hf_dynasor.serving.padded_batch import find_cache_kind
from hf_dynasor.serving.rewards.model import RewardModel
from hf_dynasor.serving.sampling import draw_tokens
from hf_dynasor.serving.tracks import Ledger, Track

if TYPE_CHECKING:
    from hf_dynasor.serving._transformers_internals import PagedLoop, Pages

logger = logging.getLogger(__name__)

CPU_CACHE_BYTES = 512 * 2**20
CPU_MAX_BLOCKS = 2048
CPU_MAX_BATCH_TOKENS = 512
_ADVICE = "Use GenerateEngine instead (engine='generate')."


class ContinuousBatchingEngine(LocalEngine):
    """Runs requests through `model.init_continuous_batching`, with seeds, stop strings and log-probabilities.

    Args:
        loaded: The model. All of its layers must keep full attention.
        page_size: Tokens of a page: the grain in which beginnings are shared.
        num_blocks: Pages of the cache. On a CPU `None` takes what fits 512 MiB, at most 2048; elsewhere
            transformers takes most of the accelerator's free memory.
        max_batch_tokens: Most tokens that one step computes; longer prompts are split. `None` means 512 on a
            CPU and is left to transformers elsewhere.
        reward: Answers `Score` requests.

    Raises:
        UnsupportedError: Continuous batching cannot run the model, this release of transformers is unknown, or
            there is not enough memory for the cache. The model is left as it was.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        page_size: int = 16,
        num_blocks: int | None = None,
        max_batch_tokens: int | None = None,
        reward: RewardModel | None = None,
    ) -> None:
        given = {"page_size": page_size, "num_blocks": num_blocks, "max_batch_tokens": max_batch_tokens}
        check_positive(**{option: value for option, value in given.items() if value is not None})
        internals = _import_internals()
        internals.check_supported(loaded.model, loaded.name)
        if find_cache_kind(loaded.model) != "joinable":
            raise UnsupportedError(
                f"{loaded.name} has layers without full attention, which cannot share pages here. {_ADVICE}"
            )
        name = f"continuous({loaded.name})"
        ledger = Ledger(name)
        backend = _PagedBackend(ledger)
        sizes = _choose_sizes(loaded, page_size, num_blocks, max_batch_tokens)
        backend.loop = _make_loop(internals, loaded, backend, sizes)
        abilities = {Ability.SEEDS, Ability.LOGPROBS, Ability.STREAM, Ability.PREFIX_REUSE}
        with ExitStack() as undo:
            undo.callback(backend.stop, 0.0)
            super().__init__(name, loaded, frozenset(abilities), ledger, backend, reward)
            undo.pop_all()
        self._paged = backend
        backend.loop.start()

    def count_pages(self) -> Pages:
        """How full the cache is now."""
        return self._paged.loop.count_pages()


class _PagedBackend:
    """Between tracks and the paged loop, whose observer it is."""

    loop: PagedLoop

    def __init__(self, ledger: Ledger) -> None:
        self.name = ledger.name
        self._ledger = ledger
        self._tracks: dict[str, Track] = {}
        self._lock = threading.Lock()
        self._is_stopping = False
        self.num_steps = self.num_tokens_drawn = 0

    def check_fits(self, num_prompt_tokens: int, max_new_tokens: int) -> None:
        """Raise `ConfigurationError` for a request that is larger than the whole cache."""
        total = num_prompt_tokens + max_new_tokens
        if total > self.loop.capacity:
            raise ConfigurationError(
                f"Got a prompt of {num_prompt_tokens} tokens and {max_new_tokens = }, {total} together, but the cache "
                f"of this engine holds {self.loop.capacity}. Raise num_blocks or lower max_new_tokens."
            )

    def start(self, tracks: Sequence[Track]) -> None:
        """Queue all tracks or none."""
        with ExitStack() as undo:
            for track in tracks:
                with self._lock:
                    self._tracks[track.serial] = track
                undo.callback(self._withdraw, track)
                self.loop.add(track.serial, track.prompt_ids, track.request.sampling.max_new_tokens)
            undo.pop_all()

    def cancel(self, tracks: Sequence[Track]) -> None:
        """Have tracks dropped before the next step."""
        for track in tracks:
            self.loop.cancel(track.serial)

    def stop(self, timeout_s: float) -> None:
        """End the loop."""
        self._is_stopping = True
        if not self.loop.stop(timeout_s):
            logger.warning("The thread of %s did not end within %s s.", self.name, timeout_s)

    def draw(self, names: Sequence[str], logits: torch.Tensor) -> list[int]:
        """Draw for the requests that are still wanted; the others get a token that nobody sees."""
        self.num_steps += 1
        tracks = [self._find(name) for name in names]
        wanted = [index for index, track in enumerate(tracks) if track is not None and not track.is_cancelled]
        tokens = [0] * len(names)
        if wanted:
            live = [track for track in tracks if track is not None and not track.is_cancelled]
            drawn = draw_tokens(
                logits if len(live) == len(names) else logits[wanted], [t.sampler for t in live]
            )
            self.num_tokens_drawn += len(live)
            for index, track, row in zip(wanted, live, drawn.list_rows(), strict=True):
                tokens[index] = row[0]
                if self._ledger.advance(track, *row):
                    self._drop(track)
        for unwanted in tracks:
            if unwanted is not None and unwanted.is_cancelled:
                self._ledger.settle(unwanted, FinishReason.CANCELLED)
                self._drop(unwanted)
        return tokens

    def mark_started(self, name: str) -> None:
        """From now on the prompt counts."""
        if track := self._find(name):
            track.is_started = True

    def count_reused(self, name: str, num_tokens: int) -> None:
        """Note what was shared; after a restart for lack of pages, the smaller number is the true one."""
        if track := self._find(name):
            track.num_cached = min(track.num_cached, num_tokens) if track.is_started else num_tokens

    def confirm_cancelled(self, names: Sequence[str]) -> None:
        """Settle what was cancelled from outside."""
        for name in names:
            if track := self._find(name):
                self._ledger.settle(track, FinishReason.CANCELLED)
                self._forget(name)

    def end(self, error: BaseException | None) -> None:
        """Settle what is left when the loop is over."""
        if self._is_stopping and error is None:
            self._ledger.end("is closed.", FinishReason.CANCELLED)
        else:
            why = describe_death(error, sizes="num_blocks or max_batch_tokens")
            self._ledger.end(why, FinishReason.FAILED, describe_error(error))

    def _withdraw(self, track: Track) -> None:
        track.is_settled = True  # nobody was told that it was taken, so nobody hears of it
        self._drop(track)

    def _drop(self, track: Track) -> None:
        self.loop.cancel(track.serial)
        self._forget(track.serial)

    def _find(self, name: str) -> Track | None:
        with self._lock:
            return self._tracks.get(name)

    def _forget(self, name: str) -> None:
        with self._lock:
            self._tracks.pop(name, None)


def _import_internals() -> Any:
    """The file with the private names, which another release of transformers may not even let be imported."""
    try:
        from hf_dynasor.serving import _transformers_internals
    except ImportError as error:
        raise UnsupportedError(
            f"Continuous batching of transformers {transformers.__version__} is not what this package knows ({error}). "
            + _ADVICE
        ) from error
    return _transformers_internals


def _make_loop(
    internals: Any, loaded: LoadedModel, backend: _PagedBackend, sizes: dict[str, int | None]
) -> PagedLoop:
    try:
        loop: PagedLoop = internals.PagedLoop(loaded.model, backend, **sizes)
    except ValueError as error:
        raise UnsupportedError(f"Continuous batching cannot run {loaded.name}: {error}. {_ADVICE}") from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UnsupportedError(
            f"There is not enough memory for the cache of {backend.name} (num_blocks={sizes['num_blocks']}): "
            f"{first_line(error)}. Lower num_blocks. {_ADVICE}"
        ) from error
    return loop


def _choose_sizes(
    loaded: LoadedModel, page_size: int, num_blocks: int | None, max_batch_tokens: int | None
) -> dict[str, int | None]:
    if loaded.model.device.type == "cpu":
        num_blocks = _fit_num_blocks(loaded, page_size) if num_blocks is None else num_blocks
        max_batch_tokens = CPU_MAX_BATCH_TOKENS if max_batch_tokens is None else max_batch_tokens
    return {"page_size": page_size, "num_blocks": num_blocks, "max_batch_tokens": max_batch_tokens}


def _fit_num_blocks(loaded: LoadedModel, page_size: int) -> int:
    return max(8, min(CPU_MAX_BLOCKS, CPU_CACHE_BYTES // (loaded.kv_bytes_per_token * page_size)))
