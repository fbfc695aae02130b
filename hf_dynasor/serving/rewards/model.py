"""The protocol of reward models: what an engine needs to answer `Score` requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from hf_dynasor.serving.rewards.steps import EncodedStep, Rating, StepInput


@runtime_checkable
class RewardModel(Protocol):
    """Rates steps in [0, 1]. Used from one thread at a time, but for `encode`, which any thread may call."""

    @property
    def name(self) -> str:
        """What it is, for messages and records."""
        ...

    @property
    def normaliser(self) -> str:
        """How its raw output becomes a number in [0, 1], such as `sigmoid of the scalar head`."""
        ...

    def encode(self, step: StepInput) -> EncodedStep:
        """What it will read.

        Raises:
            ConfigurationError: The path does not fit its context, or its text cannot be laid out.
        """
        ...

    def score(self, steps: Sequence[EncodedStep]) -> list[Rating]:
        """Rate steps together, in order; a step's score does not depend on those beside it."""
        ...


def rate_steps(reward: RewardModel, question: str, steps: Sequence[str]) -> list[Rating]:
    """Rate every step of a chain, without an engine.

    Args:
        reward: The reward model.
        question: What the user asked.
        steps: The chain in pieces; joined they are its text, so each brings its own blank lines.

    Returns:
        One rating for each step, given those before it.
    """
    paths = [StepInput.of(question, steps[:end]) for end in range(1, len(steps) + 1)]
    return reward.score([reward.encode(path) for path in paths])
