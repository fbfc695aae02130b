"""Rows of sequences that decode, in classes by length: a long sequence does not make all rows as long as its own.

A few rows attend together, which costs fewest calls. Where padding all rows to the longest would cost more than the
calls, each class of lengths has rows of its own; a sequence moves on when it has outgrown its class. Classes that find
no room among the kept rows are gathered for each layer anew. Pure tensors: knows no model and no cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hf_dynasor.serving.row_arena import PageReader, RowArena, StepPlan

_MOST_TOGETHER = 8192  # tokens of rows, padding counted, that attend in one call
_SMALLEST_CLASS = 4  # pages of a row; classes are 4, 6, 8, 12, 16, 24, ... pages
_PASSING = -1  # the layer in whose name rows lie that are not kept


@dataclass(frozen=True, slots=True)
class Part:
    """A class's share of a step.

    Args:
        arena: Its rows.
        plan: What is done with them.
        numbers: Which of the step's sequences it has; `None` for all in their order.
        is_kept: Whether the rows last beyond the layer.
    """

    arena: RowArena
    plan: StepPlan
    numbers: torch.Tensor | None
    is_kept: bool


class RowClasses:
    """The rows of one engine's loop.

    Args:
        page_size: Tokens of a page.
        max_tokens: Most tokens of all kept rows together, padding counted.
        most_together: Most tokens, padding counted, of rows that attend in one call whatever their lengths.
    """

    def __init__(self, *, page_size: int, max_tokens: int, most_together: int = _MOST_TOGETHER) -> None:
        self._page_size, self._max_tokens, self._most_together = page_size, max_tokens, most_together
        self._together = RowArena(page_size=page_size, max_tokens=max_tokens)
        self._classes: dict[int, RowArena] = {}

    @property
    def num_tokens(self) -> int:
        """Tokens of all kept rows, padding counted."""
        return self._together.num_tokens + sum(arena.num_tokens for arena in self._classes.values())

    def plan(
        self, names: Sequence[str], sizes: Sequence[int], read_pages: PageReader, like: torch.Tensor
    ) -> tuple[Part, ...]:
        """Plan a step; call `attend` for every layer next.

        Args:
            names: The sequences of one query in this step, each by a name of its own.
            sizes: Their tokens, the new one included.
            read_pages: Tells the places of a sequence's pages, by its number.
            like: A tensor of the queries' type and place.
        """
        num_padded = max(sizes) * len(names)
        # Half as many before classes are given up again: to change over, everything is gathered anew.
        if num_padded <= self._most_together // (2 if self._classes else 1):
            plan = self._together.plan(names, sizes, read_pages, like)
            if plan is not None:  # else there is no room for rows of one length: classes stay as they are
                self._classes.clear()
                return (Part(self._together, plan, None, is_kept=True),)
        self._together.clear()
        members: dict[int, list[int]] = {}
        for number, size in enumerate(sizes):
            members.setdefault(self._choose_class(size), []).append(number)
        self._classes = {row_size: self._classes.get(row_size, self._make(row_size)) for row_size in members}
        parts, room = [], self._max_tokens
        for row_size, numbers in sorted(members.items()):
            part = self._plan_class(row_size, numbers, names, sizes, read_pages, like, room)
            room -= part.arena.num_tokens if part.is_kept else 0
            parts.append(part)
        return tuple(parts)

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        stored: tuple[torch.Tensor, torch.Tensor],
        new: tuple[torch.Tensor, torch.Tensor],
        plan: Sequence[Part],
        *,
        scaling: float | None,
    ) -> torch.Tensor:
        """Attention of every sequence over its own keys, the new token's included; see `RowArena.attend`."""
        output = None
        for part in plan:
            place = layer if part.is_kept else _PASSING
            if part.numbers is None:
                return part.arena.attend(place, query, stored, new, part.plan, scaling=scaling)
            queries, keys, values = (tensor.index_select(0, part.numbers) for tensor in (query, *new))
            attended = part.arena.attend(place, queries, stored, (keys, values), part.plan, scaling=scaling)
            output = torch.empty_like(query) if output is None else output
            output.index_copy_(0, part.numbers, attended)
        assert output is not None
        return output

    def clear(self) -> None:
        """Forget everything."""
        self._together.clear()
        self._classes.clear()

    def _plan_class(
        self,
        row_size: int,
        numbers: list[int],
        names: Sequence[str],
        sizes: Sequence[int],
        read_pages: PageReader,
        like: torch.Tensor,
        room: int,
    ) -> Part:
        mine = [names[number] for number in numbers], [sizes[number] for number in numbers]
        where = torch.tensor(numbers, device=like.device, dtype=torch.long)
        read = lambda place: read_pages(numbers[place])  # noqa: E731
        arena = self._classes[row_size]
        plan = arena.plan(*mine, read, like, max_tokens=room)
        if plan is not None:
            return Part(arena, plan, where, is_kept=True)
        passing = self._make(row_size)
        plan = passing.plan(*mine, read, like, max_tokens=None)
        assert plan is not None
        return Part(passing, plan, where, is_kept=False)

    def _make(self, row_size: int) -> RowArena:
        return RowArena(page_size=self._page_size, max_tokens=self._max_tokens, row_size=row_size)

    def _choose_class(self, size: int) -> int:
        """Tokens of a row for a sequence of so many."""
        num_pages = _SMALLEST_CLASS
        while num_pages * self._page_size < size:
            is_power = num_pages & (num_pages - 1) == 0
            num_pages = num_pages * 3 // 2 if is_power else num_pages * 4 // 3
        return num_pages * self._page_size
