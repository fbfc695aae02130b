"""The thread that scores: it takes what waits, rates it together, and settles it. Knows no model's inside.

Scores have a thread of their own beside the one that decodes, so a long path holds up no token; the bound on a
batch bounds how long a cancellation waits.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from hf_dynasor.core import Completion, FinishReason, RequestKey, Score, Usage
from hf_dynasor.engine import Sink
from hf_dynasor.serving.failures import describe_error
from hf_dynasor.serving.rewards.model import RewardModel
from hf_dynasor.serving.rewards.steps import EncodedStep
from hf_dynasor.serving.tracks import Ledger

logger = logging.getLogger(__name__)

MAX_BATCH_TOKENS = 8192
MAX_BATCH_STEPS = 64


@dataclass(slots=True, eq=False)
class ScoreTrack:
    """One `Score` request in flight. Only the scoring thread changes it, except for `is_cancelled`."""

    request: Score
    step: EncodedStep
    sink: Sink
    score: float | None = None
    usage: Usage = field(default_factory=Usage)
    is_cancelled: bool = False
    is_settled: bool = False

    @property
    def key(self) -> RequestKey:
        """The request's name."""
        return self.request.key

    def finish(self) -> str:
        """A score has no text."""
        return ""

    def complete(self, reason: FinishReason, error: str | None) -> Completion:
        """The completion: with its score if it has ended by itself."""
        score = self.score if reason is FinishReason.EOS else None
        return Completion(key=self.key, finish_reason=reason, usage=self.usage, score=score, error=error)


class ScoreWorker:
    """Rates tracks with one reward model. The thread begins with the first of them.

    A batch that fails ends its own requests as failed, with the reason; the next is tried anew.

    Attributes:
        num_batches: Batches rated so far.
        num_tokens_read: Tokens computed for scores; they are in the usage of the requests.
        num_tokens_reused: Tokens that were cached and not read again; they are in no usage.
    """

    def __init__(self, reward: RewardModel, ledger: Ledger) -> None:
        self.reward = reward
        self._ledger = ledger
        self._waiting: deque[ScoreTrack] = deque()
        self._wake = threading.Condition()
        self._is_stopping = False
        self._thread: threading.Thread | None = None
        self.num_batches = self.num_tokens_read = self.num_tokens_reused = 0

    def start(self, tracks: Sequence[ScoreTrack]) -> None:
        """Queue tracks; returns at once."""
        with self._wake:
            self._waiting.extend(tracks)
            if self._thread is None and not self._is_stopping:
                name = f"{self._ledger.name} scores"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()
            self._wake.notify()

    def cancel(self) -> None:
        """Wake the thread: it looks at the marks before every batch."""
        with self._wake:
            self._wake.notify()

    def stop(self, timeout_s: float) -> None:
        """End the thread after its batch; waits for it at most so long."""
        with self._wake:
            self._is_stopping = True
            self._wake.notify()
        if self._thread is None or self._thread is threading.current_thread():
            return
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            logger.warning("The thread of %s did not end within %s s.", self._thread.name, timeout_s)

    def _run(self) -> None:
        while self._wait_for_work():
            batch = self._take()
            if batch:
                self._rate(batch)

    def _wait_for_work(self) -> bool:
        with self._wake:
            self._wake.wait_for(lambda: self._is_stopping or self._waiting)
            return not self._is_stopping

    def _take(self) -> list[ScoreTrack]:
        """The oldest that fit a batch; every cancelled one is settled, wherever it waits."""
        with self._wake:
            cancelled = [track for track in self._waiting if track.is_cancelled]
            left = [track for track in self._waiting if not (track.is_cancelled or track.is_settled)]
            count = _count_fitting(left)
            batch, self._waiting = left[:count], deque(left[count:])
        for track in cancelled:
            self._ledger.settle(track, FinishReason.CANCELLED)
        return batch

    def _rate(self, batch: list[ScoreTrack]) -> None:
        try:
            ratings = self.reward.score([track.step for track in batch])
        except (
            Exception
        ) as error:  # the boundary: what the model raises reaches the callers as failed completions
            logger.exception("%s could not score %d steps.", self._ledger.name, len(batch))
            for track in batch:
                self._ledger.settle(track, FinishReason.FAILED, describe_error(error))
            return
        self.num_batches += 1
        for track, rating in zip(batch, ratings, strict=True):
            track.score = rating.score
            track.usage = Usage(reward=rating.num_read)
            self.num_tokens_read += rating.num_read
            self.num_tokens_reused += rating.num_reused
            self._ledger.settle(track, FinishReason.CANCELLED if track.is_cancelled else FinishReason.EOS)


def _count_fitting(tracks: Sequence[ScoreTrack]) -> int:
    total = 0
    for count, track in enumerate(tracks[:MAX_BATCH_STEPS]):
        total += track.step.num_tokens
        if count and total > MAX_BATCH_TOKENS:
            return count
    return min(len(tracks), MAX_BATCH_STEPS)
