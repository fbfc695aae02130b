"""One row of an early-exit generation: thinking, closing, answering, done. Knows no tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_dynasor.answers import AnswerFormat, extract_answer
from hf_dynasor.core import FinishReason
from hf_dynasor.stopping.exits import write_exit
from hf_dynasor.stopping.markers import Phase, ThinkMarkers
from hf_dynasor.stopping.policy import ExitStyle
from hf_dynasor.stopping.readings import StoppingRule
from hf_dynasor.stopping.rows import RowReport, WatchedRow

if TYPE_CHECKING:
    from hf_dynasor.stopping.probe import ProbeResult


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitTexts:
    """What all rows of a call share.

    Args:
        tokenizer: The model's tokenizer.
        markers: Its think markers, or `None`.
        eos: Ids that end a row.
        pad: Fills rows that are done.
        style: What follows a stop.
        closing: What closes a thought, with `{close}` for the marker.
        grace: Tokens that an exit may wait for the end of a line or sentence.
        format: How answers are found.
    """

    tokenizer: Any
    markers: ThinkMarkers | None
    eos: frozenset[int]
    pad: int
    style: ExitStyle
    closing: str
    grace: int
    format: AnswerFormat

    def encode(self, text: str) -> list[int]:
        """The ids of a text without special tokens around it."""
        return [int(token_id) for token_id in self.tokenizer.encode(text, add_special_tokens=False)]


class ExitRow:
    """Follows a row, forces what its exit needs, and knows why it ended.

    Args:
        texts: What all rows share.
        rule: The rule; this row gets a state of its own.
        prompt_ids: The row's prompt without padding.
    """

    def __init__(self, texts: ExitTexts, rule: StoppingRule, prompt_ids: list[int]) -> None:
        self._texts = texts
        self.watched = WatchedRow(texts.tokenizer, texts.markers, rule, prompt_ids, texts.eos)
        self.ids: list[int] = []
        self.queue: list[int] = []
        self._num_forced = 0
        self._answer_start: int | None = None
        self._wait: int | None = None
        self._is_last_queue = False
        self._finish_reason: FinishReason | None = None

    @property
    def is_done(self) -> bool:
        """Whether the row has its finish reason."""
        return self._finish_reason is not None

    def append(self, token_id: int, *, is_forced: bool) -> None:
        """Take in the row's next token."""
        self.ids.append(token_id)
        if is_forced:
            self.queue = self.queue[1:]
            self._num_forced += 1
        was_thinking = self.watched.thinking.is_thinking
        self.watched.append(token_id)
        if was_thinking and self.watched.thinking.phase is Phase.AFTER:
            self._answer_start = len(self.ids)
        if self._wait is not None:
            self._wait_for_boundary()

    def finish_step(self, *, is_stopped: bool, is_full: bool) -> None:
        """Decide after each token whether the row is done, and why."""
        if self.watched.has_ended:
            self._finish_reason = FinishReason.EOS
        elif self._is_last_queue and not self.queue:
            self._finish_reason = FinishReason.STOP
        elif is_full:
            self._finish_reason = FinishReason.LENGTH
        elif is_stopped:
            self._finish_reason = FinishReason.STOP

    def observe(self, result: ProbeResult | None) -> None:
        """Take in a probe; a stop ends the row or begins its exit."""
        if not self.watched.observe(result).is_stop:
            return
        if self._texts.style == "stop":
            self._finish_reason = FinishReason.STOP
            return
        self._wait = self._texts.grace
        self._wait_for_boundary(is_new=True)

    def report(self) -> RowReport:
        """What became of the row."""
        return self.watched.report(
            answer=self._read_answer(), num_forced=self._num_forced, finish_reason=self._finish_reason
        )

    def _wait_for_boundary(self, *, is_new: bool = False) -> None:
        """Close the thought at the end of a line or sentence, or when the grace is used up."""
        thinking = self.watched.thinking
        if not thinking.is_thinking or self.watched.has_ended:
            self._wait = None  # it ended by itself meanwhile
            return
        assert self._wait is not None
        self._wait -= not is_new
        if self._wait > 0 and not thinking.is_at_boundary:
            return
        self._wait = None
        self.queue = self._write_exit(thinking.read_tail())

    def _write_exit(self, tail: str) -> list[int]:
        texts, last = self._texts, self.watched.last
        answer = last.answer if last is not None and texts.style == "paste" else None
        self._is_last_queue = answer is not None
        if answer is None and texts.markers is None:
            self._answer_start = len(self.ids)
        return list(write_exit(texts.tokenizer, texts.markers, tail, texts.closing, answer=answer))

    def _read_answer(self) -> str | None:
        """What the row itself wrote as its answer; None where it did not get that far."""
        markers, start = self._texts.markers, self._answer_start
        if start is None and (markers is not None and self.watched.thinking.is_thinking):
            return None
        text = str(self._texts.tokenizer.decode(self.ids[start or 0 :], skip_special_tokens=True))
        return extract_answer(text, format=self._texts.format)
