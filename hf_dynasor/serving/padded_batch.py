"""A left-padded batch of rows that decode together: rows join, leave and shrink it while it runs.

Knows tensors and the model's public `forward`, but no requests, texts or threads. Positions and the attention
mask are explicit, so a row computes the same whatever padding it carries.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from hf_dynasor.serving.layer_placement import find_input_device

_MIN_TRIM = 16  # columns of padding that must have become useless before the cache is copied without them


class PaddedBatch:
    """Rows with their keys and values. Row `i` of every result belongs to row `i` of the batch.

    Args:
        model: A causal language model whose cache `find_cache_kind` accepts.
        pad_token_id: Fills the left of shorter prompts.
    """

    def __init__(self, model: Any, pad_token_id: int) -> None:
        self._model = model
        self._pad_token_id = pad_token_id
        parameters = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in parameters
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
        self._cache: Any = None
        self._device = find_input_device(model)
        self._mask = torch.zeros((0, 0), dtype=torch.long, device=self._device)

    def __len__(self) -> int:
        return int(self._mask.shape[0])

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]], rows: Sequence[int]) -> torch.Tensor:
        """Compute prompts into an empty batch and give it one row for each of `rows`.

        Args:
            prompts: Token ids, computed once each.
            rows: For each row, the index of its prompt.

        Returns:
            The logits of the next token, shape (rows, vocabulary).
        """
        length = max(len(prompt) for prompt in prompts)
        ids = [[self._pad_token_id] * (length - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        self._mask = torch.tensor(mask, device=self._device)
        self._cache = DynamicCache(config=self._model.config)
        logits = self._forward(torch.tensor(ids, device=self._device))
        if list(rows) != list(range(len(prompts))):
            self.keep(rows)
            logits = logits[torch.tensor(rows, device=logits.device)]
        return logits

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Append one token to every row; returns the logits of the next, shape (rows, vocabulary)."""
        self._mask = pad(self._mask, (0, 1), value=1)
        return self._forward(torch.tensor(tokens, device=self._device)[:, None])

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Make the batch of these rows, in this order; a row may be left out or repeated."""
        if not rows:
            self._cache, self._mask = None, self._mask[:0, :0]
            return
        index = torch.tensor(rows, device=self._mask.device)
        self._cache.batch_select_indices(index)
        self._mask = self._mask[index]
        self._trim()

    @torch.inference_mode()
    def join(self, other: PaddedBatch) -> None:
        """Append the rows of another batch of the same model. Only for caches of kind `joinable`."""
        if not len(self):
            self._cache, self._mask = other._cache, other._mask
            return
        length = max(self._mask.shape[1], other._mask.shape[1])
        self._mask = torch.cat([_pad_left(batch._mask, length, dim=1) for batch in (self, other)])
        for mine, theirs in zip(self._cache.layers, other._cache.layers, strict=True):
            # The newest column is not in the cache yet, hence the layers' own length.
            size = max(mine.keys.shape[2], theirs.keys.shape[2])
            mine.keys = torch.cat([_pad_left(layer.keys, size, dim=2) for layer in (mine, theirs)])
            mine.values = torch.cat([_pad_left(layer.values, size, dim=2) for layer in (mine, theirs)])

    def _forward(self, ids: torch.Tensor) -> torch.Tensor:
        options: dict[str, Any] = dict(self._last_only)
        if self._takes_positions:
            positions = (self._mask.cumsum(dim=1) - 1).clamp(min=0)
            options["position_ids"] = positions[:, -ids.shape[1] :]
        output = self._model(
            input_ids=ids, attention_mask=self._mask, past_key_values=self._cache, use_cache=True, **options
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _trim(self) -> None:
        """Drop the columns on the left that are padding in every row."""
        useless = int(self._mask.any(dim=0).int().argmax())
        if useless < _MIN_TRIM or find_cache_kind(self._model) != "joinable":
            return
        self._mask = self._mask[:, useless:]
        for layer in self._cache.layers:
            layer.keys, layer.values = layer.keys[:, :, useless:], layer.values[:, :, useless:]


def find_cache_kind(model: Any) -> str:
    """What can be done with the cache of a model's rows.

    Returns:
        `joinable`: rows can leave and join. `fixed`: rows can leave (some layers keep a sliding window).
        `opaque`: neither (recurrent states, and whatever else is not keys and values).
    """
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers}
    if kinds == {DynamicLayer}:
        return "joinable"
    return "fixed" if kinds and kinds <= {DynamicLayer, DynamicSlidingWindowLayer} else "opaque"


def _pad_left(tensor: torch.Tensor, size: int, *, dim: int) -> torch.Tensor:
    missing = size - tensor.shape[dim]
    if not missing:
        return tensor
    return pad(tensor, (0, 0) * (tensor.dim() - 1 - dim) + (missing, 0))
