"""A chain as it grows: its segments, its text, its thinking, and what one reading of it said. Sends nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hf_dynasor.answers import AnswerFormat, AnswerKey, canonicalise, extract_answer, find_answer
from hf_dynasor.answers.elicitation import find_answer_end, is_closed_answer
from hf_dynasor.certaindex.readings import Progress, Reading
from hf_dynasor.core import Completion, FinishReason, Prompt, Segment, TokenIds
from hf_dynasor.paths import PathRecord

_TAIL = 32


class ChainText:
    """What a chain holds so far, forced texts included. What was generated is kept as ids, never re-tokenised.

    Args:
        prompt: What the chain continues.
        think_end: The text that ends its thought.
    """

    def __init__(self, prompt: Prompt, think_end: str) -> None:
        self._prompt, self._think_end = prompt, think_end
        self._segments: list[Segment] = []
        self.text = ""
        self.num_tokens = 0
        self.num_thinking = 0
        self.is_thinking = True
        self.num_reserved = 0
        self._pending: str | None = None
        self._forced_sizes: dict[str, int] = {}
        self._num_prompt_tokens: int | None = None

    @property
    def prompt(self) -> Prompt:
        """What the next request continues."""
        return Prompt((*self._prompt.segments, *self._segments))

    @property
    def progress(self) -> Progress:
        """How far the thinking is."""
        return Progress(num_tokens=self.num_thinking, tail=self.text[-_TAIL:])

    def append(self, completion: Completion, name: str, *, stop: str = "") -> ChainPiece:
        """Take in what was generated, as a piece of that name; `stop` is the stop string that was asked for."""
        text = completion.text + (stop if completion.finish_reason is FinishReason.STOP else "")
        ids = completion.token_ids
        if ids:
            last = self._segments[-1] if self._segments else None
            if isinstance(last, TokenIds):
                self._segments[-1] = TokenIds(ids=last.ids + ids)
            else:
                self._segments.append(TokenIds(ids=ids))
        elif text:  # an engine that returns no ids: its text is all there is to continue from
            self._segments.append(text)
        count = len(ids) or completion.usage.sampled
        piece = ChainPiece(
            name=name,
            start=self.num_tokens,
            text=completion.text,
            num_tokens=count,
            finish_reason=completion.finish_reason,
        )
        self._grow(text, count)
        return piece

    def find_stated(self, ending: FinishReason | None, format: AnswerFormat) -> str | None:
        """The answer that the chain itself states; `ending` is how it ended, `None` where it has not."""
        is_truncated = ending not in (FinishReason.EOS, FinishReason.STOP)
        found = find_answer(
            self.text.replace(self._think_end, "</think>"), format=format, is_truncated=is_truncated
        )
        return found.text if found else None

    def force(self, text: str) -> None:
        """Have the next request continue from a text that the model did not write; its tokens are counted then."""
        self.num_reserved, self._pending = self.guess_forced(text), text
        self._segments.append(text)
        self._grow(text, 0)

    def guess_forced(self, text: str) -> int:
        """Tokens of a forced text: as an engine counted them, or at most its bytes."""
        return self._forced_sizes.get(text, len(text.encode()))

    def count_forced(self, num_prompt_tokens: int) -> int:
        """Learn from the prompt of the chain's newest request how many tokens were forced before it."""
        if self._num_prompt_tokens is None:
            self._num_prompt_tokens = num_prompt_tokens
        if self._pending is None:
            return 0
        count = min(self.count_beyond(num_prompt_tokens), self.num_reserved)
        self._forced_sizes[self._pending] = count
        self._pending, self.num_reserved = None, 0
        self._grow("", count)
        return count

    def count_beyond(self, num_prompt_tokens: int) -> int:
        """Prompt tokens of a request beyond the chain as far as it is counted."""
        return max(0, num_prompt_tokens - (self._num_prompt_tokens or 0) - self.num_tokens)

    def _grow(self, text: str, num_tokens: int) -> None:
        start = max(0, len(self.text) - len(self._think_end) + 1)
        self.text += text
        self.num_tokens += num_tokens
        self.num_thinking += num_tokens if self.is_thinking else 0
        self.is_thinking = self.is_thinking and self._think_end not in self.text[start:]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainPiece:
    """One generated piece of a chain: a chunk of the thought, or an answer that it was made to write."""

    name: str
    start: int
    text: str
    num_tokens: int
    finish_reason: FinishReason


@dataclass(slots=True)
class OpenedBox:
    """What is written after a text that opens a box, piece by piece up to the brace that closes it."""

    text: str = ""
    ids: tuple[int, ...] = ()
    num_tokens: int = 0
    logprobs: tuple[float, ...] = ()
    offsets: tuple[int, ...] = ()

    def append(self, part: Completion) -> None:
        """Take in a piece that ended at a brace, or by itself."""
        self.offsets += tuple(len(self.text) + offset for offset in part.offsets or ())
        self.logprobs += part.logprobs or ()
        self.text += part.text + ("}" if part.finish_reason is FinishReason.STOP else "")
        self.ids += part.token_ids
        self.num_tokens += len(part.token_ids) or part.usage.sampled + part.usage.probe

    @property
    def is_answered(self) -> bool:
        """Whether the answer has ended: by its brace or a newline."""
        return find_answer_end(self.text) is not None

    def read(self, progress: Progress, format: AnswerFormat) -> Reading:
        """The reading: only what belongs to the answer and its closing counts."""
        end = find_answer_end(self.text)
        text = self.text if end is None else self.text[: end + 1]
        return Reading(
            progress=progress,
            answer=extract_answer(text, format=format, allow_unclosed=True) if text else None,
            text=text,
            is_closed=is_closed_answer(text),
            logprobs=_take_until(self.logprobs, self.offsets, end),
        )


def list_pieces(
    pieces: Sequence[ChainPiece], read: Mapping[int, str | None], answer: str | None
) -> tuple[PathRecord, ...]:
    """A chain's pieces as records, each the parent of the next.

    Args:
        pieces: The pieces, in order.
        read: The answers that were read, by the place in the chain.
        answer: What the whole chain says.
    """
    names = [None, *(piece.name for piece in pieces)]
    last = len(pieces) - 1
    return tuple(
        PathRecord(
            request_id=piece.name,
            parent=names[index],
            unit=piece.start,
            text=piece.text,
            answer=answer if index == last else read.get(piece.start + piece.num_tokens),
            num_tokens=piece.num_tokens,
            finish_reason=piece.finish_reason,
            is_terminal=index == last,
        )
        for index, piece in enumerate(pieces)
    )


def make_key(answer: str | None, format: AnswerFormat) -> AnswerKey | None:
    """What a reading says, to be compared; `None` where it says nothing."""
    key = None if answer is None else canonicalise(answer, format=format)
    return key if key and key.value else None


def _take_until(logprobs: Sequence[float], offsets: Sequence[int], end: int | None) -> tuple[float, ...]:
    """The log-probabilities of the tokens that begin no later than `end`."""
    if end is None or len(offsets) != len(logprobs):
        return tuple(logprobs)
    return tuple(value for value, offset in zip(logprobs, offsets, strict=True) if offset <= end)
