"""Step-level beam search in independent subtrees (DVTS; knob: width).

The width is divided into subtrees. In each, every wave draws one step for each unit of its width, and only the best
unfinished path goes on, so that one overrated beginning cannot take the whole width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from hf_dynasor.answers import AnswerFormat
from hf_dynasor.core import Prompt, SamplingParams
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.programs.nodes import Node, Place
from hf_dynasor.programs.step_rewards import StepReward
from hf_dynasor.programs.tree import STEP_DELIMITER, TREE_SAMPLING
from hf_dynasor.programs.width_program import WidthProgram


class Beam(WidthProgram):
    """Keep the best unfinished path of each subtree, and vote over the finished ones by reward.

    Args:
        prompt: What every path continues.
        budget: Most width.
        sampling: How each step is decoded; `max_new_tokens` is the budget of a whole path.
        reward: How steps are rated: a `StepReward`, or a name of `REWARDS`.
        branching: Width of a subtree; a budget of at most this is one beam.
        delimiter: Text that ends a step.
        answer_format: How answers are found and told apart.
        label: What people call it.
    """

    name = "beam"

    def __init__(
        self,
        prompt: Prompt,
        *,
        budget: int = 16,
        sampling: SamplingParams = TREE_SAMPLING,
        reward: StepReward | str = "likelihood",
        branching: int = 4,
        delimiter: str = STEP_DELIMITER,
        answer_format: AnswerFormat = "auto",
        label: str = "question",
    ) -> None:
        super().__init__(
            prompt,
            budget=budget,
            sampling=sampling,
            reward=reward,
            delimiter=delimiter,
            answer_format=answer_format,
            label=label,
        )
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
