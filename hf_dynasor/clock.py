"""Time as an argument: a protocol and the real clock. The virtual one is in `hf_dynasor.testing`."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds from an arbitrary origin that never go back."""

    def now(self) -> float:
        """Current time in seconds."""
        ...


class MonotonicClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        """Seconds since an arbitrary origin."""
        return time.monotonic()
