"""How good is a step? Rewards of partial solutions in [0, 1], free ones and those of a reward model.

The likelihood of a step stands in the completion that generated it, so reading it costs nothing. A reward model is
asked with `Score` requests, whose tokens count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Protocol, TypeAlias, get_args, runtime_checkable

from hf_dynasor.certaindex.likelihood import (
    COMBINATIONS,
    Combination,
    check_pattern,
    combine_logprobs,
    rate_likelihood,
)
from hf_dynasor.core import Completion
from hf_dynasor.errors import ProgramError, name_unknown
from hf_dynasor.programs.pieces import Piece

StepReduction: TypeAlias = Literal["min", "product", "last"]


@runtime_checkable
class StepReward(Protocol):
    """Rates the steps of a path; frozen, and described whole by its `repr`."""

    @property
    def is_free(self) -> bool:
        """Whether it reads the generating completion's log-probabilities; else the program sends `Score` requests."""
        ...

    def read_piece(self, piece: Piece) -> float | None:
        """A free reward of one step, in [0, 1]; `None` for a piece without tokens."""
        ...

    def read_score(self, completion: Completion) -> float | None:
        """The reward of one step from the completion of its `Score` request; `None` where it failed."""
        ...

    def join(self, before: float | None, step: float | None) -> float | None:
        """The reward of a path from that of the path before its last step, and that step's own."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LikelihoodReward:
    """How likely the generator itself found what it wrote: no training, no further tokens.

    Args:
        tokens: How a step's tokens are combined: the least likely one's probability, their geometric mean, or their
            product; see `hf_dynasor.certaindex.likelihood`.
        steps: What a path's steps are reduced to: the worst, the product, or the last.
        pattern: A regular expression; only tokens that its first group matched count. `None` counts all, which
            also marks a path that leaves a step out.

    Examples:
        >>> import math
        >>> piece = Piece(text="2+2=4", token_ids=(1, 2), logprobs=(math.log(0.9), math.log(0.5)), offsets=(0, 4))
        >>> round(LikelihoodReward().read_piece(piece), 3)
        0.5
    """

    tokens: Combination = "minimum"
    steps: StepReduction = "min"
    pattern: str | None = None

    def __post_init__(self) -> None:
        if self.tokens not in COMBINATIONS:
            raise name_unknown("combination", self.tokens, COMBINATIONS)
        _check_steps(self.steps)
        check_pattern(self.pattern)

    @property
    def is_free(self) -> bool:
        """It is."""
        return True

    def read_piece(self, piece: Piece) -> float | None:
        """The likelihood of one step, in [0, 1]."""
        if not piece.token_ids:
            return None
        if piece.logprobs is None:
            raise ProgramError(
                "A likelihood reward reads log-probabilities, but the engine returned none. "
                "Use an engine that has them, or a reward model: reward='model'."
            )
        if self.pattern is None or piece.offsets is None:
            return combine_logprobs(piece.logprobs, self.tokens)
        return rate_likelihood(
            piece.text, piece.offsets, piece.logprobs, pattern=self.pattern, combination=self.tokens
        )

    def read_score(self, completion: Completion) -> float | None:
        """Never asked for."""
        raise ProgramError("A likelihood reward sends no Score requests.")

    def join(self, before: float | None, step: float | None) -> float | None:
        """The path's reward."""
        return _join(self.steps, before, step)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReward:
    """A reward model's score of each step, asked for with `Score` requests; their tokens are counted.

    Args:
        steps: What a path's steps are reduced to: the worst, the product, or the last (a model that rates the whole
            path each time).
    """

    steps: StepReduction = "min"

    def __post_init__(self) -> None:
        _check_steps(self.steps)

    @property
    def is_free(self) -> bool:
        """It is not."""
        return False

    def read_piece(self, piece: Piece) -> float | None:
        """Nothing can be read for free."""
        return None

    def read_score(self, completion: Completion) -> float | None:
        """The score; `None` where the request failed or was cancelled."""
        return completion.score

    def join(self, before: float | None, step: float | None) -> float | None:
        """The path's reward."""
        return _join(self.steps, before, step)


def choose_reward(reward: StepReward | str) -> StepReward:
    """A reward by its name, or the reward itself.

    Raises:
        ConfigurationError: No reward has that name.
    """
    if not isinstance(reward, str):
        return reward
    if reward not in REWARDS:
        raise name_unknown("reward", reward, REWARDS)
    return REWARDS[reward]


def _check_steps(steps: str) -> None:
    if steps not in get_args(StepReduction):
        raise name_unknown("reduction of steps", steps, get_args(StepReduction))


def _join(how: StepReduction, before: float | None, step: float | None) -> float | None:
    if before is None or step is None:
        return step if before is None else before
    return {"min": min(before, step), "product": before * step, "last": step}[how]


REWARDS: Mapping[str, StepReward] = MappingProxyType(
    {"likelihood": LikelihoodReward(), "model": ModelReward()}
)
"""Rewards by the names that a command line or a recipe uses."""
