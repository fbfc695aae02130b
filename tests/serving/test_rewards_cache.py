"""The cache of paths: bounded, the longest shared beginning found, a continued path replaced."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.serving.rewards.prefix_cache import CachedPath, PrefixCache, count_shared

PATHS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple), max_size=12)


def make_path(ids: tuple[int, ...]) -> CachedPath:
    return CachedPath(ids=ids, layers=((torch.zeros(1, len(ids), 1), torch.zeros(1, len(ids), 1)),))


def count_plainly(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    return next(
        (index for index, (a, b) in enumerate(zip(first, second, strict=False)) if a != b),
        min(len(first), len(second)),
    )


@given(st.lists(st.integers(0, 1), max_size=8), st.lists(st.integers(0, 1), max_size=8))
def test_shared_beginnings_are_counted_right(first, second):
    assert count_shared(tuple(first), tuple(second)) == count_plainly(tuple(first), tuple(second))


@settings(max_examples=50)
@given(PATHS, st.integers(0, 30))
def test_the_cache_never_holds_more_than_its_bound(paths, max_tokens):
    cache = PrefixCache(max_tokens)
    for ids in paths:
        cache.put(make_path(ids))
        assert cache.num_tokens <= max_tokens
    assert cache.num_tokens == sum(len(path) for path in cache._paths)


@settings(max_examples=50)
@given(PATHS, st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple))
def test_the_longest_shared_beginning_is_found(paths, wanted):
    cache = PrefixCache(1000)
    for ids in paths:
        cache.put(make_path(ids))
    best, shared = cache.find(wanted)
    assert shared == max((count_plainly(ids, wanted) for ids in paths), default=0)
    assert (best is None) == (shared == 0)
    assert best is None or best.ids[:shared] == wanted[:shared]


def test_a_path_takes_the_place_of_its_own_beginnings():
    cache = PrefixCache(100)
    for ids in ((1, 2), (1, 2, 3), (1, 2, 4)):
        cache.put(make_path(ids))
    assert len(cache) == 2
    assert cache.num_tokens == 6


def test_what_was_not_used_for_longest_goes_first():
    cache = PrefixCache(4)
    cache.put(make_path((1, 1)))
    cache.put(make_path((2, 2)))
    cache.find((1, 1, 5))
    cache.put(make_path((3, 3)))
    assert cache.find((1, 1))[1] == 2
    assert cache.find((2, 2))[1] == 0


def test_a_path_longer_than_the_cache_is_not_kept_and_drives_nothing_out():
    cache = PrefixCache(3)
    cache.put(make_path((1, 2)))
    cache.put(make_path((5, 6, 7, 8)))
    assert cache.find((1, 2))[1] == 2
    cache.clear()
    assert (len(cache), cache.num_tokens) == (0, 0)
