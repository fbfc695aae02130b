"""Some rows of a live batch, to run further tokens on and to leave as if nothing had happened. Knows no text."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import DynamicCache

from hf_dynasor.stopping.caches import LiveBatch, can_crop, check_cache, share_rows


class ForwardPass:
    """Calls a model's `forward` with explicit positions and mask, so that padding changes nothing."""

    def __init__(self, model: Any) -> None:
        parameters = inspect.signature(model.forward).parameters
        self.model = model
        self._takes_positions = "position_ids" in parameters
        self._takes_keep = "logits_to_keep" in parameters

    def __call__(self, ids: torch.Tensor, mask: torch.Tensor | None, cache: Any, keep: int) -> torch.Tensor:
        """The logits of the last `keep` columns, shape (rows, keep, vocabulary); the cache grows by `ids`.

        Args:
            ids: Tokens to append, shape (rows, columns).
            mask: 1 for real tokens of the cache and of `ids`, shape (rows, length); `None` without padding.
            cache: The rows' keys and values.
            keep: How many of the last columns are needed, at least 1.
        """
        options: dict[str, Any] = {"logits_to_keep": keep} if self._takes_keep else {}
        if self._takes_positions:
            options["position_ids"] = self._place(ids, mask, cache)
        output = self.model(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **options
        )
        logits: torch.Tensor = output.logits[:, -keep:]
        return logits

    def _place(self, ids: torch.Tensor, mask: torch.Tensor | None, cache: Any) -> torch.Tensor:
        if mask is not None:
            return (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        start = cache.get_seq_length()
        places = torch.arange(start, start + ids.shape[1], device=ids.device)
        return places.expand(ids.shape[0], -1)


class ProbeView:
    """A context in which rows of a live batch can be continued; on leaving it the live cache is as it was.

    All rows run on the live cache itself, which is then cropped, layer by layer, even after an error. Fewer rows,
    and layers with a sliding window, run on a cache that shares or copies just what they need.

    Args:
        forward: Calls the model.
        live: The batch.
        rows: The rows that are continued, ascending; row `i` of every result is `rows[i]`.
    """

    def __init__(self, forward: ForwardPass, live: LiveBatch, rows: Sequence[int]) -> None:
        self._forward = forward
        index = torch.tensor(rows, device=live.pending.device) if len(rows) < len(live) else None
        self._pending = live.pending if index is None else live.pending[index]
        self._mask = live.mask if index is None or live.mask is None else live.mask[index]
        self._live_length: int | None = None
        if live.cache is None:
            self.cache: Any = DynamicCache(config=forward.model.config)
            return
        check_cache(live.cache)
        if index is None and can_crop(live.cache):
            self.cache = live.cache
            self._live_length = live.cache.get_seq_length()
        else:
            self.cache = share_rows(live.cache, index)
            self.cache.activate_past_recording()

    def __enter__(self) -> ProbeView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live_length is None:
            return
        for layer in self.cache.layers:
            if (surplus := layer.get_seq_length() - self._live_length) > 0:
                layer.crop(-surplus)

    def extend(self, ids: Sequence[Sequence[int]], *, keep: int) -> torch.Tensor:
        """Append tokens to every row; returns log-probabilities after the last `keep`, shape (rows, keep, vocabulary)."""
        fresh = torch.tensor(ids, device=self._pending.device, dtype=self._pending.dtype)
        block = torch.cat([self._pending, fresh], dim=1)
        self._pending = self._pending[:, :0]
        if self._mask is not None:
            self._mask = pad(self._mask, (0, block.shape[1] - self._count_unseen()), value=1)
        logits = self._forward(block, self._mask, self.cache, keep)
        return logits.float().log_softmax(dim=-1)

    def drop(self, num_columns: int) -> None:
        """Take the last columns back."""
        if num_columns:
            self.cache.crop(-num_columns)
            self._mask = self._mask[:, :-num_columns] if self._mask is not None else None

    def select(self, rows: Sequence[int]) -> ProbeView:
        """A view of some of this view's rows that goes on from here; this one stays where it is."""
        return ProbeView(
            self._forward, LiveBatch(cache=self.cache, pending=self._pending, mask=self._mask), rows
        )

    def _count_unseen(self) -> int:
        """Columns that the mask already has and the cache has not: those that were pending."""
        assert self._mask is not None
        return int(self._mask.shape[1]) - int(self.cache.get_seq_length())
