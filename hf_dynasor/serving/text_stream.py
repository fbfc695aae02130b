"""Turns one request's tokens into text as they come: bytes, stop strings, offsets. Knows no engine.

A character may take several tokens and a stop string may begin in any of them, so text is held back until it
is certain to stay. What was released is never taken back, and all of it joined is the request's text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_REPLACEMENT = "�"  # what a decoder writes for bytes that are no character (yet)
_MAX_WINDOW = 12  # tokens that are decoded together before those whose text is certain are dropped
_NUM_CONTEXT_TOKENS = 5  # prompt tokens decoded along, so that a leading space is kept


class TextStream:
    """The text of one request.

    Args:
        tokenizer: The model's tokenizer.
        prompt_ids: What the request continues.
        stop: Strings that end the text.
        is_watched: Whether anybody looks at the text before its end; if not, it is decoded once, there.
    """

    def __init__(
        self,
        tokenizer: Any,
        prompt_ids: Sequence[int],
        stop: Sequence[str] = (),
        *,
        is_watched: bool = True,
    ) -> None:
        self._tokenizer = tokenizer
        self._is_watched = is_watched or bool(stop)
        self._stop = tuple(stop)
        self._longest_stop = max((len(text) for text in stop), default=0)
        self._window = list(
            prompt_ids[-_NUM_CONTEXT_TOKENS:]
        )  # tokens whose text may still change, with context
        self._window_text = self._decode(self._window)
        if self._window_text.endswith(_REPLACEMENT):
            self._window, self._window_text = [], ""
        self._num_pending = 0  # tokens at the window's end that are not in `_text` yet
        self._text = ""
        self._num_released = 0
        self._offsets: list[int] = []
        self.is_stopped = False

    @property
    def text(self) -> str:
        """Everything that is certain so far, a possible beginning of a stop string included."""
        return self._text

    @property
    def offsets(self) -> tuple[int, ...]:
        """The character at which each token begins."""
        return tuple(min(offset, len(self._text)) for offset in self._offsets)

    def push(self, token_id: int) -> str:
        """Take a token and return the text that it releases."""
        self._offsets.append(len(self._text))
        self._window.append(token_id)
        self._num_pending += 1
        if not self._is_watched:
            return ""
        decoded = self._decode(self._window)
        if len(decoded) <= len(self._window_text) or decoded.endswith(_REPLACEMENT):
            return ""
        self._append(decoded[len(self._window_text) :])
        self._window_text = decoded
        if len(self._window) > _MAX_WINDOW:
            self._window = self._window[-self._num_pending :]
            self._window_text = self._decode(self._window)
        self._num_pending = 0
        return self._release()

    def push_silent(self) -> None:
        """Take a token without text, such as the end of the turn."""
        self._offsets.append(len(self._text) + len(self._pending_text()))

    def finish(self) -> str:
        """Release what is still held back. Nothing may be pushed afterwards."""
        if not self.is_stopped:
            self._append(self._pending_text())
        self._num_pending = 0
        self._longest_stop = 0
        return self._release()

    def _pending_text(self) -> str:
        return self._decode(self._window)[len(self._window_text) :] if self._num_pending else ""

    def _append(self, piece: str) -> None:
        searched_from = max(0, len(self._text) - self._longest_stop + 1)
        self._text += piece
        found = [position for text in self._stop if (position := self._text.find(text, searched_from)) >= 0]
        if found:
            self._text = self._text[: min(found)]
            self.is_stopped = True

    def _release(self) -> str:
        end = len(self._text) if self.is_stopped else len(self._text) - self._count_held()
        piece = self._text[self._num_released : end]
        self._num_released = max(self._num_released, end)
        return piece

    def _count_held(self) -> int:
        """Characters at the end that may turn out to begin a stop string."""
        for length in range(min(self._longest_stop - 1, len(self._text)), 0, -1):
            tail = self._text[-length:]
            if any(text.startswith(tail) for text in self._stop):
                return length
        return 0

    def _decode(self, ids: Sequence[int]) -> str:
        return str(
            self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            if ids
            else ""
        )
