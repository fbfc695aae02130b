"""Pages that no request uses but that still hold a beginning for a later one: which of them go under pressure.

transformers gives all of them up at once when memory runs short. Here the longest unused go first, no more than are
needed: those of programs that have ended or that have not asked for long, before those of a program between two grants.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice
from typing import Any


def keep_ends_first(cache: Any, names: Iterable[str]) -> None:
    """Before pages of these requests are let go: have the end of each beginning given up before its start.

    A page is found through the ones before it, so that without its start the rest of a beginning is of no use. Pages are
    kept in the order in which they are let go, which is that of the table.
    """
    for allocator in cache.cache_allocators.values():
        for name in names:
            allocator.block_table.get(name, []).reverse()


def give_up_kept(cache: Any, share: float) -> bool:
    """Give up kept pages, the longest unused first, until so large a share of the cache is free; whether it is."""
    cache.pool.try_to_free_sectors()
    while (free := cache.compute_free_capacity()) < share:
        total = sum(allocator.num_blocks for allocator in cache.cache_allocators.values())
        if not _give_up_oldest(cache, max(1, math.ceil((share - free) * total))):
            return False
        cache.pool.try_to_free_sectors()
    return True


def _give_up_oldest(cache: Any, num_pages: int) -> int:
    """Give up so many kept pages, as many of each kind of layer; returns how many there were."""
    allocators = list(cache.cache_allocators.values())
    count = 0
    for allocator in allocators:
        ledger = allocator.ledger
        oldest = list(islice(ledger.cached_blocks, math.ceil(num_pages / len(allocators))))
        for page in oldest:
            del ledger.cached_blocks[page]
            ledger.hash_to_block.pop(ledger.block_to_hash.pop(page))
        cache.pool.free_blocks(allocator.index, oldest)
        count += len(oldest)
    return count
