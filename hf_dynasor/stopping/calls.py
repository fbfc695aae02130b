"""Tells one call of `generate` from the next, so that criteria and processors can be used again and again."""

from __future__ import annotations

from enum import Enum

import torch

from hf_dynasor.errors import UnsupportedError


class Step(str, Enum):
    """What a batch of ids is to what was seen before."""

    FIRST = "first"
    NEXT = "next"
    SAME = "same"


class CallTracker:
    """Compares each batch of ids with the one before: one column more is the next step of the same call.

    A call that continues the very output of the one before it counts as the same call.

    Args:
        offset: Columns after the prompt at the first step: 0 for a logits processor, 1 for a stopping criterion.
    """

    def __init__(self, *, offset: int) -> None:
        self._offset = offset
        self._ids: torch.Tensor | None = None
        self.prompt_length = 0

    def advance(self, input_ids: torch.Tensor) -> Step:
        """Take in the ids of a step, shape (batch, length).

        Raises:
            UnsupportedError: The rows were reordered in the middle of a call: beam search.
        """
        seen, self._ids = self._ids, input_ids
        surplus = input_ids.shape[1] - seen.shape[1] if seen is not None else -1
        if seen is not None and surplus in (0, 1) and seen.shape[0] == input_ids.shape[0]:
            before = input_ids[:, : seen.shape[1]]
            if bool((before == seen).all()):
                return Step.NEXT if surplus else Step.SAME
            if _are_rows_of(before, seen):
                raise UnsupportedError(
                    "The rows of the batch changed places in the middle of a call, as beam search does: a row's "
                    "thinking cannot be followed. Use greedy decoding or sampling (num_beams=1)."
                )
        self.prompt_length = max(0, input_ids.shape[1] - self._offset)
        return Step.FIRST


def _are_rows_of(ids: torch.Tensor, seen: torch.Tensor) -> bool:
    """Whether each row is one of the rows seen before, wherever it stood: (batch, length) each."""
    return bool((ids[:, None] == seen[None]).all(dim=-1).any(dim=-1).all())


def split_prompts(input_ids: torch.Tensor, length: int, pad_token_id: int | None) -> list[list[int]]:
    """The prompts of a batch without the padding on their left."""
    prompts = []
    for row in input_ids[:, :length].tolist():
        start = 0
        while start < len(row) - 1 and row[start] == pad_token_id:
            start += 1
        prompts.append(row[start:])
    return prompts


def find_pad_id(tokenizer: object, eos_token_ids: frozenset[int]) -> int | None:
    """The id that fills short rows, as `generate` picks it: the tokenizer's, else the end of turn."""
    pad = getattr(tokenizer, "pad_token_id", None)
    return pad if pad is not None else min(eos_token_ids, default=None)
