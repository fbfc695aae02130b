"""What the loop does once nothing has run for a while: memory of a busy time goes back to the system."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable

_QUIET_TURNS = 5  # of the loop's waits, each a tenth of a second


class IdleBell(threading.Event):
    """The loop's bell, which tells once of each time in which nobody rings for half a second.

    Args:
        on_idle: Called from the loop's thread.
    """

    def __init__(self, on_idle: Callable[[], None]) -> None:
        super().__init__()
        self._on_idle, self._num_quiet = on_idle, 0

    def wait(self, timeout: float | None = None) -> bool:
        """As of any event."""
        has_rung = super().wait(timeout)
        self._num_quiet = 0 if has_rung else self._num_quiet + 1
        if self._num_quiet == _QUIET_TURNS:
            self._on_idle()
        return has_rung


def trim_heap() -> None:
    """Give freed memory back to the system, where the C library is glibc; it would keep hundreds of megabytes."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)
