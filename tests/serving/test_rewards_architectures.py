"""Reading paths through models that count positions or attend otherwise: equal to the model alone, reused or not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MistralConfig,
    MistralForSequenceClassification,
)

from hf_dynasor.serving import LoadedModel
from hf_dynasor.serving.rewards import LikelihoodReward, RewardModel, ScalarHeadReward, StepInput
from tests.serving.reward_kit import CHAINS, QUESTION, SIZES, load_shared_tokenizer, wrap

TOKENIZER = load_shared_tokenizer()
PATHS = [StepInput.of(QUESTION, chain[:end]) for chain in CHAINS for end in range(1, len(chain) + 1)]
IDS: dict[str, Any] = {
    "vocab_size": len(TOKENIZER),
    "pad_token_id": TOKENIZER.pad_token_id,
    "eos_token_id": TOKENIZER.eos_token_id,
    "bos_token_id": TOKENIZER.bos_token_id,
}
PLAIN = {name: size for name, size in SIZES.items() if name != "num_key_value_heads"}


def make(name: str) -> LoadedModel:
    torch.manual_seed(7)
    if name == "absolute positions":
        sizes = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256, "initializer_range": 0.2}
        model: Any = GPT2ForSequenceClassification(GPT2Config(num_labels=1, **sizes, **IDS))
    elif name == "sliding window":
        config = MistralConfig(num_labels=1, sliding_window=8, **SIZES, **IDS)
        model = MistralForSequenceClassification(config)
    elif name == "window and softcap":
        model = Gemma2ForCausalLM(Gemma2Config(sliding_window=8, head_dim=8, **SIZES, **IDS))
    else:
        model = GPTNeoXForCausalLM(GPTNeoXConfig(**PLAIN, **IDS))
    return wrap(model, TOKENIZER, name)


@torch.inference_mode()
def score_plainly(loaded: LoadedModel, ids: tuple[int, ...], rated: tuple[int, ...]) -> float:
    logits = loaded.model(torch.tensor([ids])).logits
    if not rated:
        return torch.sigmoid(logits[0, 0]).item()
    logprobs = logits[0, :-1].float().log_softmax(dim=-1).gather(-1, torch.tensor(ids)[1:, None])[:, 0]
    return logprobs[[place - 1 for place in rated]].min().exp().item()


@pytest.mark.parametrize(
    ("name", "can_reuse"),
    [
        ("absolute positions", True),
        ("sliding window", False),
        ("window and softcap", False),
        ("partly rotary", True),
    ],
)
def test_scores_equal_those_of_the_model_alone(name, can_reuse):
    loaded = make(name)
    is_scalar = name in ("absolute positions", "sliding window")
    reward: RewardModel = ScalarHeadReward(loaded) if is_scalar else LikelihoodReward(loaded)
    steps = [reward.encode(path) for path in PATHS]
    expected = [score_plainly(loaded, step.ids, step.rated) for step in steps]
    together = reward.score(steps)
    assert [rating.score for rating in together] == pytest.approx(expected, rel=1e-3)
    one_by_one = [reward.score([step])[0] for step in steps]
    assert [rating.score for rating in one_by_one] == pytest.approx(expected, rel=1e-3)
    assert any(rating.num_reused for rating in one_by_one) == can_reuse
