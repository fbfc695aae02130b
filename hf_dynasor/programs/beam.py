"""Step-level beam search in independent subtrees (DVTS; knob: width).

The width is divided into subtrees. In each, every wave draws one step for each unit of its width, and only the best
unfinished path goes on, so that one overrated beginning cannot take the whole width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from hf_dynasor.core import Prompt
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.programs.nodes import Node, Place
from hf_dynasor.programs.tree_options import TreeOptions
from hf_dynasor.programs.width_program import WidthProgram

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Beam(WidthProgram):
    """Keep the best unfinished path of each subtree, and vote over the finished ones by reward.

    Args:
        prompt: What every path continues.
        branching: Width of a subtree; a budget of at most this is one beam.
        options: Those of `TreeProgram`.
    """

    name = "beam"

    def __init__(self, prompt: Prompt, *, branching: int = 4, **options: Unpack[TreeOptions]) -> None:
        super().__init__(prompt, **options)
        if branching < 1:
            raise ConfigurationError(f"Got {branching = } but expected at least 1.")
        self.branching = branching

    def share_out(self, live: Sequence[Node], free: Sequence[int]) -> list[Place]:
        """Each subtree's free units, to its best unfinished path; none where it has none left."""
        places = []
        for tree, units in groupby(free, key=lambda unit: unit // self.branching):
            own = [node for node in live if node.unit // self.branching == tree]
            if own:
                best = max(own, key=lambda node: node.reward or 0.0)  # the first of equals
                places += [Place(parent=best, unit=unit) for unit in units]
        return places
