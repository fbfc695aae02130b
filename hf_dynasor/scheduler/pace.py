"""How long a step of the engine takes of late."""

from __future__ import annotations

_KEPT_EACH_STEP = 0.98


class Pace:
    """A mean of step durations in which the latest count most.

    Attributes:
        step_seconds: The mean; 0 before a step was seen.
    """

    def __init__(self) -> None:
        self.step_seconds = 0.0
        self._noted_at = 0.0
        self._num_steps = 0

    def count(self, num_steps: int) -> None:
        """So many steps were run since the last note."""
        self._num_steps += num_steps

    def note(self, now: float) -> None:
        """The steps that were counted took the time since the last note; without any it was a pause."""
        if self._num_steps and now > self._noted_at:
            seconds = (now - self._noted_at) / self._num_steps
            weight = 1 - _KEPT_EACH_STEP**self._num_steps if self.step_seconds else 1.0
            self.step_seconds += weight * (seconds - self.step_seconds)
        self._num_steps = 0
        self._noted_at = now


__all__ = ["Pace"]
