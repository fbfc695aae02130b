"""The reasoning programs. Pure: they yield requests and are sent completions."""

from typing import Any

from hf_dynasor.programs.beam import Beam
from hf_dynasor.programs.best_of_n import BestOfN
from hf_dynasor.programs.chain_consistency import ChainConsistency
from hf_dynasor.programs.chain_of_thought import ChainOfThought
from hf_dynasor.programs.chain_settings import ChainSettings
from hf_dynasor.programs.mcts import MCTS
from hf_dynasor.programs.rebase import Rebase, allocate_width
from hf_dynasor.programs.samples import Sample
from hf_dynasor.programs.self_consistency import DEFAULT_SAMPLING, SelfConsistency
from hf_dynasor.programs.step_rewards import REWARDS, LikelihoodReward, ModelReward, StepReward
from hf_dynasor.programs.tree import TreeProgram
from hf_dynasor.programs.tree_options import STEP_DELIMITER

PROGRAMS: dict[str, Any] = {
    program.name: program
    for program in (SelfConsistency, Rebase, MCTS, BestOfN, Beam, ChainOfThought, ChainConsistency)
}
"""Programs by the names that a command line or a request uses: subclasses of `ReasoningProgram`."""

__all__ = [
    "DEFAULT_SAMPLING",
    "MCTS",
    "PROGRAMS",
    "REWARDS",
    "STEP_DELIMITER",
    "Beam",
    "BestOfN",
    "ChainConsistency",
    "ChainOfThought",
    "ChainSettings",
    "LikelihoodReward",
    "ModelReward",
    "Rebase",
    "Sample",
    "SelfConsistency",
    "StepReward",
    "TreeProgram",
    "allocate_width",
]
