"""The statistics of a Monte-Carlo tree search: visits, values, and which step to look at next. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from hf_dynasor.errors import ConfigurationError
from hf_dynasor.programs.nodes import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """Where an iteration grows the tree: a node, and how many new steps to draw there."""

    node: Node
    num_new: int


@dataclass(slots=True, kw_only=True)
class _Record:
    """What is known of one node.

    Args:
        children: Its different next steps, by text and by whether the path ends there.
        num_drawn: Steps that were drawn here, equal ones too.
        num_planned: Steps that iterations underway draw here.
        num_visits: Iterations that came by and ended.
        total_value: The sum of what they were worth.
        num_underway: Iterations that came by and have not ended yet.
    """

    children: dict[tuple[str, bool], Node] = field(default_factory=dict)
    num_drawn: int = 0
    num_planned: int = 0
    num_visits: int = 0
    total_value: float = 0.0
    num_underway: int = 0


class SearchTree:
    """Which step to look at next, by UCT with the step's reward as its prior.

    Args:
        root: The node that holds the prompt.
        num_children: Steps that are drawn at a node before the search goes on below it; at least 1.
        exploration: Weight of the bonus for steps that were visited seldom; 0 or more.
    """

    def __init__(self, root: Node, *, num_children: int, exploration: float) -> None:
        if num_children < 1:
            raise ConfigurationError(f"Got {num_children = } but expected at least 1.")
        if not (math.isfinite(exploration) and exploration >= 0):
            raise ConfigurationError(f"Got {exploration = } but expected 0 or a positive number.")
        self._root = root
        self._num_children = num_children
        self._exploration = exploration
        self._records: dict[Node, _Record] = {root: _Record()}

    def select(self) -> Pick:
        """Walk down to a node that is not grown out, and count this iteration as underway on the way.

        Where everything is grown out to its end, more steps are drawn at the root.
        """
        node = self._root
        while self._is_grown_out(node) and (open_steps := self._list_open(node)):
            node = max(open_steps, key=lambda child: self._rate(child, node))
        record = self._records[node]
        num_new = max(1, self._num_children - record.num_drawn - record.num_planned)
        record.num_planned += num_new
        self._count_underway(node, 1)
        return Pick(node=node, num_new=num_new)

    def adopt(self, parent: Node, steps: Sequence[Node]) -> list[Node]:
        """Add steps below a node, one after another; a step that says what another one says becomes that one.

        Returns:
            The steps of the tree, in the order of those that were given.
        """
        adopted: list[Node] = []
        for step in steps:
            record = self._records[parent]
            record.num_drawn += 1
            step.parent = parent  # its own may have become another that says the same
            parent = record.children.setdefault((step.piece.text, step.is_terminal), step)
            self._records.setdefault(parent, _Record())
            adopted.append(parent)
        return adopted

    def back_up(self, end: Node, value: float) -> None:
        """Count a visit worth `value` at a node and at every step before it."""
        for node in (self._root, *end.list_path()):
            self._records[node].num_visits += 1
            self._records[node].total_value += value

    def leave(self, pick: Pick) -> None:
        """Count the iteration of a pick as underway no more."""
        self._records[pick.node].num_planned -= pick.num_new
        self._count_underway(pick.node, -1)

    def _count_underway(self, node: Node, change: int) -> None:
        for step in (self._root, *node.list_path()):
            self._records[step].num_underway += change

    def _is_grown_out(self, node: Node) -> bool:
        record = self._records[node]
        return record.num_drawn + record.num_planned >= self._num_children

    def _list_open(self, node: Node) -> list[Node]:
        return [child for child in self._records[node].children.values() if self._is_open(child)]

    def _is_open(self, node: Node) -> bool:
        """Whether anything below is not grown out yet."""
        if node.is_terminal:
            return False
        return not self._is_grown_out(node) or bool(self._list_open(node))

    def _rate(self, child: Node, parent: Node) -> float:
        """Mean value, the reward counting as one visit, plus the bonus; iterations underway count as worth nothing."""
        record, above = self._records[child], self._records[parent]
        num_visits = 1 + record.num_visits + record.num_underway
        value = ((child.reward or 0.0) + record.total_value) / num_visits
        num_above = 1 + above.num_visits + above.num_underway
        return value + self._exploration * math.sqrt(math.log(num_above) / num_visits)
