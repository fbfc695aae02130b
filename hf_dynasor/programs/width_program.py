"""Trees whose knob is their width: every unit of it ends as one finished path."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

from hf_dynasor.program import Flow
from hf_dynasor.programs.nodes import Node, Place
from hf_dynasor.programs.tree import TreeProgram


class WidthProgram(TreeProgram):
    """Grows a tree of the granted width, wave after wave, until each unit of the width holds a finished path.

    Subclasses say who gets the width of the next wave. Arguments are those of `TreeProgram`.
    """

    unit = "width"

    @abstractmethod
    def share_out(self, live: Sequence[Node], free: Sequence[int]) -> list[Place]:
        """Who grows next: unfinished paths, at least one, share the units that hold no finished path."""

    def execute(self, grant: int) -> Flow:
        """Grow a tree of this width from the prompt to its last leaf.

        Every wave makes each path longer by at least one token, and a path has a budget of tokens, so it ends.
        """
        units = self.take_units(grant)
        places = [
            Place(parent=self.root, unit=unit, is_whole=self.is_greedy(unit), is_greedy=self.is_greedy(unit))
            for unit in units
        ]
        while places:
            sprouts = yield from self.grow(places)
            live = [nodes[-1] for nodes in sprouts if nodes and not nodes[-1].is_terminal]
            held = {leaf.unit for leaf in self.leaves}
            free = [unit for unit in units if unit not in held]
            places = self.share_out(live, free) if live and free else []
        self.note_lost(units)

    def rate_group(self, rewards: Sequence[float]) -> float:
        """The sum of the rewards: a majority weighted by them."""
        return math.fsum(rewards)
