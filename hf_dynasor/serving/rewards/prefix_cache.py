"""Keys and values of paths that a reward model has read, found by their token ids. Knows no model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

KeysValues = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CachedPath:
    """A path that was read.

    Args:
        ids: Its tokens.
        layers: Keys and values of each layer, shape (heads, len(ids), size).
        values: What was read at each token, where the model rates tokens; else empty.
    """

    ids: tuple[int, ...]
    layers: tuple[KeysValues, ...]
    values: tuple[float, ...] = ()


class PrefixCache:
    """The paths read last, most recently used last; a path that continues another takes its place.

    Args:
        max_tokens: Most tokens that all paths hold together; 0 keeps nothing.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._paths: OrderedDict[tuple[int, ...], CachedPath] = OrderedDict()
        self._num_tokens = 0

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def num_tokens(self) -> int:
        """Tokens held now."""
        return self._num_tokens

    def find(self, ids: tuple[int, ...]) -> tuple[CachedPath | None, int]:
        """The path that shares the longest beginning with `ids`, and how long that is."""
        best, longest = None, 0
        for path in self._paths.values():
            if path.ids[:longest] == ids[:longest]:
                shared = count_shared(path.ids, ids)
                if shared > longest:
                    best, longest = path, shared
        if best is not None:
            self._paths.move_to_end(best.ids)
        return best, longest

    def put(self, path: CachedPath) -> None:
        """Keep a path, and drop those that are its beginnings or were not used for longest."""
        if len(path.ids) > self._max_tokens:
            return
        for ids in [ids for ids in self._paths if path.ids[: len(ids)] == ids]:
            self._drop(ids)
        self._paths[path.ids] = path
        self._num_tokens += len(path.ids)
        while self._num_tokens > self._max_tokens:
            self._drop(next(iter(self._paths)))

    def clear(self) -> None:
        """Forget everything."""
        self._paths.clear()
        self._num_tokens = 0

    def _drop(self, ids: tuple[int, ...]) -> None:
        self._num_tokens -= len(self._paths.pop(ids).ids)


def count_shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many ids two sequences begin with alike."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
