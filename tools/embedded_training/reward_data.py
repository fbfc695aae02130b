"""Rows that a step reward model learns from: chains with a right-or-wrong label at every token.

A token is labelled right while the chain so far is the beginning of the problem's right chain. Half of the rows are
the reasoner's own samples, half are right chains with hard negatives: a result one digit off, carried on.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from embedded_training.sampling import Reasoner, sample_for_problems
from hf_dynasor.embedded.problems import Problem, draw_problem
from hf_dynasor.embedded.traces import corrupt_results, right_results, write_short

LEVEL_WEIGHTS = {1: 2, 2: 2, 3: 2, 4: 3, 5: 5, 6: 6, 7: 5, 8: 2}
_NEGATIVE_RATE = 0.12
_CHUNK_SIZE = 2048
_WORD_WEIGHT = 0.2
_HEAVY = set("0123456789") | {"\n\n", "}", "."}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A conversation as token ids, with a label and a weight in the loss at every token."""

    ids: tuple[int, ...]
    labels: tuple[float, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardBatch:
    """Right-padded tensors of shape (rows, length)."""

    input_ids: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor


class RowEncoder:
    """Turns a problem and a chain into a labelled row."""

    def __init__(self, reasoner: Reasoner) -> None:
        self._reasoner = reasoner
        tokenizer = reasoner.tokenizer
        texts = [tokenizer.decode([index]) for index in range(len(tokenizer))]
        self._weights = [
            1.0 if text in _HEAVY or text == tokenizer.eos_token else _WORD_WEIGHT for text in texts
        ]
        self._eos: int = tokenizer.eos_token_id

    def encode(self, problem: Problem, text: str) -> Row:
        """Returns the row of a finished chain; the question has no weight."""
        prompt = self._encode_text(self._reasoner.render(problem.question))
        right = [*self._encode_text(write_short(problem, right_results(problem))), self._eos]
        chain = [*self._encode_text(text), self._eos]
        labels, is_right = [], True
        for index, token in enumerate(chain):
            is_right = is_right and index < len(right) and right[index] == token
            labels.append(float(is_right))
        return Row(
            ids=(*prompt, *chain),
            labels=(*[0.0] * len(prompt), *labels),
            weights=(*[0.0] * len(prompt), *[self._weights[token] for token in chain]),
        )

    def _encode_text(self, text: str) -> list[int]:
        ids: list[int] = self._reasoner.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def sample_own_rows(reasoner: Reasoner, *, num_problems: int, num_samples: int, seed: int) -> list[Row]:
    """Returns rows of the reasoner's own chains at temperature 1 on training problems."""
    rng = random.Random(f"reward-own-{seed}")
    problems = [_draw_problem(rng) for _ in range(num_problems)]
    chains = sample_for_problems(reasoner, problems, num_samples=num_samples, temperature=1.0, seed=seed)
    encoder = RowEncoder(reasoner)
    return [
        encoder.encode(problem, chain.text)
        for problem, group in zip(problems, chains, strict=True)
        for chain in group
        if chain.answer is not None
    ]


def iterate_reward_batches(
    reasoner: Reasoner, own_rows: Sequence[Row], *, tokens_per_batch: int, seed: int
) -> Iterator[RewardBatch]:
    """Yields batches without end: own rows drawn anew for each chunk, corrupted ones always fresh."""
    rng = random.Random(f"reward-batches-{seed}")
    encoder = RowEncoder(reasoner)
    while True:
        rows = [_draw_corrupted(rng, encoder) for _ in range(_CHUNK_SIZE // 2)]
        rows += rng.sample(own_rows, min(len(own_rows), _CHUNK_SIZE // 2))
        rows.sort(key=lambda row: len(row.ids))
        groups: list[list[Row]] = [[]]
        for row in rows:
            if (len(groups[-1]) + 1) * len(row.ids) > tokens_per_batch:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        yield from (_collate(group, reasoner.tokenizer.pad_token_id) for group in groups if group)


def _draw_corrupted(rng: random.Random, encoder: RowEncoder) -> Row:
    problem = _draw_problem(rng)
    return encoder.encode(problem, write_short(problem, corrupt_results(problem, rng, _NEGATIVE_RATE)))


def _draw_problem(rng: random.Random) -> Problem:
    level = rng.choices(list(LEVEL_WEIGHTS), weights=list(LEVEL_WEIGHTS.values()))[0]
    return draw_problem(rng, level=level, split="train")


def _collate(group: Sequence[Row], pad_id: int) -> RewardBatch:
    length = max(len(row.ids) for row in group)
    gaps = [length - len(row.ids) for row in group]
    return RewardBatch(
        input_ids=torch.tensor([[*row.ids, *[pad_id] * gap] for row, gap in zip(group, gaps, strict=True)]),
        labels=torch.tensor([[*row.labels, *[0.0] * gap] for row, gap in zip(group, gaps, strict=True)]),
        weights=torch.tensor([[*row.weights, *[0.0] * gap] for row, gap in zip(group, gaps, strict=True)]),
    )
