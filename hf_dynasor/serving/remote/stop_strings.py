"""Stop strings of a server that does not heed them: the text is watched as it comes. Pure."""

from __future__ import annotations

from collections.abc import Sequence


class StopWatch:
    """Releases text that is certain to stand before every stop string.

    Args:
        stop: The strings; none releases everything at once.

    Examples:
        >>> watch = StopWatch(["}"])
        >>> watch.push("4"), watch.push("2} and"), watch.is_stopped
        ('4', '2', True)
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        self.is_stopped = False

    def push(self, text: str) -> str:
        """Take new text; what may be told of it and of what was held back."""
        if self.is_stopped:
            return ""
        text, self._held = self._held + text, ""
        found = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if found:
            self.is_stopped = True
            return text[: min(found)]
        size = self._count_held(text)
        self._held = text[len(text) - size :]
        return text[: len(text) - size]

    def finish(self) -> str:
        """What is still held back, once the stream has ended."""
        rest, self._held = self._held, ""
        return "" if self.is_stopped else rest

    def _count_held(self, text: str) -> int:
        longest = max((len(stop) for stop in self._stop), default=0)
        for size in range(min(longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stop):
                return size
        return 0
