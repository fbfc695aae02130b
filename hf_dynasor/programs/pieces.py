"""Pieces of generated text: a step, or a whole chain that can be cut into its steps."""

from __future__ import annotations

from dataclasses import dataclass

from hf_dynasor.core import Completion, FinishReason, Segment, TokenIds


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What was generated in one go, or a part of it.

    Args:
        text: The text, the delimiter that ends it included.
        token_ids: Its tokens; empty where the engine does not tell them.
        logprobs: Natural-log probability of each of `token_ids`, where known.
        offsets: The character of `text` where each token begins, where known.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] | None = None
    offsets: tuple[int, ...] | None = None

    @property
    def segment(self) -> Segment:
        """The piece as a part of a prompt: its own tokens where known, so that nothing is tokenised again."""
        return TokenIds(ids=self.token_ids) if self.token_ids else self.text

    def cut(self, delimiter: str) -> tuple[Piece, ...]:
        """Its steps, each with the delimiter that ends it; whole where its tokens' places are not known.

        A cut falls behind the token that completes a delimiter, as if generation had been stopped there.

        Examples:
            >>> piece = Piece(text="a;b;c", token_ids=(1, 2, 3), offsets=(0, 1, 3))
            >>> [step.text for step in piece.cut(";")]
            ['a;b', ';c']
        """
        if self.offsets is None or not self.token_ids:
            return (self,)
        ends = [*self.offsets[1:], len(self.text)]
        pieces, first, searched = [], 0, 0
        for index, end in enumerate(ends):
            place = self.text.find(delimiter, searched)
            if place < 0:
                break
            if end >= place + len(delimiter) and index + 1 < len(ends) and end < len(self.text):
                pieces.append(self._take(first, index + 1, self.offsets[first], end))
                first, searched = index + 1, end
        return (*pieces, self._take(first, len(ends), self.offsets[first] if first else 0, len(self.text)))

    def _take(self, first: int, last: int, start: int, end: int) -> Piece:
        assert self.offsets is not None  # `cut` has looked
        return Piece(
            text=self.text[start:end],
            token_ids=self.token_ids[first:last],
            logprobs=None if self.logprobs is None else self.logprobs[first:last],
            offsets=tuple(offset - start for offset in self.offsets[first:last]),
        )


def read_piece(completion: Completion, delimiter: str) -> Piece:
    """The piece that a completion holds; where the delimiter stopped it, it ends with the delimiter."""
    is_step = completion.finish_reason is FinishReason.STOP
    return Piece(
        text=completion.text + delimiter if is_step else completion.text,
        token_ids=completion.token_ids,
        logprobs=completion.logprobs,
        offsets=completion.offsets,
    )
