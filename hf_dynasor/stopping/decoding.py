"""Rows that decode together and leave the batch one by one. Knows tensors and the model's forward, no rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad

from hf_dynasor.stopping.caches import LiveBatch
from hf_dynasor.stopping.view import ForwardPass


class DecodingBatch:
    """Ids, mask and cache of the rows that still run; place `i` holds row `rows[i]` of the call.

    Args:
        forward: Calls the model.
        input_ids: Prompts, shape (batch, length).
        mask: 1 for real tokens, shape (batch, length); `None` where nothing is padded.
        cache: The call's keys and values.
    """

    def __init__(
        self, forward: ForwardPass, input_ids: torch.Tensor, mask: torch.Tensor | None, cache: Any
    ) -> None:
        self._forward, self._cache = forward, cache
        self._mask = None if mask is None or bool(mask.all()) else mask
        self._num_rows = int(input_ids.shape[0])
        self.ids = input_ids
        self.rows = list(range(self._num_rows))

    def step(self) -> torch.Tensor:
        """Run what the cache does not hold yet; returns float32 logits of the next tokens, shape (places, vocabulary)."""
        fresh = self.ids[:, self._cache.get_seq_length() :]
        logits = self._forward(fresh, self._mask, self._cache, 1)[:, -1]
        return logits.to(copy=True, dtype=torch.float32, device=self.ids.device)

    def pick(self, scores: torch.Tensor, *, do_sample: bool) -> torch.Tensor:
        """The next token of each place, shape (places,).

        Sampling draws for every row of the call, gone ones included, so that what a row draws does not depend
        on who has left, and equals what plain `generate` draws.
        """
        if not do_sample:
            return scores.argmax(dim=-1)
        probabilities = scores.softmax(dim=-1)
        if len(self.rows) < self._num_rows:
            everyone = torch.zeros(self._num_rows, scores.shape[1], dtype=scores.dtype, device=scores.device)
            everyone[:, 0] = 1.0
            places = torch.tensor(self.rows, device=scores.device)
            everyone[places] = probabilities
            return torch.multinomial(everyone, num_samples=1)[places, 0]
        return torch.multinomial(probabilities, num_samples=1)[:, 0]

    def append(self, tokens: torch.Tensor) -> None:
        """Give each place its next token, shape (places,)."""
        self.ids = torch.cat([self.ids, tokens[:, None]], dim=1)
        if self._mask is not None:
            self._mask = pad(self._mask, (0, 1), value=1)

    def keep(self, places: Sequence[int]) -> None:
        """Let all other rows leave: their part of the cache is freed, and no step computes them again."""
        index = torch.tensor(places, device=self.ids.device)
        self.rows = [self.rows[place] for place in places]
        self.ids = self.ids[index]
        self._mask = None if self._mask is None else self._mask[index]
        self._cache.batch_select_indices(index)

    def view(self) -> LiveBatch:
        """The batch as a probe sees it."""
        return LiveBatch(
            cache=self._cache, pending=self.ids[:, self._cache.get_seq_length() :], mask=self._mask
        )
