"""Rules on probabilities and budgets: when a thought may end. Pure; each row has a state of its own.

A rule is a frozen configuration; `start()` makes the state of one row, and `observe(reading)` gives a verdict on
one scale: certainty in [0, 1], higher is surer, like the certaindex signals.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Literal, get_args

from hf_dynasor.certaindex import answer_probability
from hf_dynasor.errors import ConfigurationError, name_unknown
from hf_dynasor.stopping.readings import (
    Need,
    Progress,
    Reading,
    Verdict,
    Vote,
    check_at_least,
    check_unit_interval,
)

Statistic = Literal["geometric_mean", "minimum"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundaryConfidence:
    """Stop at the end of a reasoning step where the answer's own tokens are likely.

    Args:
        threshold: The confidence that must be exceeded, in [0, 1].
        statistic: `"geometric_mean"` of the probabilities of the answer's tokens, or their `"minimum"`.
        delimiter: The text that ends a step.
        min_gap: Least thinking tokens between two readings, at least 1.
        warmup: Thinking tokens before the first reading.

    Raises:
        ConfigurationError: An option outside its range.
    """

    threshold: float = 0.95
    statistic: Statistic = "geometric_mean"
    delimiter: str = "\n\n"
    min_gap: int = 16
    warmup: int = 0

    def __post_init__(self) -> None:
        check_unit_interval("threshold", self.threshold)
        check_at_least("min_gap", self.min_gap, 1)
        check_at_least("warmup", self.warmup, 0)
        if self.statistic not in get_args(Statistic):
            raise name_unknown("statistic", self.statistic, get_args(Statistic))
        if not isinstance(self.delimiter, str) or not self.delimiter:
            raise ConfigurationError(
                f"Got delimiter = {self.delimiter!r} but expected the text that ends a step, such as a blank line."
            )

    @property
    def needs(self) -> frozenset[Need]:
        """An answer with its probabilities."""
        return frozenset({Need.ANSWER, Need.LOGPROBS})

    @property
    def reads_text(self) -> bool:
        """True: it waits for the delimiter."""
        return True

    @property
    def floor(self) -> float:
        """A token that is no likelier than this rules a stop out: a probe may give its answer up there."""
        return self.threshold if self.statistic == "minimum" else 0.0

    def start(self) -> ConfidenceState:
        """The state of a fresh row."""
        return ConfidenceState(self)


class ConfidenceState:
    """Where one row was last asked."""

    def __init__(self, rule: BoundaryConfidence) -> None:
        self._rule = rule
        self._next_at = max(rule.min_gap, rule.warmup)

    def is_due(self, progress: Progress) -> bool:
        """Whether a step has just ended, far enough from the last reading."""
        return progress.num_tokens >= self._next_at and progress.tail.endswith(self._rule.delimiter)

    def observe(self, reading: Reading) -> Verdict:
        """Compare the answer's probability with the threshold."""
        rule = self._rule
        self._next_at = reading.progress.num_tokens + rule.min_gap
        confidence = _summarise(reading.logprobs, rule.statistic) if reading.logprobs else 0.0
        is_certain = confidence > rule.threshold
        if reading.answer is None and (is_certain or not reading.is_given_up):
            return Verdict(vote=Vote.CONTINUE, certainty=0.0, reason="no answer")
        reason = f"probability {confidence:.3f} {'>' if is_certain else '<='} {rule.threshold:.3f}"
        return Verdict(vote=Vote.STOP if is_certain else Vote.CONTINUE, certainty=confidence, reason=reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class EntropyAfterThinking:
    """Stop once closing the thought would leave little doubt about what follows.

    The thought is closed and the answer opened; H is the entropy of the next token. Certainty is exp(-H): the
    geometric mean probability of a draw, on the same scale as an answer's probability.

    Args:
        threshold: What exp(-H) must exceed, in [0, 1].
        interval: Thinking tokens between two readings, at least 1.
        window: How many readings in a row must exceed it, at least 1.
        warmup: Thinking tokens before the first reading.

    Raises:
        ConfigurationError: An option outside its range.
    """

    threshold: float = 0.9
    interval: int = 64
    window: int = 2
    warmup: int = 0

    def __post_init__(self) -> None:
        check_unit_interval("threshold", self.threshold)
        check_at_least("interval", self.interval, 1)
        check_at_least("window", self.window, 1)
        check_at_least("warmup", self.warmup, 0)

    @property
    def needs(self) -> frozenset[Need]:
        """The entropy; no answer has to be written."""
        return frozenset({Need.ENTROPY})

    @property
    def reads_text(self) -> bool:
        """False: it counts tokens."""
        return False

    def start(self) -> EntropyState:
        """The state of a fresh row."""
        return EntropyState(self)


class EntropyState:
    """The last certainties of one row."""

    def __init__(self, rule: EntropyAfterThinking) -> None:
        self._rule = rule
        self._next_at = max(rule.interval, rule.warmup)
        self._certainties: deque[float] = deque(maxlen=rule.window)

    def is_due(self, progress: Progress) -> bool:
        """Whether `interval` tokens went by since the last reading."""
        return progress.num_tokens >= self._next_at

    def observe(self, reading: Reading) -> Verdict:
        """Compare exp(-H) of the last readings with the threshold."""
        rule = self._rule
        self._next_at = reading.progress.num_tokens + rule.interval
        if reading.entropy is None:
            self._certainties.clear()
            return Verdict(vote=Vote.CONTINUE, reason="no entropy was read")
        certainty = math.exp(-max(0.0, reading.entropy))
        self._certainties.append(certainty)
        is_certain = len(self._certainties) == rule.window and min(self._certainties) > rule.threshold
        reason = f"exp(-H) {certainty:.3f}, {rule.window} in a row must exceed {rule.threshold:.3f}"
        return Verdict(vote=Vote.STOP if is_certain else Vote.CONTINUE, certainty=certainty, reason=reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingBudget:
    """Least and most thinking tokens, whatever other rules say. It reads nothing and abstains in between.

    Args:
        minimum: No stop before this many thinking tokens.
        maximum: Stop at this many; `None` for no limit.

    Raises:
        ConfigurationError: A negative minimum, or a maximum below it.
    """

    minimum: int = 0
    maximum: int | None = None

    def __post_init__(self) -> None:
        check_at_least("minimum", self.minimum, 0)
        if self.maximum is not None:
            check_at_least("maximum", self.maximum, max(1, self.minimum))

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing."""
        return frozenset()

    @property
    def reads_text(self) -> bool:
        """False: it counts tokens."""
        return False

    def start(self) -> BudgetState:
        """The state of a fresh row."""
        return BudgetState(self)


@dataclass(frozen=True, slots=True)
class BudgetState:
    """Nothing to remember: the count of tokens says it all."""

    rule: ThinkingBudget

    def is_due(self, progress: Progress) -> bool:
        """Whether the maximum is reached."""
        return self.rule.maximum is not None and progress.num_tokens >= self.rule.maximum

    def observe(self, reading: Reading) -> Verdict:
        """Forbid below the minimum, force at the maximum, abstain in between."""
        spent, rule = reading.progress.num_tokens, self.rule
        if spent < rule.minimum:
            return Verdict(vote=Vote.FORBID, reason=f"{spent} of at least {rule.minimum} thinking tokens")
        if self.is_due(reading.progress):
            return Verdict(vote=Vote.FORCE, reason=f"{spent} of at most {rule.maximum} thinking tokens")
        return Verdict(vote=Vote.ABSTAIN)


def _summarise(logprobs: tuple[float, ...], statistic: Statistic) -> float:
    if statistic == "minimum":
        return min(1.0, math.exp(min(logprobs)))
    return answer_probability(logprobs) or 0.0
