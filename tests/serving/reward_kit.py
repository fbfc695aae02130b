"""Tiny reward models of each kind, with random weights and the embedded reasoner's own tokenisation."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    Qwen2Config,
    Qwen2Model,
)

from hf_dynasor.embedded import REASONER_PATH
from hf_dynasor.serving import LoadedModel

QUESTION = "Tom has 17 boxes of 6 pens and 4 pens more. How many pens does Tom have?"
STEPS = ("17*6=102\n\n", "102+4=106\n\n", "The answer is \\boxed{106}.")
CHAINS = [
    STEPS,
    ("17*6=112\n\n", "112+4=116\n\n"),
    ("17*6=102\n\n", "102+4=107\n\n", "The answer is \\boxed{107}."),
    ("6*17=102\n\n",),
]
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}


@cache
def load_shared_tokenizer() -> Any:
    """The tokenizer of the models that tests share."""
    return load_tokenizer()


def load_tokenizer() -> Any:
    """The embedded tokenizer, with a step tag and a separator added."""
    tokenizer = AutoTokenizer.from_pretrained(REASONER_PATH)
    tokenizer.add_tokens(["ки", "<extra_0>"])
    return tokenizer


def make_config(tokenizer: Any, kind: type = LlamaConfig, **options: Any) -> Any:
    """A tiny configuration with the vocabulary of a tokenizer."""
    ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    return kind(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **ids, **SIZES, **options)


def wrap(model: Any, tokenizer: Any, name: str = "tiny") -> LoadedModel:
    """A model with its tokenizer, as loading leaves them."""
    return LoadedModel(
        model=model.eval(), tokenizer=tokenizer, name=name, generation_config=GenerationConfig()
    )


@cache
def make_scalar(tokenizer: Any, num_labels: int = 1) -> LoadedModel:
    """A sequence classifier, Skywork style."""
    torch.manual_seed(1)
    return wrap(
        LlamaForSequenceClassification(make_config(tokenizer, num_labels=num_labels)), tokenizer, "scalar"
    )


@cache
def make_causal(tokenizer: Any) -> LoadedModel:
    """A language model."""
    torch.manual_seed(2)
    return wrap(LlamaForCausalLM(make_config(tokenizer)), tokenizer, "causal")


@cache
def make_classes(tokenizer: Any, num_labels: int = 2) -> LoadedModel:
    """A token classifier."""
    torch.manual_seed(3)
    return wrap(
        LlamaForTokenClassification(make_config(tokenizer, num_labels=num_labels)), tokenizer, "classes"
    )


def make_encoder(tokenizer: Any) -> LoadedModel:
    """An encoder that reads a pair of texts."""
    torch.manual_seed(4)
    sizes = {name: size for name, size in SIZES.items() if name != "num_key_value_heads"}
    config = BertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, num_labels=1, **sizes)
    return wrap(BertForSequenceClassification(config), tokenizer, "encoder")


class ProcessRewardModel(torch.nn.Module):
    """What the code of a Qwen2.5-Math-PRM checkpoint does: a backbone, and two layers on every token."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        torch.manual_seed(5)
        config = make_config(tokenizer, Qwen2Config)
        config.architectures = ["Qwen2ForProcessRewardModel"]
        self.config = config
        self.model = Qwen2Model(config)
        size = config.hidden_size
        self.score = torch.nn.Sequential(
            torch.nn.Linear(size, size), torch.nn.ReLU(), torch.nn.Linear(size, 2)
        )

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.score(self.model(input_ids=input_ids).last_hidden_state)
        return logits


def ask_messages(written: str | None = None) -> list[dict[str, str]]:
    """The question, and what the assistant wrote."""
    answer = [] if written is None else [{"role": "assistant", "content": written}]
    return [{"role": "user", "content": QUESTION}, *answer]
