"""How many blocks of keys and values are taken, without touching a single request when all of them grow.

Requests that decode grow by one token a step, and need a new block every `page_size` tokens. Their phases are
counted, so what a number of steps will need is known from `page_size` counts.
"""

from __future__ import annotations

from hf_dynasor.errors import ConfigurationError


def count_blocks(num_tokens: int, page_size: int) -> int:
    """Blocks that hold so many tokens."""
    return -(-num_tokens // page_size)


class BlockLedger:
    """Counts blocks: of shared prompts, of requests that stand still, and of requests that grow.

    Args:
        num_blocks: Blocks in all; `None` for no limit.
        page_size: Tokens of a block.
    """

    def __init__(self, num_blocks: int | None, page_size: int) -> None:
        if page_size < 1 or (num_blocks is not None and num_blocks < 1):
            raise ConfigurationError(f"Got {num_blocks = } and {page_size = } but expected at least 1 each.")
        self.num_blocks = num_blocks
        self.page_size = page_size
        self.num_used = 0
        self._phases = [0] * page_size
        self._num_growing = 0
        self._step = 0

    @property
    def num_free(self) -> float:
        """Blocks that nobody holds; infinite without a limit."""
        return float("inf") if self.num_blocks is None else self.num_blocks - self.num_used

    def take(self, num_blocks: int) -> None:
        """Hold blocks."""
        self.num_used += num_blocks

    def give(self, num_blocks: int) -> None:
        """Hold them no more."""
        self.num_used -= num_blocks

    def start_growing(self, num_tokens: int) -> int:
        """Count a request of so many tokens among those that grow; returns the phase to stop it with."""
        phase = (self._step - num_tokens) % self.page_size
        self._phases[phase] += 1
        self._num_growing += 1
        return phase

    def stop_growing(self, phase: int) -> None:
        """The request stands still from now on."""
        self._phases[phase] -= 1
        self._num_growing -= 1

    def count_growth(self, num_steps: int) -> int:
        """Blocks that the growing requests will need for so many steps."""
        cycles, rest = divmod(num_steps, self.page_size)
        return cycles * self._num_growing + sum(
            self._phases[(self._step + i) % self.page_size] for i in range(rest)
        )

    def advance(self, num_steps: int) -> None:
        """All growing requests grow by so many tokens."""
        self.num_used += self.count_growth(num_steps)
        self._step += num_steps

    def count_steps(self, limit: int) -> int:
        """Steps until the free blocks do not suffice, at most `limit`."""
        if self.num_blocks is None or not self._num_growing:
            return limit
        cycles, left = divmod(max(0, self.num_blocks - self.num_used), self._num_growing)
        steps = cycles * self.page_size
        for offset in range(self.page_size):
            left -= self._phases[(self._step + offset) % self.page_size]
            if left < 0 or steps >= limit:
                break
            steps += 1
        return min(steps, limit)


__all__ = ["BlockLedger", "count_blocks"]
