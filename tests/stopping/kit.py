"""What the tests of stopping share: the embedded reasoner, a tiny random model, prompts, scripted probes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessor, PreTrainedTokenizerFast

from hf_dynasor.stopping.caches import LiveBatch
from hf_dynasor.stopping.probe import ProbeResult

QUESTIONS = ("What is 2+3?", "What is 47+58-3*6?", "What is 12*11+5?", "What is 9+8-3?")


def make_tiny_model(tokenizer: Any, **options: Any) -> LlamaForCausalLM:
    """A random Llama whose logits are spread wide enough that rounding decides nothing."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.3,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
        **options,
    )
    return LlamaForCausalLM(config).eval()


def make_plain_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, and nothing else: no think markers, no chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=258,
        special_tokens=["<|end|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["a"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")


def encode(tokenizer: Any, questions: Sequence[str], *, thinking: bool = True) -> dict[str, torch.Tensor]:
    """Left-padded prompts in the tokenizer's chat template."""
    tokenizer.padding_side = "left"  # a template's own padding_side argument is not passed on
    chats = [[{"role": "user", "content": question}] for question in questions]
    batch = tokenizer.apply_chat_template(
        chats,
        add_generation_prompt=True,
        enable_thinking=thinking,
        return_tensors="pt",
        return_dict=True,
        padding=True,
    )
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}


class Script(LogitsProcessor):
    """Makes a model say what is scripted: each row its own text, then the end of the turn for ever."""

    supports_continuous_batching = False

    def __init__(self, tokenizer: Any, prompt_length: int, texts: Sequence[str]) -> None:
        self._ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
        self._eos, self._start = tokenizer.eos_token_id, prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        forced = torch.full_like(scores, -float("inf"))
        step = input_ids.shape[1] - self._start
        for row, ids in enumerate(self._ids[: len(scores)]):
            forced[row, ids[step] if step < len(ids) else self._eos] = 0.0
        return forced


class ScriptedProber:
    """A prober that answers from a function of (row, how often it was asked), and counts what it was asked."""

    suffix = "scripted"

    def __init__(self, answer: Callable[[int, int], str | None]) -> None:
        self._answer = answer
        self.asked: list[tuple[int, ...]] = []
        self._times: dict[int, int] = {}

    def read(self, live: LiveBatch, rows: Sequence[int], **_: Any) -> list[ProbeResult]:
        self.asked.append(tuple(rows))
        results = []
        for row in rows:
            said = self._answer(row, self._times.get(row, 0))
            self._times[row] = self._times.get(row, 0) + 1
            text = f"{said}}}" if said is not None else ""
            results.append(
                ProbeResult(answer=said, text=text, ids=(1,), logprobs=(-0.01,), entropy=0.01, num_tokens=10)
            )
        return results


def cut_padding(ids: torch.Tensor, pad: int) -> list[int]:
    """A row without the padding at its end."""
    row = ids.tolist()
    while row and row[-1] == pad:
        row.pop()
    return row
