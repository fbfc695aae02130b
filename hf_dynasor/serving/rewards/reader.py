"""Reads many paths through one causal model, each token once: beginnings that were read before are not read again.

Rows are padded on the left, of the cached part and of the new part alike; positions and mask are explicit, so a
row computes the same whatever stands beside it, and what is wanted is in the last column.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from hf_dynasor.serving.layer_placement import find_input_device
from hf_dynasor.serving.padded_batch import find_cache_kind
from hf_dynasor.serving.rewards.prefix_cache import CachedPath, KeysValues, PrefixCache, count_shared

Forward = Callable[[dict[str, Any]], torch.Tensor]  # model inputs -> (rows, columns, features)

MAX_BATCH_TOKENS = 4096
MAX_LOGIT_VALUES = 2**26  # of one forward: 256 MiB in float32
CPU_CACHE_BYTES = 256 * 2**20
_MIN_SHARED = 8  # tokens from which on a common beginning is read by itself first
_MAX_ROUNDS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What was read of a path.

    Args:
        last: Features of the last token.
        values: The log-probability of each token but the first (which is 0), where tokens are rated; else empty.
        num_read: Tokens computed for it.
        num_reused: Tokens taken from the cache.
    """

    last: tuple[float, ...]
    values: tuple[float, ...]
    num_read: int
    num_reused: int


@dataclass(slots=True, eq=False)
class _Row:
    ids: tuple[int, ...]
    path: CachedPath | None
    num_reused: int
    known: tuple[float, ...]

    @property
    def new_ids(self) -> tuple[int, ...]:
        return self.ids[self.num_reused :]


class PathReader:
    """Reads paths in batches.

    Args:
        model: The transformers model, for its device, its configuration and its cache.
        forward: Runs it; returns features of every column, or of the last one only.
        num_features: Features of a column, to bound memory.
        rates_tokens: The features are logits of the next token; every token's log-probability is kept.
        max_batch_tokens: Most places, padding and cached ones included, of one forward, unless one path is longer.
        max_cached_tokens: Most tokens whose keys and values are kept; `None` takes what fits 256 MiB, 0 keeps none.
    """

    def __init__(
        self,
        model: Any,
        forward: Forward,
        *,
        num_features: int,
        pad_token_id: int,
        kv_bytes_per_token: int,
        rates_tokens: bool = False,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        max_cached_tokens: int | None = None,
    ) -> None:
        self._model, self._forward = model, forward
        self._num_features, self._rates_tokens = num_features, rates_tokens
        self._pad_token_id = pad_token_id
        self._max_batch_tokens = max_batch_tokens
        if max_cached_tokens is None:
            max_cached_tokens = CPU_CACHE_BYTES // max(1, kv_bytes_per_token)
        self._can_reuse = max_cached_tokens > 0 and find_cache_kind(model) == "joinable"
        self.cache = PrefixCache(max_cached_tokens)
        self._takes_positions = "position_ids" in inspect.signature(model.base_model.forward).parameters

    @torch.inference_mode()
    def read(self, paths: Sequence[tuple[int, ...]]) -> list[Reading]:
        """Read paths, each at least one token; equal ones are read once and counted for the first."""
        counted: dict[tuple[int, ...], int] = {}
        if self._can_reuse:
            self._read_shared(paths, counted)
        readings = self._read_rows([self._make_row(ids) for ids in dict.fromkeys(paths)])
        results = []
        for ids in paths:
            found = readings[ids]
            extra = sum(counted.pop(head) for head in list(counted) if ids[: len(head)] == head)
            results.append(
                Reading(
                    last=found.last,
                    values=found.values,
                    num_read=found.num_read + extra,
                    num_reused=max(0, found.num_reused - extra),
                )
            )
            readings[ids] = Reading(
                last=found.last, values=found.values, num_read=0, num_reused=len(ids)
            )  # for a second path that is the same
        return results

    def _read_shared(self, paths: Sequence[tuple[int, ...]], counted: dict[tuple[int, ...], int]) -> None:
        """Read what several paths begin with first, shortest beginnings before those that continue them."""
        for _ in range(_MAX_ROUNDS):
            heads = self._find_heads(paths)
            if not heads:
                return
            for ids, reading in self._read_rows([self._make_row(head) for head in heads]).items():
                counted[ids] = reading.num_read

    def _find_heads(self, paths: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        ordered = sorted(set(paths))
        heads: list[tuple[int, ...]] = []
        for first, second in itertools.pairwise(ordered):
            head = first[: count_shared(first, second)]
            if len(head) - self.cache.find(head)[1] >= _MIN_SHARED:
                heads.append(head)
        return [
            head
            for head in dict.fromkeys(heads)
            if not any(head != other and head[: len(other)] == other for other in heads)
        ]

    def _make_row(self, ids: tuple[int, ...]) -> _Row:
        """What is reused: the last token is always read, and, where tokens are rated, the last one that is shared."""
        path, shared = self.cache.find(ids) if self._can_reuse else (None, 0)
        known = path.values[:shared] if path is not None else ()
        num_reused = min(shared - 1 if self._rates_tokens else shared, len(ids) - 1)
        return _Row(ids, path, max(0, num_reused), known)

    def _read_rows(self, rows: list[_Row]) -> dict[tuple[int, ...], Reading]:
        readings: dict[tuple[int, ...], Reading] = {}
        for group in self._split(rows):
            readings.update(self._read_group(group))
        return readings

    def _split(self, rows: list[_Row]) -> list[list[_Row]]:
        """Groups of neighbours in length, each within the bound, or of one row."""
        groups: list[list[_Row]] = []
        for row in sorted(rows, key=lambda row: (len(row.new_ids), row.num_reused), reverse=True):
            if groups and self._fits([*groups[-1], row]):
                groups[-1].append(row)
            else:
                groups.append([row])
        return groups

    def _fits(self, group: list[_Row]) -> bool:
        width = max(len(row.new_ids) for row in group)
        num_places = len(group) * (width + max(row.num_reused for row in group))
        num_values = len(group) * width * self._num_features if self._rates_tokens else 0
        return num_places <= self._max_batch_tokens and num_values <= MAX_LOGIT_VALUES

    def _read_group(self, group: list[_Row]) -> dict[tuple[int, ...], Reading]:
        width = max(len(row.new_ids) for row in group)
        num_cached = max(row.num_reused for row in group)
        ids, mask = self._lay_out(group, width, num_cached)
        cache = self._join_caches(group, num_cached) if self._can_reuse else None
        features, logprobs = self._compute(ids, mask, cache)
        readings = {}
        for index, row in enumerate(group):
            values: tuple[float, ...] = ()
            if self._rates_tokens:
                new = logprobs[index, width - len(row.new_ids) :].tolist()
                values = (*row.known, *new[len(row.known) - row.num_reused :]) if row.known else tuple(new)
            if cache is not None:
                self._keep(row, cache, index, width, values)
            readings[row.ids] = Reading(
                last=tuple(features[index].tolist()),
                values=values,
                num_read=len(row.new_ids),
                num_reused=row.num_reused,
            )
        return readings

    def _lay_out(self, group: list[_Row], width: int, num_cached: int) -> tuple[torch.Tensor, torch.Tensor]:
        ids, mask = [], []
        for row in group:
            gap, missing = width - len(row.new_ids), num_cached - row.num_reused
            ids.append([self._pad_token_id] * gap + list(row.new_ids))
            mask.append([0] * missing + [1] * row.num_reused + [0] * gap + [1] * len(row.new_ids))
        device = find_input_device(self._model)
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)

    def _compute(
        self, ids: torch.Tensor, mask: torch.Tensor, cache: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the columns, in pieces where their logits would take too much memory.

        Returns:
            The features of the last column, shape (rows, features) or empty where tokens are rated, and the
            log-probability of every column's token, shape (rows, columns), 0 in the first.
        """
        width = ids.shape[1]
        begin = mask.shape[1] - width
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, begin:]
        step = width if cache is None else self._choose_piece(ids.shape[0], width)
        rated = [torch.zeros((ids.shape[0], 1), device=ids.device)]
        carried: torch.Tensor | None = None
        features = torch.zeros((ids.shape[0], 0))
        for start in range(0, width, step):
            piece = slice(start, start + step)
            inputs: dict[str, Any] = {
                "input_ids": ids[:, piece],
                "attention_mask": mask[:, : begin + start + step],
                "past_key_values": cache,
                "use_cache": cache is not None,
            }
            if self._takes_positions:
                inputs["position_ids"] = positions[:, piece]
            output = self._forward(inputs)
            if not self._rates_tokens:
                features = output[:, -1].float().cpu()
                continue
            logits = output if carried is None else torch.cat([carried, output], dim=1)
            targets = ids[:, piece] if carried is not None else ids[:, piece][:, 1:]
            rated.append(_pick_logprobs(logits[:, :-1], targets))
            carried = output[:, -1:]
        return features, torch.cat(rated, dim=1).cpu() if self._rates_tokens else torch.zeros(0)

    def _choose_piece(self, num_rows: int, width: int) -> int:
        if not self._rates_tokens:
            return width
        return max(1, min(width, MAX_LOGIT_VALUES // (num_rows * self._num_features)))

    def _join_caches(self, group: list[_Row], num_cached: int) -> Any:
        cache = DynamicCache(config=self._model.config.get_text_config())
        if not num_cached:
            return cache
        some = next(row.path for row in group if row.path is not None)
        for layer, sample in enumerate(some.layers):
            keys, values = (
                torch.stack([_pad_left(row, layer, which, num_cached, sample[which]) for row in group])
                for which in (0, 1)
            )
            cache.update(keys, values, layer)
        return cache

    def _keep(self, row: _Row, cache: Any, index: int, width: int, values: tuple[float, ...]) -> None:
        num_new = len(row.new_ids)
        layers: list[KeysValues] = []
        for number, layer in enumerate(cache.layers):
            pair = []
            for which, tensor in enumerate((layer.keys, layer.values)):
                new = tensor[index, :, tensor.shape[2] - num_new :]
                old = (
                    row.path.layers[number][which][:, : row.num_reused]
                    if row.path is not None
                    else new[:, :0]
                )
                pair.append(torch.cat([old, new], dim=1))
            layers.append((pair[0], pair[1]))
        self.cache.put(CachedPath(ids=row.ids, layers=tuple(layers), values=values))


def _pad_left(row: _Row, layer: int, which: int, size: int, sample: torch.Tensor) -> torch.Tensor:
    padded = sample.new_zeros((sample.shape[0], size, sample.shape[2]))
    if row.path is not None and row.num_reused:
        padded[:, size - row.num_reused :] = row.path.layers[layer][which][:, : row.num_reused]
    return padded


def _pick_logprobs(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = logits.float()
    chosen = logits.gather(-1, targets[..., None])[..., 0]
    return chosen - logits.logsumexp(dim=-1)
