"""Best-of-n: whole samples, of which the one with the highest reward gives the answer (knob: samples)."""

from __future__ import annotations

from collections.abc import Sequence

from hf_dynasor.answers import AnswerFormat
from hf_dynasor.core import Prompt, SamplingParams
from hf_dynasor.program import Flow
from hf_dynasor.programs.nodes import Place
from hf_dynasor.programs.step_rewards import StepReward
from hf_dynasor.programs.tree import STEP_DELIMITER, TREE_SAMPLING, TreeProgram


class BestOfN(TreeProgram):
    """Sample whole paths and take the answer of the best one.

    A sample is cut into its steps to be rated, where the places of its tokens are known; else it is rated whole.

    Args:
        prompt: What every sample continues.
        budget: Most samples.
        sampling: How each is decoded.
        reward: How samples are rated: a `StepReward`, or a name of `REWARDS`.
        delimiter: Text that ends a step.
        answer_format: How answers are found and told apart.
        label: What people call it.
    """

    name = "best_of_n"

    def __init__(
        self,
        prompt: Prompt,
        *,
        budget: int = 16,
        sampling: SamplingParams = TREE_SAMPLING,
        reward: StepReward | str = "likelihood",
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
            unit="samples",
        )

    def execute(self, grant: int) -> Flow:
        """Draw `grant` samples together."""
        units = self.take_units(grant)
        yield from self.grow([Place(parent=self.root, unit=unit, is_whole=True) for unit in units])
        self.note_lost(units)

    def rate_group(self, rewards: Sequence[float]) -> float:
        """The best of its samples'."""
        return max(rewards)
