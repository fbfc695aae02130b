"""A reward model that is loaded when it is first asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from hf_dynasor.serving.rewards.model import RewardModel
from hf_dynasor.serving.rewards.steps import EncodedStep, Rating, StepInput


class LazyReward:
    """Stands for a reward model until somebody scores, so that an engine that never scores never loads one.

    Args:
        load: Loads it; called once, in the thread that asks first.
    """

    def __init__(self, load: Callable[[], RewardModel]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._loaded: RewardModel | None = None

    @property
    def loaded(self) -> RewardModel:
        """The model itself."""
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    @property
    def name(self) -> str:
        """The model's name."""
        return self.loaded.name

    @property
    def normaliser(self) -> str:
        """The model's normaliser."""
        return self.loaded.normaliser

    def encode(self, step: StepInput) -> EncodedStep:
        """What the model will read."""
        return self.loaded.encode(step)

    def score(self, steps: Sequence[EncodedStep]) -> list[Rating]:
        """The model's ratings."""
        return self.loaded.score(steps)
