"""One row of a batch that is watched by a rule: its phase, its last probe, its verdicts. Knows no tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_dynasor.core import FinishReason, Usage
from hf_dynasor.stopping.markers import RowThinking, ThinkMarkers
from hf_dynasor.stopping.readings import Progress, Reading, StoppingRule, TraceEntry, Verdict

if TYPE_CHECKING:
    from hf_dynasor.stopping.probe import ProbeResult


@dataclass(frozen=True, slots=True, kw_only=True)
class RowReport:
    """What became of one row.

    Args:
        answer: The newest answer that a probe read, or what the row itself wrote in the end.
        verdict: The verdict that ended its thinking; `None` where the row ended by itself.
        trace: Every verdict, in order.
        num_thinking_tokens: Tokens of its thinking, markers not counted.
        usage: Its tokens: prompt, sampled, forced and probe tokens apart.
        finish_reason: Why the row ended; `None` where only `generate` knows.
    """

    answer: str | None
    verdict: Verdict | None
    trace: tuple[TraceEntry, ...]
    num_thinking_tokens: int
    usage: Usage
    finish_reason: FinishReason | None = None

    @property
    def is_early(self) -> bool:
        """Whether a rule ended its thinking."""
        return self.verdict is not None

    def to_dict(self) -> dict[str, Any]:
        """The report, ready for JSON."""
        return {
            "answer": self.answer,
            "is_early": self.is_early,
            "reason": self.verdict.reason if self.verdict else "",
            "num_thinking_tokens": self.num_thinking_tokens,
            "finish_reason": self.finish_reason.value if self.finish_reason else None,
            "usage": self.usage.to_dict(),
            "trace": [entry.to_dict() for entry in self.trace],
        }


class WatchedRow:
    """Follows a row, says when it is due, and remembers what was read.

    Args:
        tokenizer: The model's tokenizer.
        markers: Its think markers, or `None`.
        rule: The rule; this row gets a state of its own.
        prompt_ids: The row's prompt without padding.
        eos_token_ids: Ids that end the row.
    """

    def __init__(
        self,
        tokenizer: Any,
        markers: ThinkMarkers | None,
        rule: StoppingRule,
        prompt_ids: Sequence[int],
        eos_token_ids: frozenset[int],
    ) -> None:
        self.thinking = RowThinking(tokenizer, markers, prompt_ids)
        self.num_prompt_tokens, self.num_tokens = len(prompt_ids), 0
        self.last: ProbeResult | None = None
        self.verdict: Verdict | None = None
        self.has_ended = False
        self._trace: list[TraceEntry] = []
        self._reads_text, self._eos = rule.reads_text, eos_token_ids
        self._state = rule.start()

    def append(self, token_id: int) -> None:
        """Take in the row's next token; after its end, padding is ignored."""
        if self.has_ended:
            return
        self.num_tokens += 1
        if token_id in self._eos:
            self.has_ended = True
        else:
            self.thinking.append(token_id)

    def is_due(self) -> bool:
        """Whether its rule wants a reading here: only while it thinks, and before it was stopped."""
        if self.has_ended or self.verdict is not None or not self.thinking.is_thinking:
            return False
        return self._state.is_due(self._place())

    def observe(self, result: ProbeResult | None) -> Verdict:
        """Take in a probe (or its absence, for rules that need none) and return the verdict."""
        place = self._place()
        reading = Reading(progress=place) if result is None else make_reading(place, result)
        verdict = self._state.observe(reading)
        if result is not None and not result.is_given_up:
            self.last = result
        self._trace.append(
            TraceEntry(
                num_tokens=place.num_tokens,
                answer=reading.answer,
                verdict=verdict,
                num_probe_tokens=result.num_tokens if result else 0,
            )
        )
        if verdict.is_stop:
            self.verdict = verdict
        return verdict

    def report(
        self,
        *,
        answer: str | None = None,
        num_forced: int = 0,
        finish_reason: FinishReason | None = None,
    ) -> RowReport:
        """What became of the row so far."""
        probe = sum(entry.num_probe_tokens for entry in self._trace)
        return RowReport(
            answer=answer if answer is not None else (self.last.answer if self.last else None),
            verdict=self.verdict,
            trace=tuple(self._trace),
            num_thinking_tokens=self.thinking.num_tokens,
            usage=Usage(
                prompt=self.num_prompt_tokens,
                sampled=self.num_tokens - num_forced,
                forced=num_forced,
                probe=probe,
            ),
            finish_reason=finish_reason,
        )

    def _place(self) -> Progress:
        tail = self.thinking.read_tail() if self._reads_text else ""
        return Progress(num_tokens=self.thinking.num_tokens, tail=tail)


def make_reading(place: Progress, result: ProbeResult) -> Reading:
    """What a probe's result tells a rule."""
    return Reading(
        progress=place,
        answer=result.answer,
        text=result.text,
        is_closed=result.is_closed,
        logprobs=result.logprobs,
        is_given_up=result.is_given_up,
        entropy=result.entropy,
    )
