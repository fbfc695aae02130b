"""One mind for a shard group: the driver decides, and every process of the group hears its decisions in step.

transformers shares new requests and cancellations among the processes of a tensor-parallel group at the beginning of
each step, so all of them see the same requests. What is decided on the driver alone is which of them run, whose pages
are taken, and which tokens are drawn; it is told here in numbers, over the group that transformers made for such talk.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as distributed

from hf_dynasor.errors import EngineError
from hf_dynasor.serving._transformers_internals.observed import Observer
from hf_dynasor.serving.program_scheduling import Computed

_FAILED = -1


class NeverIdle(threading.Event):
    """In place of a follower's bell, which nobody rings: it goes on at once, and the next exchange is its wait."""

    def wait(self, timeout: float | None = None) -> bool:
        """Returns at once."""
        return True


class Exchange:
    """Numbers from the driver to everybody, all of one size so that no step needs two turns.

    Args:
        helper: transformers' own account of the group.
        most: Most numbers of one exchange.
    """

    def __init__(self, helper: Any, most: int) -> None:
        self.is_driver = bool(helper.is_tp_driver)
        self.size = int(helper.tp_size)
        self.rank = int(helper.tp_local_rank)
        self._helper = helper
        self._buffer = torch.zeros(1 + most, dtype=torch.int64)

    def tell(self, make: Callable[[], Sequence[int]]) -> list[int]:
        """What the driver makes; on the others `make` is not called.

        An error of the driver is told before it is raised, so that nobody waits for numbers that never come.
        """
        if not self.is_driver:
            return self._hear()
        try:
            numbers = list(make())
        except BaseException:
            self._send([], _FAILED)
            raise
        self._send(numbers, len(numbers))
        return numbers

    def _send(self, numbers: Sequence[int], head: int) -> None:
        self._buffer[: 1 + len(numbers)] = torch.tensor([head, *numbers], dtype=torch.int64)
        self._broadcast()

    def _hear(self) -> list[int]:
        self._broadcast()
        count = int(self._buffer[0])
        if count == _FAILED:
            raise EngineError("The driver of the shard group failed; its own log says why.")
        return [int(number) for number in self._buffer[1 : 1 + count].tolist()]

    def _broadcast(self) -> None:
        helper = self._helper
        distributed.broadcast(self._buffer, src=helper.tp_root_global_rank, group=helper.cpu_comm_group)


class SharedDecisions:
    """An observer whose decisions are the driver's, in every process of the group.

    Args:
        observer: The driver's own; on the others it only hears what happens.
        exchange: Between the processes.
    """

    def __init__(self, observer: Observer, exchange: Exchange) -> None:
        self._observer, self._exchange = observer, exchange
        self._numbers: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._num_seen = 0

    def draw(self, names: Sequence[str], logits: torch.Tensor) -> list[int]:
        """The driver draws; the others compute the same logits and take its tokens."""
        if not names:  # parts of prompts only
            return self._observer.draw(names, logits) if self._exchange.is_driver else []
        return self._exchange.tell(lambda: self._observer.draw(names, logits))

    def enqueue(self, name: str) -> None:
        """Requests are numbered in the order in which they come, which is the same everywhere."""
        if name not in self._numbers:
            self._numbers[name] = self._num_seen
            self._names[self._num_seen] = name
            self._num_seen += 1
        self._observer.enqueue(name)

    def choose(self) -> Sequence[str]:
        """The driver's choice."""
        numbers = self._exchange.tell(lambda: [self._numbers[name] for name in self._observer.choose()])
        return [self._names[number] for number in numbers]

    def note_run(self, computed: Sequence[Computed]) -> None:
        """Passed on."""
        self._observer.note_run(computed)

    def find_parked(self) -> str | None:
        """The driver's."""
        found = self._exchange.tell(self._find_number)
        return self._names[found[0]] if found else None

    def mark_started(self, name: str) -> None:
        """Passed on."""
        self._observer.mark_started(name)

    def count_reused(self, name: str, num_tokens: int) -> None:
        """Passed on."""
        self._observer.count_reused(name, num_tokens)

    def confirm_cancelled(self, names: Sequence[str]) -> None:
        """Passed on; the names are free again."""
        for name in names:
            self._names.pop(self._numbers.pop(name, -1), None)
        self._observer.confirm_cancelled(names)

    def end(self, error: BaseException | None) -> None:
        """Passed on, with the process that tells it."""
        if error is not None and not isinstance(error, EngineError):
            words = (
                f"process {self._exchange.rank} of the shard group's {self._exchange.size} cannot go on, "
                f"which ends the group: {type(error).__name__}: {error}"
            )
            error = EngineError(words)
        self._observer.end(error)

    def _find_number(self) -> list[int]:
        name = self._observer.find_parked()
        return [] if name is None else [self._numbers[name]]
