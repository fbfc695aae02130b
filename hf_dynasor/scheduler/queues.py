"""Two heaps that forget lazily: what waits by rank, and what is due by time."""

from __future__ import annotations

import heapq
from typing import Generic, Protocol, TypeVar


class Ranked(Protocol):
    """Something with a place in an order; `version` counts how often the place changed."""

    rank: tuple[float, ...]
    version: int

    @property
    def serial(self) -> int:
        """Tells equal ranks apart."""
        ...


RankedT = TypeVar("RankedT", bound=Ranked)
ItemT = TypeVar("ItemT")


class WaitingQueue(Generic[RankedT]):
    """Waiting items by rank. An entry whose item has changed since is skipped when it comes up: log n each."""

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[float, ...], int, int, RankedT]] = []

    def push(self, item: RankedT) -> None:
        """Put an item at its rank, in place of where it was."""
        item.version += 1
        heapq.heappush(self._heap, (item.rank, item.serial, item.version, item))

    def discard(self, item: RankedT) -> None:
        """Take an item out, if it is in."""
        item.version += 1

    def peek(self) -> RankedT | None:
        """The item that goes first."""
        heap = self._heap
        while heap and heap[0][2] != heap[0][3].version:
            heapq.heappop(heap)
        return heap[0][3] if heap else None


class Alarms(Generic[ItemT]):
    """Items by the time at which they want to be looked at."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, ItemT]] = []
        self._serial = 0

    @property
    def next_time(self) -> float:
        """When the next one is due; infinite if there is none."""
        return self._heap[0][0] if self._heap else float("inf")

    def set(self, time: float, item: ItemT) -> None:
        """Look at the item at this time."""
        if time < float("inf"):
            self._serial += 1
            heapq.heappush(self._heap, (time, self._serial, item))

    def pop_due(self, now: float) -> ItemT | None:
        """The next item whose time has come."""
        return heapq.heappop(self._heap)[2] if self._heap and self._heap[0][0] <= now else None


__all__ = ["Alarms", "WaitingQueue"]
