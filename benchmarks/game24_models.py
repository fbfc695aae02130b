"""Two small models for the Game of 24, trained here: one that writes steps, one that rates them."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from game24_task import LARGEST, Numbers, label_steps, walk
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
from embedded_training.optimization import MuonAdamW

DELIMITER = "\n\n"
WORDS = ("<pad>", "<end>", DELIMITER, " ", " (left: ", ")", "=", "+", "-", "*", "/")
TEMPLATE = (
    "{% for message in messages %}{{ message.content }}{{ '\n\n' if message.role == 'user' }}{% endfor %}"
)
IGNORED = -100

Example: TypeAlias = tuple[str, list[str], list[bool]]
"""A puzzle, the steps of a path, and for each of them whether 24 can still be reached."""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Every number and every sign is one token."""
    words = {word: index for index, word in enumerate([*WORDS, *map(str, range(LARGEST + 1))])}
    core = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r" \(left: |\d+|\n\n|."), "isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<end>", padding_side="left"
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def make_config(tokenizer: PreTrainedTokenizerFast, hidden: int, num_layers: int) -> LlamaConfig:
    """A small Llama."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 5 // 2,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        num_labels=1,
    )


def train_writer(
    puzzles: Sequence[Numbers], tokenizer: PreTrainedTokenizerFast, config: LlamaConfig, **schedule: int
) -> LlamaForCausalLM:
    """A model that writes solutions: the next token of solution walks, with one step in twenty strayed."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)

    def loss(batch: list[Example]) -> torch.Tensor:
        rows, targets = [], []
        for prompt, steps, _ in batch:
            start = _encode(tokenizer, prompt + DELIMITER)
            end = [*_encode(tokenizer, DELIMITER.join(steps)), tokenizer.eos_token_id]
            rows.append([*start, *end])
            targets.append([IGNORED] * len(start) + end)
        ids, labels = _pad(rows, tokenizer.pad_token_id), _pad(targets, IGNORED)
        logits = model(input_ids=ids).logits[:, :-1]
        return cross_entropy(logits.flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED)

    _train(model, loss, _draw(puzzles, stray=0.05), **schedule)
    return model


def train_rater(
    puzzles: Sequence[Numbers], tokenizer: PreTrainedTokenizerFast, writer: LlamaForCausalLM, **schedule: int
) -> LlamaForSequenceClassification:
    """A model that says at the end of each step whether 24 can still be reached, taught on training puzzles.

    Half of what it reads are walks that strayed, half are the writer's own paths, whose mistakes it will meet.
    """
    torch.manual_seed(1)
    written = write_paths(writer, tokenizer, puzzles, num_paths=16384)
    strayed = _draw(puzzles, stray=0.5)
    model = LlamaForSequenceClassification(writer.config)
    model.model.load_state_dict(writer.model.state_dict())
    border = tokenizer.convert_tokens_to_ids(DELIMITER)

    def loss(batch: list[Example]) -> torch.Tensor:
        rows = [
            _encode(tokenizer, prompt + DELIMITER + DELIMITER.join(steps) + DELIMITER)
            for prompt, steps, _ in batch
        ]
        ids = _pad(rows, tokenizer.pad_token_id)
        logits = model.score(model.model(input_ids=ids).last_hidden_state)[..., 0]
        ends = [torch.nonzero(row == border)[1:, 0] for row in ids]  # the first one ends the puzzle
        found = torch.cat([row[places] for row, places in zip(logits, ends, strict=True)])
        labels = torch.tensor([float(label) for _, _, item in batch for label in item])
        return binary_cross_entropy_with_logits(found.float(), labels)

    _train(model, loss, lambda rng: strayed(rng) if rng.random() < 0.5 else rng.choice(written), **schedule)
    return model


@torch.inference_mode()
def write_paths(
    writer: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, puzzles: Sequence[Numbers], num_paths: int
) -> list[Example]:
    """The writer's own paths at T = 1, with the label of each step."""
    rng, found = random.Random(3), []
    while len(found) < num_paths:
        prompts = [" ".join(map(str, rng.sample(rng.choice(puzzles), 4))) for _ in range(512)]
        inputs = tokenizer([prompt + DELIMITER for prompt in prompts], return_tensors="pt", padding=True)
        inputs.pop("token_type_ids", None)
        ids = writer.generate(**inputs, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=64)
        for prompt, row in zip(prompts, ids[:, inputs["input_ids"].shape[1] :], strict=True):
            steps = tokenizer.decode(row, skip_special_tokens=True).strip().split(DELIMITER)
            found.append((prompt, steps, label_steps(prompt, steps)))
    return found


def _draw(puzzles: Sequence[Numbers], *, stray: float) -> Callable[[random.Random], Example]:
    def draw(rng: random.Random) -> Example:
        numbers = tuple(rng.sample(rng.choice(puzzles), 4))
        return " ".join(map(str, numbers)), *walk(numbers, rng, stray=stray)

    return draw


def _train(model, loss, draw, *, num_steps: int, batch_size: int) -> None:
    optimizer = MuonAdamW(model, learning_rate=4e-3, num_steps=num_steps)
    rng, started, mean = random.Random(2), time.process_time(), 0.0
    model.train()
    for step in range(num_steps):
        with torch.autocast("cpu", torch.bfloat16):
            value = loss([draw(rng) for _ in range(batch_size)])
        value.backward()
        optimizer.step()
        mean = 0.98 * mean + 0.02 * value.item() if step else value.item()
        if (step + 1) % 250 == 0:
            spent = time.process_time() - started
            print(
                json.dumps({"step": step + 1, "loss": round(mean, 4), "cpu_s": round(spent)}),
                file=sys.stderr,
                flush=True,
            )
    model.eval()


def _encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def _pad(rows: list[list[int]], value: int) -> torch.Tensor:
    """On the right: nothing that counts attends to what is behind it."""
    length = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows])
