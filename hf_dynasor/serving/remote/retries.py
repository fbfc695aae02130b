"""When a request that failed is sent again. Pure: time and randomness are arguments."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from hf_dynasor.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Bounds on sending a request again.

    The wait before the n-th try more is drawn between nothing and `base_s * 2 ** (n - 1)`, at most `max_delay_s`, so
    that requests which failed together do not come back together. A server's `Retry-After` is the least wait.

    Args:
        max_attempts: Most times that a request is sent, the first one included.
        max_total_s: Seconds after its first failure beyond which a request is not sent again.
        base_s: Longest wait before the second attempt.
        max_delay_s: Longest wait, unless the server asks for more.
    """

    max_attempts: int = 6
    max_total_s: float = 120.0
    base_s: float = 0.5
    max_delay_s: float = 20.0

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ConfigurationError(f"Got {self.max_attempts = } but expected at least 1.")
        for name in ("max_total_s", "base_s", "max_delay_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigurationError(f"Got {name} = {value} but expected 0 or more seconds.")

    def find_delay(
        self, *, num_failed: int, elapsed_s: float, retry_after_s: float | None, rng: random.Random
    ) -> float | None:
        """Seconds to wait before the next attempt; `None` where there is to be none.

        Args:
            num_failed: Attempts that failed so far, at least 1.
            elapsed_s: Seconds since the first of them failed.
            retry_after_s: What the server asked for with the last of them.
            rng: Draws the jitter.

        Examples:
            >>> policy = RetryPolicy(max_attempts=3, base_s=1.0)
            >>> rng = random.Random(0)
            >>> [policy.find_delay(num_failed=n, elapsed_s=0.0, retry_after_s=7.0, rng=rng) is None for n in (1, 2, 3)]
            [False, False, True]
        """
        if num_failed >= self.max_attempts:
            return None
        ceiling = min(self.max_delay_s, self.base_s * 2.0 ** min(num_failed - 1, 60))
        delay = (retry_after_s or 0.0) + rng.uniform(0.0, ceiling)
        return delay if elapsed_s + delay <= self.max_total_s else None
