"""What every tree program is made with, in one place: the options' names, types and defaults, and what is refused."""

from __future__ import annotations

from typing import TypedDict

from hf_dynasor.answers import AnswerFormat
from hf_dynasor.core import SamplingParams
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.programs.step_rewards import StepReward

STEP_DELIMITER = "\n\n"
"""A blank line: how most reasoning models, the embedded one too, separate their steps."""

TREE_SAMPLING = SamplingParams(max_new_tokens=512, temperature=1.0)


class TreeOptions(TypedDict, total=False):
    """The keyword arguments of `TreeProgram`, which says what they mean; its subclasses hand them on."""

    budget: int
    sampling: SamplingParams
    reward: StepReward | str
    delimiter: str
    greedy_first: bool
    answer_format: AnswerFormat
    label: str


def check_sampling(sampling: SamplingParams, delimiter: str, budget: int) -> None:
    """Raise `ConfigurationError` for sampling that no tree can grow by."""
    if not delimiter:
        raise ConfigurationError("Got an empty step delimiter but expected a text, such as a blank line.")
    if sampling.stop or sampling.stop_token_ids:
        raise ConfigurationError(
            f"Got {sampling.stop = } and {sampling.stop_token_ids = } for a tree, whose steps end at "
            f"delimiter = {delimiter!r}. Expected neither."
        )
    if sampling.min_new_tokens:
        raise ConfigurationError(
            f"Got {sampling.min_new_tokens = } for a tree, whose steps may be short. Expected 0."
        )
    if sampling.temperature == 0 and budget > 1:
        raise ConfigurationError(
            f"Got {sampling.temperature = } with {budget = }: the steps of a greedy tree are all the same. "
            "Expected a temperature above 0, such as 1, or a budget of 1."
        )
