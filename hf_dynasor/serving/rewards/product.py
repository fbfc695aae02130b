"""Reward models combined: a step is as good as all of them find it together."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hf_dynasor.errors import ConfigurationError
from hf_dynasor.serving.rewards.model import RewardModel
from hf_dynasor.serving.rewards.steps import EncodedStep, Rating, StepInput


class ProductReward:
    """The product of the scores of several reward models; each reads every step.

    Args:
        rewards: Two or more models.

    Raises:
        ConfigurationError: There are fewer than two.
    """

    def __init__(self, *rewards: RewardModel) -> None:
        if len(rewards) < 2:
            raise ConfigurationError(f"Got {len(rewards)} reward models but a product takes at least two.")
        self._rewards = rewards

    @property
    def name(self) -> str:
        """The names, joined."""
        return " * ".join(reward.name for reward in self._rewards)

    @property
    def normaliser(self) -> str:
        """The normalisers, joined."""
        return "product of: " + "; ".join(reward.normaliser for reward in self._rewards)

    def encode(self, step: StepInput) -> EncodedStep:
        """What each of them reads."""
        return EncodedStep(parts=tuple(reward.encode(step) for reward in self._rewards))

    def score(self, steps: Sequence[EncodedStep]) -> list[Rating]:
        """The products; tokens read are those of all together."""
        columns = [
            reward.score([step.parts[index] for step in steps]) for index, reward in enumerate(self._rewards)
        ]
        return [
            Rating(
                score=math.prod(rating.score for rating in row),
                num_read=sum(rating.num_read for rating in row),
                num_reused=sum(rating.num_reused for rating in row),
            )
            for row in zip(*columns, strict=True)
        ]
