"""Rows that are kept between steps, together or in classes, attend as rows that are gathered anew."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.serving.packed_attention import attend, lay_out
from hf_dynasor.serving.row_arena import RowArena
from hf_dynasor.serving.row_classes import RowClasses

PAGE, NUM_PAGES, HEADS, KEYED, SIZE = 4, 64, 4, 2, 8


class Store:
    """Pages of one layer, and sequences that lie in them."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(0)
        self.keys, self.values = (self._draw(NUM_PAGES * PAGE, KEYED) for _ in range(2))
        self._free = torch.randperm(NUM_PAGES, generator=self._generator).tolist()
        self.pages: dict[str, list[int]] = {}
        self.sizes: dict[str, int] = {}

    def grow(self, name: str, count: int = 1) -> None:
        """Add tokens to a sequence, with keys and values that nobody had."""
        self.sizes.setdefault(name, 0)
        for _ in range(count):
            place = self.sizes[name]
            if place % PAGE == 0:
                self.pages.setdefault(name, []).append(self._free.pop())
            here = self.pages[name][-1] * PAGE + place % PAGE
            self.keys[here], self.values[here] = self._draw(KEYED), self._draw(KEYED)
            self.sizes[name] += 1

    def end(self, name: str) -> None:
        """Give a sequence's pages back, dirty."""
        self._free += self.pages.pop(name)
        del self.sizes[name]

    def check(self, arena: Any, names: list[str]) -> Any:
        """One step of the arena against attention over the pages."""
        sizes = [self.sizes[name] for name in names]
        query = self._draw(len(names), HEADS)
        index = torch.cat([self._places(name) for name in names])
        ends = [0, *torch.tensor(sizes).cumsum(0).tolist()]
        layout = lay_out(list(range(len(names) + 1)), ends, query, index=index, page_size=PAGE)
        want = attend(query, self.keys, self.values, layout, scaling=None)
        plan = arena.plan(names, sizes, lambda number: torch.tensor(self.pages[names[number]]), query)
        assert plan is not None
        last = torch.stack([self._places(name)[-1] for name in names])
        new = self.keys[last], self.values[last]
        got = arena.attend(0, query, (self.keys, self.values), new, plan, scaling=None)
        torch.testing.assert_close(got, want)
        return plan

    def _places(self, name: str) -> torch.Tensor:
        numbers = torch.arange(self.sizes[name])
        return torch.tensor(self.pages[name])[numbers // PAGE] * PAGE + numbers % PAGE

    def _draw(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, SIZE, generator=self._generator)


EVENTS = st.lists(
    st.tuples(st.sampled_from(["come", "go", "pause", "leap"]), st.integers(0, 4), st.integers(1, 30)),
    max_size=14,
)


ARENAS = {
    "one arena": lambda: RowArena(page_size=PAGE, max_tokens=10_000),
    "together": lambda: RowClasses(page_size=PAGE, max_tokens=10_000),
    "classes": lambda: RowClasses(page_size=PAGE, max_tokens=10_000, most_together=0),
    "to and fro": lambda: RowClasses(page_size=PAGE, max_tokens=10_000, most_together=90),
    "no room for all": lambda: RowClasses(page_size=PAGE, max_tokens=50, most_together=60),
    "no room at all": lambda: RowClasses(page_size=PAGE, max_tokens=0, most_together=60),
}


@pytest.mark.parametrize("kind_of_arena", ARENAS)
@settings(max_examples=30, deadline=None)
@given(events=EVENTS)
def test_rows_that_come_go_pause_and_leap_attend_as_their_pages_say(
    kind_of_arena: str, events: list[tuple[str, int, int]]
) -> None:
    store, arena = Store(), ARENAS[kind_of_arena]()
    store.grow("a", 3)
    store.grow("b", 9)
    for number, (kind, place, count) in enumerate(events):
        names = sorted(store.sizes)
        chosen = names[place % len(names)]
        if kind == "come" and len(names) < 4:
            store.grow(f"n{number}", count % 12 + 1)
        elif kind == "go" and len(names) > 1:
            store.end(chosen)
        elif kind == "leap" and store.sizes[chosen] < 30:
            store.grow(chosen, count % 5)
        running = [name for name in sorted(store.sizes) if kind != "pause" or name != chosen]
        for name in running:
            store.grow(name)
        if running:
            store.check(arena, running)


def test_what_would_take_too_much_memory_is_not_planned_and_forgotten() -> None:
    store, arena = Store(), RowArena(page_size=PAGE, max_tokens=100)
    store.grow("a", 20)
    query = torch.zeros(1, HEADS, SIZE)
    pages = torch.tensor(store.pages["a"])
    assert arena.plan(["a"], [20], lambda number: pages, query) is not None
    assert arena.plan(["a"], [90], lambda number: pages, query) is None


@pytest.mark.parametrize("steps", [70, 140])
def test_a_row_that_outgrows_its_room_is_gathered_again(steps: int) -> None:
    store, arena = Store(), RowArena(page_size=PAGE, max_tokens=10_000)
    store.grow("a", 5)
    for _ in range(steps):
        store.grow("a")
        store.check(arena, ["a"])


def test_a_long_sequence_does_not_widen_the_others_rows() -> None:
    store = Store()
    arena = RowClasses(page_size=PAGE, max_tokens=10_000, most_together=100)
    for name, size in (("a", 9), ("b", 9), ("c", 9), ("long", 70)):
        store.grow(name, size)
    parts = store.check(arena, ["a", "b", "c", "long"])
    assert [part.plan.shape for part in parts] == [(3, 16), (1, 96)]
    assert arena.num_tokens == 3 * 16 + 96
    store.end("long")
    for name in ("a", "b", "c"):
        store.grow(name)
    (part,) = store.check(arena, ["a", "b", "c"])
    assert part.numbers is None


def test_kept_rows_stay_within_their_bound_and_the_rest_is_gathered() -> None:
    store = Store()
    arena = RowClasses(page_size=PAGE, max_tokens=50, most_together=0)
    for name, size in (("a", 9), ("b", 30), ("c", 9)):
        store.grow(name, size)
    for _ in range(3):
        for name in ("a", "b", "c"):
            store.grow(name)
        parts = store.check(arena, ["a", "b", "c"])
        assert [part.is_kept for part in parts] == [True, False]
        assert arena.num_tokens <= 50


def test_classes_are_kept_where_rows_of_one_length_find_no_room() -> None:
    store, arena = (
        Store(),
        RowClasses(page_size=PAGE, max_tokens=150),
    )  # rows of one length have 64 tokens to grow
    for name in ("a", "b"):
        store.grow(name, 9)
    is_fresh = []
    for _ in range(4):
        for name in ("a", "b"):
            store.grow(name)
        (part,) = store.check(arena, ["a", "b"])
        is_fresh.append(part.plan.is_fresh)
    assert is_fresh == [True, False, False, False]
