"""Tells thinking from answering in a text that comes piece by piece. Knows the markers, no model."""

from __future__ import annotations

from dataclasses import dataclass

from hf_dynasor.stopping import Phase, ThinkMarkers


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A piece of text, told apart."""

    reasoning: str = ""
    content: str = ""


class ReasoningSplitter:
    """Splits one choice's text at the markers, which belong to neither side.

    A marker may come in pieces, so the end of a text that may begin one is held back.

    Args:
        markers: The model's markers; `None` makes everything content.
        phase: Where the text begins: the prompt may have opened or closed the thinking.
    """

    def __init__(self, markers: ThinkMarkers | None, phase: Phase) -> None:
        self._markers = markers
        self._phase = phase if markers is not None else Phase.AFTER
        self._held = ""
        self._is_fresh = True  # nothing but white space since the last marker

    @property
    def is_thinking(self) -> bool:
        """Whether what comes next is thinking."""
        return self._phase is Phase.THINKING

    def push(self, text: str) -> Split:
        """Take a piece; returns what is certain to stay on either side."""
        self._held += text
        reasoning, content = "", ""
        while True:
            piece, is_thinking, is_done = self._take()
            if is_thinking:
                reasoning += piece
            else:
                content += piece
            if is_done:
                return Split(reasoning=reasoning, content=content)

    def finish(self) -> Split:
        """Release what is held back."""
        held, self._held = self._held, ""
        held = self._trim(held)
        return Split(reasoning=held) if self.is_thinking else Split(content=held)

    def _take(self) -> tuple[str, bool, bool]:
        """The next certain piece, whether it is thinking, and whether there is no more for now."""
        markers = self._markers
        if self._phase is Phase.AFTER or markers is None:
            return self._release(len(self._held)), False, True
        if self._phase is Phase.BEFORE:
            return self._look_for_opening(markers.open_text)
        at = self._held.find(markers.close_text)
        if at < 0:
            end = len(self._held) - _count_overlap(self._held, markers.close_text)
            # White space before the marker is dropped, so it waits until something else follows.
            return self._release(len(self._held[:end].rstrip())), True, True
        piece = self._release(at).rstrip()
        self._enter(Phase.AFTER, len(markers.close_text))
        return piece, True, False

    def _look_for_opening(self, open_text: str) -> tuple[str, bool, bool]:
        stripped = self._held.lstrip()
        if stripped.startswith(open_text):
            self._held = stripped
            self._enter(Phase.THINKING, len(open_text))
            return "", False, False
        if open_text.startswith(stripped):
            return "", False, True
        self._phase = Phase.AFTER
        return "", False, False

    def _enter(self, phase: Phase, num_marker_characters: int) -> None:
        self._phase = phase
        self._held = self._held[num_marker_characters:]
        self._is_fresh = True

    def _release(self, end: int) -> str:
        piece, self._held = self._held[:end], self._held[end:]
        return self._trim(piece)

    def _trim(self, piece: str) -> str:
        """Without the line breaks that follow a marker."""
        if self._is_fresh:
            piece = piece.lstrip("\n")
            self._is_fresh = not piece
        return piece


def _count_overlap(text: str, marker: str) -> int:
    """Characters at the end of a text that may begin the marker."""
    longest = min(len(marker) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if marker.startswith(text[-n:])), 0)
