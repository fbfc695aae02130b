"""Keys and values of sequences that decode, kept in rows between steps.

Attention reads a batch of rows. Where keys lie in pages, rows would be gathered anew for each layer of each step,
which takes longer than the attention itself; here a sequence is gathered once, and each step adds its new token.
Pages stay what counts: a row that is not here is gathered again. Pure tensors: knows no model and no cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from hf_dynasor.serving.packed_linear import fill_rows

PageReader = Callable[[int], torch.Tensor]

_ROOM = 64  # tokens that rows may grow before they are gathered anew
_MOST_DEAD = 0.25  # share of rows that may be nobody's


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """What a step does with the rows; the same for all layers.

    Args:
        shape: Rows and tokens of a row.
        is_fresh: Whether nothing that is kept counts.
        source_pages, target_pages: Pages to copy into rows, by their places.
        token_places: Where the rows' new tokens go, shape (sequences,), in the order of the sequences.
        row_of: The row of each sequence; `None` where they are in that order.
        sequence_of: The sequence of each row; rows that are nobody's have any. `None` likewise.
        longest: Tokens of the longest row, rounded up to pages.
        mask: Added to scores, shape (rows, 1, 1, longest).
    """

    shape: tuple[int, int]
    is_fresh: bool
    source_pages: torch.Tensor | None
    target_pages: torch.Tensor | None
    token_places: torch.Tensor
    row_of: torch.Tensor | None
    sequence_of: torch.Tensor | None
    longest: int
    mask: torch.Tensor


class RowArena:
    """The rows of one engine's loop.

    Args:
        page_size: Tokens of a page.
        max_tokens: Most tokens of all rows together, padding counted; a step that needs more is not planned.
        row_size: Tokens of every row, whole pages; `None` chooses them by the longest sequence.
    """

    def __init__(self, *, page_size: int, max_tokens: int, row_size: int | None = None) -> None:
        self._page_size, self._max_tokens, self._fixed_size = page_size, max_tokens, row_size
        self._slots: list[str | None] = []
        self._sizes: dict[str, int] = {}
        self._row_size = row_size or 0
        self._buffers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def num_tokens(self) -> int:
        """Tokens that there is memory for, in each layer."""
        return self._row_size * fill_rows(len(self._slots)) if self._slots else 0

    def plan(
        self,
        names: Sequence[str],
        sizes: Sequence[int],
        read_pages: PageReader,
        like: torch.Tensor,
        *,
        max_tokens: float | None = math.inf,
    ) -> StepPlan | None:
        """Plan a step; call `attend` for every layer next. `None` where rows would take too much memory.

        Args:
            names: The sequences of one query in this step, each by a name of its own.
            sizes: Their tokens, the new one included.
            read_pages: Tells the places of a sequence's pages, by its number.
            like: A tensor of the queries' type and place.
            max_tokens: For this step less than the arena's own; `None` for no bound at all.
        """
        longest = -(-max(sizes) // self._page_size) * self._page_size
        is_fresh = self._must_widen(longest) or self._must_compact(names)
        if is_fresh:
            self._slots, self._row_size = list(names), self._fixed_size or self._choose_size(longest)
            new = list(range(len(names)))
        else:
            new = self._place(names, sizes)
        if max_tokens is not None and self.num_tokens > min(self._max_tokens, max_tokens):
            self.clear()
            return None
        self._sizes = dict(zip(names, sizes, strict=True))
        pages = {number: read_pages(number) for number in new}
        return self._describe(names, sizes, pages, like, is_fresh=is_fresh, longest=longest)

    def clear(self) -> None:
        """Forget everything."""
        self._slots, self._sizes, self._row_size = [], {}, self._fixed_size or 0
        self._buffers.clear()

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        stored: tuple[torch.Tensor, torch.Tensor],
        new: tuple[torch.Tensor, torch.Tensor],
        plan: StepPlan,
        *,
        scaling: float | None,
    ) -> torch.Tensor:
        """Attention of every sequence over its own keys, the new token's included.

        Args:
            layer: Which layer.
            query: Shape (sequences, heads, size).
            stored: Keys and values in pages, shape (places, key heads, size), the new ones included.
            new: The new tokens', shape (sequences, key heads, size).
            plan: The step's.
            scaling: Factor of the scores; `None` takes one over the root of the size.

        Returns:
            Shape (sequences, heads, size).
        """
        kept = self._fill(layer, stored, new, plan)
        num_heads, size = query.shape[1:]
        num_rows, num_keyed = plan.shape[0], new[0].shape[1]
        rows = query if plan.sequence_of is None else query.index_select(0, plan.sequence_of)
        mine, theirs = (
            tensor[: math.prod(plan.shape)]
            .view(*plan.shape, num_keyed, size)[:, : plan.longest]
            .transpose(1, 2)
            for tensor in kept
        )
        attended = scaled_dot_product_attention(
            rows.reshape(num_rows, num_keyed, num_heads // num_keyed, size),
            mine,
            theirs,
            attn_mask=plan.mask,
            scale=scaling,
        ).reshape(num_rows, num_heads, size)
        return attended if plan.row_of is None else attended.index_select(0, plan.row_of)

    def _must_widen(self, longest: int) -> bool:
        if self._fixed_size is not None:
            return False
        return not longest <= self._row_size <= 2 * (longest + _ROOM)

    def _choose_size(self, longest: int) -> int:
        return -(-(longest + _ROOM) // self._page_size) * self._page_size

    def _must_compact(self, names: Sequence[str]) -> bool:
        num_needed = len(set(self._slots) & set(names))
        num_rows = max(len(self._slots), len(names))
        return num_rows - len(names) > _MOST_DEAD * num_rows or not num_needed

    def _place(self, names: Sequence[str], sizes: Sequence[int]) -> list[int]:
        """Give the sequences that are not here rows; returns their numbers among the sequences."""
        kept = dict(zip(names, sizes, strict=True))
        self._slots = [name if name in kept else None for name in self._slots]
        free = [row for row, name in enumerate(self._slots) if name is None]
        here = set(self._slots)
        new = [i for i, name in enumerate(names) if self._sizes.get(name) != sizes[i] - 1 or name not in here]
        for number in new:
            name = names[number]
            if name in here:
                continue
            if free:
                self._slots[free.pop()] = name
            else:
                self._slots.append(name)
        return new

    def _describe(
        self,
        names: Sequence[str],
        sizes: Sequence[int],
        pages: Mapping[int, torch.Tensor],
        like: torch.Tensor,
        *,
        is_fresh: bool,
        longest: int,
    ) -> StepPlan:
        rows = {name: row for row, name in enumerate(self._slots) if name is not None}
        row_of = [rows[name] for name in names]
        sequence_of = [0] * len(self._slots)
        row_sizes = [1] * len(self._slots)  # of nobody's too, so that no row has no key
        for number, row in enumerate(row_of):
            sequence_of[row], row_sizes[row] = number, sizes[number]
        is_in_order = row_of == list(range(len(self._slots)))
        make: Any = lambda values: torch.tensor(values, device=like.device, dtype=torch.long)  # noqa: E731
        pages_of_row = self._row_size // self._page_size
        targets = [
            row_of[number] * pages_of_row + place
            for number, places in pages.items()
            for place in range(len(places))
        ]
        padding = torch.arange(longest, device=like.device) >= make(row_sizes)[:, None]
        mask = torch.zeros(padding.shape, device=like.device, dtype=like.dtype)
        return StepPlan(
            shape=(len(self._slots), self._row_size),
            is_fresh=is_fresh,
            source_pages=torch.cat(list(pages.values())) if pages else None,
            target_pages=make(targets) if pages else None,
            token_places=make(
                [row * self._row_size + size - 1 for row, size in zip(row_of, sizes, strict=True)]
            ),
            row_of=None if is_in_order else make(row_of),
            sequence_of=None if is_in_order else make(sequence_of),
            longest=longest,
            mask=mask.masked_fill_(padding, float("-inf"))[:, None, None, :],
        )

    def _fill(
        self,
        layer: int,
        stored: tuple[torch.Tensor, torch.Tensor],
        new: tuple[torch.Tensor, torch.Tensor],
        plan: StepPlan,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A layer's rows with the new tokens, each of shape (at least rows * tokens of a row, key heads * size)."""
        num_tokens, width = fill_rows(plan.shape[0]) * plan.shape[1], new[0].shape[1] * new[0].shape[2]
        kept = self._buffers.get(layer)
        if kept is None or plan.is_fresh or kept[0].shape[0] != num_tokens:
            kept = self._resize(layer, num_tokens, width, new[0], keep=not plan.is_fresh)
        for rows, pages, tokens in zip(kept, stored, new, strict=True):
            if plan.source_pages is not None:
                assert plan.target_pages is not None
                of_page = self._page_size * width
                num_pages = pages.shape[0] // self._page_size
                source = pages[: num_pages * self._page_size].view(num_pages, of_page)
                rows.view(-1, of_page).index_copy_(
                    0, plan.target_pages, source.index_select(0, plan.source_pages)
                )
            rows.index_copy_(0, plan.token_places, tokens.reshape(-1, width))
        return kept

    def _resize(
        self, layer: int, num_tokens: int, width: int, like: torch.Tensor, *, keep: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of another number. Zeros, since what a mask leaves out is still multiplied by nought."""
        old = self._buffers.get(layer) if keep else None
        fresh = []
        for place in (0, 1):
            tensor = torch.zeros(num_tokens, width, dtype=like.dtype, device=like.device)
            if old is not None:
                count = min(num_tokens, old[place].shape[0])
                tensor[:count] = old[place][:count]
            fresh.append(tensor)
        self._buffers[layer] = fresh[0], fresh[1]
        return self._buffers[layer]
