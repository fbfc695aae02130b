"""Accumulated evidence as a stopping rule: the state that replays use, told by live probes. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hf_dynasor.answers import AnswerFormat, canonicalise
from hf_dynasor.answers.keys import check_format
from hf_dynasor.certaindex import answer_probability
from hf_dynasor.certaindex.depth import DepthPlace, DepthReading
from hf_dynasor.certaindex.evidence import EvidenceSettings, EvidenceState
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.stopping.readings import Need, Progress, Reading, Verdict, Vote


@dataclass(frozen=True, slots=True, kw_only=True)
class AccumulatedEvidence(EvidenceSettings):
    r"""Stop once what speaks for an answer, gathered over steps and probes, exceeds a threshold.

    The best rule on recorded chains of real models, see docs/early_exit_on_traces.md. It reads at the end of steps and,
    in between, every `far` or `near` tokens. The options of `EvidenceSettings` come on top of these two.

    Args:
        delimiter: The text that ends a step.
        format: How answers are compared, see `hf_dynasor.answers.canonicalise`.

    Raises:
        ConfigurationError: An option outside its range, or a share of a cap to give up at without the cap.

    Examples:
        >>> state = AccumulatedEvidence(threshold=4.0, caution=0.0).start()
        >>> place = Progress(num_tokens=900, tail="so x = 3.\n\n")
        >>> state.observe(Reading(progress=place, answer="3", text="3}", logprobs=(-0.001,))).is_stop
        True
    """

    delimiter: str = "\n\n"
    format: AnswerFormat = "auto"

    def __post_init__(self) -> None:
        # A slotted dataclass is made anew, so `super()` without arguments would look at the old class.
        EvidenceSettings.__post_init__(self)
        check_format(self.format)
        if not isinstance(self.delimiter, str) or not self.delimiter:
            raise ConfigurationError(
                f"Got delimiter = {self.delimiter!r} but expected the text that ends a step, such as a blank line."
            )
        if self.give_up is not None and self.cap is None:
            raise ConfigurationError(
                f"Got {self.give_up = } without a cap, of which it is a share. Expected cap, the most tokens that a "
                "thought may have, or give_up None."
            )

    @property
    def needs(self) -> frozenset[Need]:
        """An answer with its probabilities."""
        return frozenset({Need.ANSWER, Need.LOGPROBS})

    @property
    def reads_text(self) -> bool:
        """True: it reads at the end of steps, and at regular places besides."""
        return True

    def start(self) -> AccumulatedEvidenceState:
        """The state of a fresh row."""
        return AccumulatedEvidenceState(self)


class AccumulatedEvidenceState:
    """What speaks for the answers of one row."""

    def __init__(self, rule: AccumulatedEvidence) -> None:
        self._rule = rule
        self._state = EvidenceState(rule)
        self._read_at = -1

    def is_due(self, progress: Progress) -> bool:
        """Whether a step has just ended, or the next regular place is reached; never twice at one place."""
        return progress.num_tokens > self._read_at and self._state.wants(self._place(progress))

    def observe(self, reading: Reading) -> Verdict:
        """Weigh the answer. Certainty is 1 - exp(-evidence)."""
        self._read_at = reading.progress.num_tokens
        key = None if reading.answer is None else canonicalise(reading.answer, format=self._rule.format)
        told = DepthReading(
            place=self._place(reading.progress),
            answer=reading.answer,
            key=key if key is not None and key.value else None,
            confidence=answer_probability(reading.logprobs) if reading.logprobs else None,
        )
        verdict = self._state.observe(told)
        certainty = None if verdict.evidence is None else -math.expm1(-max(0.0, verdict.evidence))
        if verdict.is_stop:
            return Verdict(vote=Vote.STOP, certainty=certainty, reason=verdict.explanation)
        words = "no answer yet" if verdict.evidence is None else f"evidence {verdict.evidence:.1f}"
        return Verdict(vote=Vote.CONTINUE, certainty=certainty, reason=words)

    def _place(self, progress: Progress) -> DepthPlace:
        is_boundary = progress.tail.endswith(self._rule.delimiter)
        return DepthPlace(position=progress.num_tokens, is_boundary=is_boundary)
