"""Reward models that answer `Score` requests: a step in, a number in [0, 1] out."""

from hf_dynasor.serving.rewards.likelihood import LikelihoodReward
from hf_dynasor.serving.rewards.loading import RewardKind, load_reward_model
from hf_dynasor.serving.rewards.model import RewardModel, rate_steps
from hf_dynasor.serving.rewards.product import ProductReward
from hf_dynasor.serving.rewards.scalar_head import ScalarHeadReward
from hf_dynasor.serving.rewards.step_classes import StepClassReward
from hf_dynasor.serving.rewards.step_labels import StepLabelReward
from hf_dynasor.serving.rewards.steps import EncodedStep, Rating, StepInput

__all__ = [
    "EncodedStep",
    "LikelihoodReward",
    "ProductReward",
    "Rating",
    "RewardKind",
    "RewardModel",
    "ScalarHeadReward",
    "StepClassReward",
    "StepInput",
    "StepLabelReward",
    "load_reward_model",
    "rate_steps",
]
