"""Rebase: reward-balanced tree search (knob: width).

Every wave adds one step to each path that is kept. Steps are rated, and the next wave's width is shared out by the
softmax of the rewards, so that good partial solutions branch and bad ones end. Finished paths are kept, take their
place out of the width, and vote with their rewards as weights (paper §1, §2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hf_dynasor.core import Prompt
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.programs.nodes import Node, Place
from hf_dynasor.programs.tree_options import TreeOptions
from hf_dynasor.programs.width_program import WidthProgram

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Rebase(WidthProgram):
    """Balance the width of a tree by the rewards of its partial solutions.

    A grant of n units grows a tree of its own of width n from the prompt; the leaves of all grants vote together.

    Args:
        prompt: What every path continues.
        reward_temperature: Of the softmax; near 0 the best partial solution takes all of the width, a large one
            shares evenly.
        options: Those of `TreeProgram`.

    Examples:
        >>> from hf_dynasor.drivers import run
        >>> from hf_dynasor.scheduler import Even
        >>> from hf_dynasor.testing import Reply, ScriptedEngine
        >>> engine = ScriptedEngine(lambda request: Reply(text="So \\\\boxed{4}.", probability=0.9))
        >>> answer = run(Rebase(Prompt.chat("What is 2+2?"), budget=3), engine, Even())
        >>> answer.text, answer.units_spent, answer.certaindex.entropy
        ('4', 3, 1.0)
    """

    name = "rebase"
    preset = "rebase/math"

    def __init__(
        self, prompt: Prompt, *, reward_temperature: float = 0.2, **options: Unpack[TreeOptions]
    ) -> None:
        super().__init__(prompt, **options)
        _check_temperature(reward_temperature)
        self.reward_temperature = reward_temperature

    def share_out(self, live: Sequence[Node], free: Sequence[int]) -> list[Place]:
        """The free units, in proportion to the softmax of the rewards."""
        shares = allocate_width(
            [node.reward or 0.0 for node in live], width=len(free), temperature=self.reward_temperature
        )
        parents = [node for node, share in zip(live, shares, strict=True) for _ in range(share)]
        return [Place(parent=parent, unit=unit) for parent, unit in zip(parents, free, strict=True)]


def allocate_width(rewards: Sequence[float], *, width: int, temperature: float) -> list[int]:
    """Share a width out by softmax(reward / temperature), by largest remainder.

    The shares add up to the width exactly, and each is within one of its exact quota: rounding up from the front
    would leave nothing for the last ones.

    Args:
        rewards: One for each partial solution, in [0, 1]; at least one.
        width: Units to share out.
        temperature: Above 0.

    Returns:
        The share of each; of equal remainders the higher reward, then the one that comes first, gets the unit.

    Examples:
        >>> allocate_width([0.9, 0.5, 0.1], width=8, temperature=0.5)
        [5, 2, 1]
        >>> allocate_width([0.5, 0.5, 0.5], width=4, temperature=0.2)
        [2, 1, 1]
    """
    _check_temperature(temperature)
    if not rewards:
        raise ConfigurationError(f"Got no reward to share {width = } by but expected at least one.")
    highest = max(rewards)
    weights = [math.exp((reward - highest) / temperature) for reward in rewards]
    total = math.fsum(weights)
    quotas = [width * weight / total for weight in weights]
    shares = [math.floor(quota) for quota in quotas]
    by_remainder = sorted(
        range(len(quotas)), key=lambda index: (shares[index] - quotas[index], -rewards[index], index)
    )
    for index in by_remainder[: width - sum(shares)]:
        shares[index] += 1
    return shares


def _check_temperature(temperature: float) -> None:
    if not (math.isfinite(temperature) and temperature > 0):
        raise ConfigurationError(
            f"Got reward temperature = {temperature} but expected a number above 0, such as 0.2."
        )
