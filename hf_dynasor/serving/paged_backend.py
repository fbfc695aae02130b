"""Between tracks and the paged loop: draws, counts and ends requests, and asks the scheduler which of them run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch

from hf_dynasor.core import FinishReason
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.serving.failures import describe_death, describe_error
from hf_dynasor.serving.program_scheduling import Computed, ProgramScheduling
from hf_dynasor.serving.sampling import draw_tokens
from hf_dynasor.serving.tracks import Ledger, Track

if TYPE_CHECKING:
    from hf_dynasor.serving._transformers_internals import PagedLoop

logger = logging.getLogger(__name__)


class PagedBackend:
    """Between tracks and the paged loop, whose observer it is."""

    loop: PagedLoop
    scheduling: ProgramScheduling

    def __init__(self, ledger: Ledger) -> None:
        self.name = ledger.name
        self._ledger = ledger
        self._tracks: dict[str, Track] = {}
        self._lock = threading.Lock()
        self._is_stopping = False
        self.num_steps = self.num_tokens_drawn = 0

    @property
    def capacity(self) -> int | None:
        """Tokens that the whole cache holds."""
        return self.loop.capacity

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
                    self.scheduling.finished(track.serial, len(track.tokens))
                    self._drop(track)
        for unwanted in tracks:
            if unwanted is not None and unwanted.is_cancelled:
                self._ledger.settle(unwanted, FinishReason.CANCELLED)
                self.scheduling.cancelled(unwanted.serial)
                self._drop(unwanted)
        return tokens

    def enqueue(self, name: str) -> None:
        """The scheduler hears of a request when the loop does; one that was withdrawn meanwhile never runs."""
        if track := self._find(name):
            max_tokens = track.request.sampling.max_new_tokens
            self.scheduling.enqueue(name, track.key, len(track.prompt_ids), max_tokens)

    def choose(self) -> Sequence[str]:
        """The scheduler's choice."""
        return self.scheduling.choose()

    def note_run(self, computed: Sequence[Computed]) -> None:
        """The scheduler hears what was run of its choice."""
        self.scheduling.note_run(computed)

    def find_parked(self) -> str | None:
        """The scheduler's."""
        return self.scheduling.find_parked()

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
            self.scheduling.cancelled(name)
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
