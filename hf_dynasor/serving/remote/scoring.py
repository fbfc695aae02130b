"""`Score` requests of a remote engine: read as texts, rated in a thread of their own, by a server or by a model here."""

from __future__ import annotations

from collections.abc import Sequence

from hf_dynasor.core import Chat, Prompt, Request, Score, TokenIds
from hf_dynasor.engine import Ability, Sink
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.serving.loading import LoadedModel
from hf_dynasor.serving.prompts import PromptEncoder
from hf_dynasor.serving.rewards.model import RewardModel
from hf_dynasor.serving.rewards.steps import PromptReader, StepInput
from hf_dynasor.serving.rewards.worker import ScoreTrack, ScoreWorker
from hf_dynasor.serving.tracks import Ledger


class Scoring:
    """Takes `Score` requests where there is a reward model.

    Args:
        reward: Rates steps; `None` for an engine that scores nothing.
        ledger: Where requests begin and end.
        loaded: The generator's tokenizer, to read its token ids; without it steps must be texts.
    """

    def __init__(self, reward: RewardModel | None, ledger: Ledger, loaded: LoadedModel | None) -> None:
        self._reward = reward
        self._worker = ScoreWorker(reward, ledger) if reward is not None else None
        self._reader = PromptReader(loaded, PromptEncoder(loaded)) if loaded is not None else None

    @property
    def abilities(self) -> frozenset[Ability]:
        """Scores, or nothing."""
        return frozenset() if self._reward is None else frozenset({Ability.SCORE})

    @property
    def num_batches(self) -> int:
        """Batches rated so far."""
        return self._worker.num_batches if self._worker is not None else 0

    def make_track(self, request: Request, sink: Sink) -> ScoreTrack:
        """What a request becomes.

        Raises:
            ConfigurationError: It is none, or its prompt cannot be read.
        """
        if not isinstance(request, Score) or self._reward is None:
            raise ConfigurationError(
                f"Got a request of type {type(request).__name__} but expected Generate or Score."
            )
        read = self._reader.read if self._reader is not None else _read_texts
        return ScoreTrack(request=request, step=self._reward.encode(read(request.prompt)), sink=sink)

    def start(self, tracks: Sequence[ScoreTrack]) -> None:
        """Queue tracks; returns at once."""
        assert self._worker is not None  # without it the request would not have been taken
        self._worker.start(tracks)

    def cancel(self) -> None:
        """Look at the marks."""
        if self._worker is not None:
            self._worker.cancel()

    def stop(self, timeout_s: float) -> None:
        """End the thread."""
        if self._worker is not None:
            self._worker.stop(timeout_s)


def _read_texts(prompt: Prompt) -> StepInput:
    """The last segment is the step, the first is the opening; all of them texts."""
    opening, *rest = prompt.segments
    texts = [segment for segment in rest if isinstance(segment, str)]
    if isinstance(opening, TokenIds) or len(texts) < len(rest):
        raise ConfigurationError(
            "Got token ids to score, which only the model's tokenizer can turn into text. Name it: tokenizer= "
            "(--tokenizer)."
        )
    if not texts:
        raise ConfigurationError(
            "Got a prompt of one segment to score but expected at least two: the question, and the step that is rated "
            "as the last one."
        )
    asked: Chat | str = opening
    return StepInput(opening=asked, context=tuple(texts[:-1]), step=texts[-1])
