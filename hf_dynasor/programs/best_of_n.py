"""Best-of-n: whole samples, of which the one with the highest reward gives the answer (knob: samples)."""

from __future__ import annotations

from collections.abc import Sequence

from hf_dynasor.program import Flow
from hf_dynasor.programs.nodes import Place
from hf_dynasor.programs.tree import TreeProgram


class BestOfN(TreeProgram):
    """Sample whole paths and take the answer of the best one.

    A sample is cut into its steps to be rated, where the places of its tokens are known; else it is rated whole.

    Arguments are those of `TreeProgram`.
    """

    name = "best_of_n"
    unit = "samples"

    def execute(self, grant: int) -> Flow:
        """Draw `grant` samples together."""
        units = self.take_units(grant)
        yield from self.grow(
            [
                Place(parent=self.root, unit=unit, is_whole=True, is_greedy=self.is_greedy(unit))
                for unit in units
            ]
        )
        self.note_lost(units)

    def rate_group(self, rewards: Sequence[float]) -> float:
        """The best of its samples'."""
        return max(rewards)
