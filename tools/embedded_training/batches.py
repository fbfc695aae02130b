"""Encodes training examples and packs them into batches of similar length.

Each segment is encoded by itself, as the package's engines do, so a probe meets the same token ids in training and
in use.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from embedded_training.examples import draw_examples
from embedded_training.tokenizer import ASSISTANT, USER
from hf_dynasor.embedded.traces import Example

_WORD_WEIGHT = 0.3
_TWO_TURN_SHARE = 0.06
_CHUNK_SIZE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """Token ids of an example and, for each, its weight in the loss when it is the one to predict."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Right-padded `input_ids` and `weights`, both of shape (rows, length)."""

    input_ids: torch.Tensor
    weights: torch.Tensor


class ExampleEncoder:
    """Turns examples into token ids and loss weights: digits and signs weigh 1, plain words 0.3."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._weights = [_weigh(tokenizer.convert_ids_to_tokens(index)) for index in range(len(tokenizer))]
        self._bos, self._eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        self._user, self._assistant = (tokenizer.convert_tokens_to_ids(name) for name in (USER, ASSISTANT))

    def encode(self, example: Example) -> Encoded:
        """Returns the ids of a whole conversation with one question, or of a drill."""
        ids: list[int] = [self._bos]
        if example.question is not None:
            ids += [self._user, *self._encode_text(example.question), self._eos, self._assistant]
        weights = [0.0] * len(ids)
        for segment in example.segments:
            piece = self._encode_text(segment.text)
            ids += piece
            weights += [self._weights[index] if segment.is_target else 0.0 for index in piece]
        if example.is_complete:
            ids.append(self._eos)
            weights.append(_WORD_WEIGHT)
        return Encoded(ids=tuple(ids), weights=tuple(weights))

    def _encode_text(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def iterate_batches(
    tokenizer: PreTrainedTokenizerBase, *, tokens_per_batch: int, seed: int
) -> Iterator[Batch]:
    """Yields batches of fresh examples without end, bucketed by length."""
    encoder = ExampleEncoder(tokenizer)
    rng = random.Random(f"batches-{seed}")
    chunk = 0
    while True:
        examples = draw_examples(_CHUNK_SIZE, seed=1_000_000 * seed + chunk)
        encoded = _join_some_turns([encoder.encode(example) for example in examples], rng)
        groups = _group_by_length(encoded, tokens_per_batch)
        rng.shuffle(groups)
        for group in groups:
            yield collate(group, pad_id=tokenizer.pad_token_id)
        chunk += 1


def collate(group: Sequence[Encoded], *, pad_id: int) -> Batch:
    """Returns one batch, padded on the right to the longest of the group."""
    length = max(len(example.ids) for example in group)
    return Batch(
        input_ids=torch.tensor(
            [[*example.ids, *[pad_id] * (length - len(example.ids))] for example in group]
        ),
        weights=torch.tensor([[*example.weights, *[0.0] * (length - len(example.ids))] for example in group]),
    )


def _join_some_turns(encoded: Sequence[Encoded], rng: random.Random) -> list[Encoded]:
    """Puts some examples behind another one, as the second turn of one conversation."""
    joined: list[Encoded] = []
    for example in encoded:
        before = joined[-1] if joined else None
        if before and len(before.ids) + len(example.ids) < 160 and rng.random() < _TWO_TURN_SHARE:
            joined[-1] = Encoded(
                ids=before.ids + example.ids[1:], weights=before.weights + example.weights[1:]
            )
        else:
            joined.append(example)
    return joined


def _group_by_length(encoded: Sequence[Encoded], tokens_per_batch: int) -> list[list[Encoded]]:
    """Returns groups whose padded size stays within `tokens_per_batch`."""
    groups: list[list[Encoded]] = [[]]
    for example in sorted(encoded, key=lambda item: len(item.ids)):
        if (len(groups[-1]) + 1) * len(example.ids) > tokens_per_batch:
            groups.append([])
        groups[-1].append(example)
    return [group for group in groups if group]


def _weigh(token: str) -> float:
    return 1.0 if token.strip("0123456789+-*/=") == "" else _WORD_WEIGHT
