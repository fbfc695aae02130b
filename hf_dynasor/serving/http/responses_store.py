"""Responses that are kept for a while: a bounded memory, oldest out first, each for its own caller only."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from hf_dynasor.serving.http import wire
from hf_dynasor.serving.http.errors import not_found, overloaded


@dataclass(slots=True, kw_only=True, eq=False)
class Kept:
    """One response that can be asked for.

    Args:
        row: What GET answers with.
        turns: The conversation up to it and its answer, without instructions.
        input_items: What it was asked, as items.
        owner: Whose it is; empty on a server without keys.
        task: Runs it in the background; `None` for one that somebody waits for.
    """

    row: dict[str, Any]
    turns: list[wire.ChatMessage]
    input_items: list[dict[str, Any]]
    owner: str
    task: asyncio.Task[None] | None = field(default=None)

    @property
    def num_characters(self) -> int:
        """What it takes, roughly."""
        answers = (part["text"] for item in self.row["output"] for part in item.get("content", ()))
        return sum(len(wire.join_text(turn.content)) for turn in self.turns) + sum(map(len, answers))


class ResponseStore:
    """Keeps responses in memory.

    Args:
        max_kept: Most responses.
        max_characters: Most characters of all of them together.
        max_background: Most responses that run or wait in the background.
    """

    def __init__(self, *, max_kept: int, max_characters: int, max_background: int) -> None:
        self._max_kept, self._max_characters, self._max_background = max_kept, max_characters, max_background
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, name: str, owner: str) -> Kept:
        """A response.

        Raises:
            ApiError: 404, it is not kept here, or another caller's.
        """
        kept = self._kept.get(name)
        if kept is None or kept.owner != owner:
            raise not_found(f"No response {name!r} is kept here.", code="response_not_found")
        return kept

    def keep(self, kept: Kept) -> None:
        """Keep a response, or note how it changed; the oldest go where there are too many."""
        name = kept.row["id"]
        self._kept[name] = kept
        self._sizes[name] = kept.num_characters
        while len(self._kept) > self._max_kept or sum(self._sizes.values()) > self._max_characters:
            self.forget(next(iter(self._kept)))

    def forget(self, name: str) -> None:
        """Drop a response, and end it where it runs in the background."""
        del self._sizes[name]
        kept = self._kept.pop(name)
        if kept.task is not None:
            kept.task.cancel()

    def check_room(self) -> None:
        """Raise 429 where too many run in the background already."""
        if len(self._tasks) >= self._max_background:
            raise overloaded(
                f"{self._max_background} responses run in the background already. Try again soon.",
                retry_after_s=1,
            )

    def watch(self, task: asyncio.Task[None]) -> None:
        """Count a task until it ends, and end it with the server."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """End what runs in the background."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
