"""Answer consistency: stop once the last answers agree, and none of them hesitates. Pure."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from hf_dynasor.answers import AnswerFormat, AnswerKey, canonicalise
from hf_dynasor.answers.keys import check_format
from hf_dynasor.errors import name_unknown
from hf_dynasor.stopping.readings import (
    Need,
    Progress,
    Reading,
    Verdict,
    Vote,
    check_at_least,
    check_unit_interval,
)

HESITATION_WORDS = ("wait", "hold", "but", "okay", "no", "hmm")
"""Words of the paper that mark an answer as not yet meant (§6)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerConsistency:
    """Stop once the last answers agree (paper §6, Dynasor-CoT).

    Every `interval` thinking tokens the row is asked for its answer. C is the share of the last `window` answers
    that equal the newest one; the row stops when C reaches `threshold` and none of them hesitates.

    Args:
        window: How many answers are compared, at least 1.
        interval: Thinking tokens between two readings, at least 1.
        threshold: The share that stops, in [0, 1].
        hesitation_words: Whole words that void a reading wherever the probe wrote them outside the answer.
        warmup: Thinking tokens before the first reading. Early probes repeat placeholder guesses; a warm-up
            keeps those from agreeing with each other.
        format: How answers are compared, see `hf_dynasor.answers.canonicalise`.

    Raises:
        ConfigurationError: An option outside its range.

    Examples:
        >>> state = AnswerConsistency(window=2, interval=32).start()
        >>> first = Reading(progress=Progress(num_tokens=32), answer="12", text="12}", is_closed=True)
        >>> second = Reading(progress=Progress(num_tokens=64), answer="12.0", text="12.0}", is_closed=True)
        >>> state.observe(first).is_stop, state.observe(second).is_stop
        (False, True)
    """

    window: int = 3
    interval: int = 64
    threshold: float = 1.0
    hesitation_words: tuple[str, ...] = HESITATION_WORDS
    warmup: int = 0
    format: AnswerFormat = "auto"

    def __post_init__(self) -> None:
        check_at_least("window", self.window, 1)
        check_at_least("interval", self.interval, 1)
        check_at_least("warmup", self.warmup, 0)
        check_unit_interval("threshold", self.threshold)
        check_format(self.format)

    @classmethod
    def from_effort(cls, effort: str) -> AnswerConsistency:
        """The paper's setting for an effort level: mild, low, mid, high or crazy (window and interval, §6)."""
        if effort not in EFFORTS:
            raise name_unknown("effort", effort, EFFORTS)
        return EFFORTS[effort]

    @property
    def needs(self) -> frozenset[Need]:
        """An answer."""
        return frozenset({Need.ANSWER})

    @property
    def reads_text(self) -> bool:
        """False: it counts tokens."""
        return False

    def start(self) -> ConsistencyState:
        """The state of a fresh row."""
        return ConsistencyState(self)


class ConsistencyState:
    """The last answers of one row."""

    def __init__(self, rule: AnswerConsistency) -> None:
        self._rule = rule
        self._next_at = max(rule.interval, rule.warmup)
        self._answers: deque[AnswerKey | None] = deque(maxlen=rule.window)
        self._hesitations: deque[bool] = deque(maxlen=rule.window)

    def is_due(self, progress: Progress) -> bool:
        """Whether `interval` tokens went by since the last reading."""
        return progress.num_tokens >= self._next_at

    def observe(self, reading: Reading) -> Verdict:
        """Compare the newest answer with the ones before it."""
        rule = self._rule
        self._next_at = reading.progress.num_tokens + rule.interval
        newest = _read_key(reading, rule.format)
        self._answers.append(newest)
        self._hesitations.append(hesitates(reading, rule.hesitation_words))
        if newest is None:
            return Verdict(vote=Vote.CONTINUE, certainty=0.0, reason="no answer")
        num_equal = sum(answer == newest for answer in self._answers)
        share = num_equal / rule.window
        is_full = len(self._answers) == rule.window
        is_certain = is_full and share >= rule.threshold and not any(self._hesitations)
        reason = f"{num_equal} of the last {rule.window} answers are {reading.answer!r}"
        if any(self._hesitations):
            reason += ", with hesitation"
        return Verdict(vote=Vote.STOP if is_certain else Vote.CONTINUE, certainty=share, reason=reason)


EFFORTS: Mapping[str, AnswerConsistency] = MappingProxyType(
    {
        "mild": AnswerConsistency(window=8, interval=64),
        "low": AnswerConsistency(window=5, interval=64),
        "mid": AnswerConsistency(window=3, interval=64),
        "high": AnswerConsistency(window=2, interval=64),
        "crazy": AnswerConsistency(window=2, interval=32),
    }
)
"""The paper's five effort levels, from the most careful to the boldest (§6)."""


def hesitates(reading: Reading, words: tuple[str, ...] = HESITATION_WORDS) -> bool:
    """Whether a probe wrote a hesitation word outside of its answer. Words are whole words, any case.

    What stands inside a closed answer never counts: "No" and "no solution" are answers. An answer that was cut
    off counts as text, unless it is one word and nothing else.

    Examples:
        >>> place = Progress(num_tokens=64)
        >>> hesitates(Reading(progress=place, answer="No", text="No}", is_closed=True))
        False
        >>> hesitates(Reading(progress=place, answer="12", text="12} Wait, no", is_closed=True))
        True
        >>> hesitates(Reading(progress=place, answer="know", text="I know the polynomial"))
        False
    """
    text, answer = reading.text, reading.answer
    is_whole = answer is not None and text.strip() == answer and len(answer.split()) == 1
    if answer is not None and (reading.is_closed or is_whole):
        text = text.replace(answer, " ", 1)
    found = {word.casefold() for word in re.findall(r"[^\W\d_]+", text)}
    return any(word.casefold() in found for word in words)


def _read_key(reading: Reading, format: AnswerFormat) -> AnswerKey | None:
    """What a reading's answer says; None where it says nothing: silence never agrees with anything."""
    if reading.answer is None:
        return None
    key = canonicalise(reading.answer, format=format)
    return key if key.value else None
