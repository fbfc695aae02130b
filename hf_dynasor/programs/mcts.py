"""MCTS: Monte-Carlo tree search over steps (knob: iterations).

One iteration walks down from the prompt by UCT, draws steps where the tree is not grown out, follows the best of
them to the end of a path, and hands the path's reward up to every step on the way. The answer is that of the path
with the highest reward (paper §1, §2).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, TypeAlias

from hf_dynasor.certaindex import mean_signal
from hf_dynasor.core import Command, Completion, Prompt
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.program import Flow
from hf_dynasor.programs.nodes import Node, Place
from hf_dynasor.programs.search_tree import SearchTree
from hf_dynasor.programs.tree import TreeProgram
from hf_dynasor.programs.tree_options import TreeOptions

FollowFlow: TypeAlias = Generator[tuple[Command, ...], Completion, dict[int, Node]]


if TYPE_CHECKING:
    from typing_extensions import Unpack


class MCTS(TreeProgram):
    """Search for the path with the highest reward.

    Iterations run in batches of `num_parallel`: each of a batch sees the others on their way as visits that were
    worth nothing (a virtual loss), so they spread, and the batch is sent together. What the first iterations of a
    batch do does not depend on those that follow.

    Args:
        prompt: What every path continues.
        num_children: Steps that are drawn at a node before the search goes on below it.
        exploration: Weight of the UCT bonus for steps that were visited seldom.
        has_rollouts: Whether an iteration follows its best new step to the end of a path; without, that step's reward
            is its value, and paths end only where the tree has grown to their ends.
        num_parallel: Iterations of a batch.
        options: Those of `TreeProgram`.
    """

    name = "mcts"
    unit = "iterations"
    preset = "mcts/gsm8k"

    def __init__(
        self,
        prompt: Prompt,
        *,
        num_children: int = 2,
        exploration: float = 0.5,
        has_rollouts: bool = True,
        num_parallel: int = 4,
        **options: Unpack[TreeOptions],
    ) -> None:
        super().__init__(prompt, **options)
        if num_parallel < 1:
            raise ConfigurationError(f"Got {num_parallel = } but expected at least 1.")
        self.has_rollouts = has_rollouts
        self.num_parallel = num_parallel
        self.tree = SearchTree(self.root, num_children=num_children, exploration=exploration)

    def execute(self, grant: int) -> Flow:
        """Run `grant` iterations, batch after batch."""
        units = self.take_units(grant)
        if self.is_greedy(units[0]):
            yield from self._walk_greedily(units[0])
        for start in range(self.is_greedy(units[0]), grant, self.num_parallel):
            yield from self._iterate(units[start : start + self.num_parallel])
        if self.has_rollouts:
            self.note_lost(units)

    def combine_rewards(self, rewards: Sequence[float]) -> float | None:
        """The mean over finished paths (paper §2)."""
        return mean_signal(rewards)

    def rate_group(self, rewards: Sequence[float]) -> float:
        """The best of its paths'."""
        return max(rewards)

    def _iterate(self, units: Sequence[int]) -> Flow:
        """One batch: select, expand, follow, back up, in the order of the iterations."""
        picks = {unit: self.tree.select() for unit in units}
        places = [
            Place(parent=pick.node, unit=unit) for unit, pick in picks.items() for _ in range(pick.num_new)
        ]
        sprouts = yield from self.grow(places)
        drawn: dict[int, list[Node]] = {unit: [] for unit in units}
        for place, nodes in zip(places, sprouts, strict=True):
            drawn[place.unit] += self.tree.adopt(place.parent, nodes)
        best = {unit: max(nodes, key=_get_reward) for unit, nodes in drawn.items() if nodes}
        ends = dict(best)
        if self.has_rollouts:
            ends |= yield from self._follow(best)
        for unit, pick in picks.items():
            self.tree.leave(pick)
            if unit in ends:
                self.tree.back_up(ends[unit], _get_reward(ends[unit]))

    def _walk_greedily(self, unit: int) -> Flow:
        """The likeliest path, cut into steps of the tree, as an iteration of its own."""
        place = Place(parent=self.root, unit=unit, is_whole=True, is_greedy=True)
        (nodes,) = yield from self.grow([place])
        if nodes:
            end = self.tree.adopt(self.root, nodes)[-1]
            self.tree.back_up(end, _get_reward(end))

    def _follow(self, best: dict[int, Node]) -> FollowFlow:
        """Follow unfinished steps to the ends of their paths; returns the ends."""
        places = [
            Place(parent=node, unit=unit, is_whole=True)
            for unit, node in best.items()
            if not node.is_terminal
        ]
        sprouts = yield from self.grow(places)
        grown = {
            place.unit: self.tree.adopt(place.parent, nodes)
            for place, nodes in zip(places, sprouts, strict=True)
        }
        return {unit: nodes[-1] for unit, nodes in grown.items() if nodes}


def _get_reward(node: Node) -> float:
    return node.reward or 0.0
