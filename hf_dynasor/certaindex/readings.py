"""What a stopping rule is told and what it says: progress, readings, votes, verdicts. Knows no tensor and no model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from hf_dynasor.errors import ConfigurationError


class Vote(str, Enum):
    """A rule's word on one row.

    `FORBID` (too early, whatever others say) beats `FORCE` (too late), which beats `STOP` and `CONTINUE`;
    `ABSTAIN` leaves the decision to the other rules.
    """

    FORBID = "forbid"
    FORCE = "force"
    STOP = "stop"
    CONTINUE = "continue"
    ABSTAIN = "abstain"


class Need(str, Enum):
    """What a rule must have read before it can say anything."""

    ANSWER = "answer"
    LOGPROBS = "logprobs"
    ENTROPY = "entropy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a row's thinking is.

    Args:
        num_tokens: Thinking tokens so far.
        tail: The text of the last few tokens, where the rule asked for it (`reads_text`).
    """

    num_tokens: int
    tail: str = ""

    def __post_init__(self) -> None:
        if self.num_tokens < 0:
            raise ConfigurationError(f"Got {self.num_tokens = } but expected 0 or more.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one probe saw.

    Args:
        progress: Where in the thinking it was made.
        answer: The answer that it elicited; `None` where it found none, or none was asked for.
        text: Everything that the probe wrote, the answer's closing included.
        is_closed: Whether the answer ended by itself (a closing brace) rather than by a newline or a limit.
        logprobs: Natural-log probability of each token that the probe wrote, closing included: an answer that
            might go on is another answer.
        entropy: Entropy in nats of the first token after the probe's suffix.
        is_given_up: Whether the probe left its answer at a token that was too unlikely; `answer` is then `None`.
    """

    progress: Progress
    answer: str | None = None
    text: str = ""
    is_closed: bool = False
    logprobs: tuple[float, ...] = ()
    entropy: float | None = None
    is_given_up: bool = False

    def __post_init__(self) -> None:
        if self.entropy is not None and not (math.isfinite(self.entropy) and self.entropy >= -1e-6):
            raise ConfigurationError(
                f"Got {self.entropy = } but expected a finite number of at least 0 nats."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a rule says after a reading.

    Args:
        vote: Stop, go on, or one of the stronger words.
        certainty: How sure the row is of its answer, in [0, 1]; `None` where the rule does not measure it.
        reason: One clause for people, such as `3 of the last 3 answers are '12'`.
    """

    vote: Vote
    certainty: float | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        if self.certainty is not None and not 0 <= self.certainty <= 1:
            raise ConfigurationError(f"Got {self.certainty = } but expected a value in [0, 1].")

    @property
    def is_stop(self) -> bool:
        """Whether the row's thinking ends here."""
        return self.vote in (Vote.STOP, Vote.FORCE)


class RuleState(Protocol):
    """What a rule remembers of one row."""

    def is_due(self, progress: Progress) -> bool:
        """Whether the rule wants a reading here. Asking changes nothing."""
        ...

    def observe(self, reading: Reading) -> Verdict:
        """Take in a reading and say what follows. It is due at the reading's place."""
        ...


class StoppingRule(Protocol):
    """A frozen configuration. It makes one state for each row and remembers nothing itself."""

    @property
    def needs(self) -> frozenset[Need]:
        """What its readings must hold; nothing for a rule that only counts."""
        ...

    @property
    def reads_text(self) -> bool:
        """Whether its states look at `Progress.tail`."""
        ...

    def start(self) -> RuleState:
        """The state of a fresh row."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceEntry:
    """One verdict in the record of a row: where it was given, on what answer, and what it said."""

    num_tokens: int
    answer: str | None
    verdict: Verdict
    num_probe_tokens: int = field(default=0)

    def to_dict(self) -> dict[str, str | int | float | None]:
        """The entry, ready for JSON."""
        return {
            "num_tokens": self.num_tokens,
            "answer": self.answer,
            "vote": self.verdict.vote.value,
            "certainty": self.verdict.certainty,
            "reason": self.verdict.reason,
            "num_probe_tokens": self.num_probe_tokens,
        }


def check_at_least(name: str, value: int, least: int) -> None:
    """Raise `ConfigurationError` unless an option is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"Got {name} = {value!r} but expected an integer of at least {least}.")


def check_unit_interval(name: str, value: float) -> None:
    """Raise `ConfigurationError` unless an option lies in [0, 1]."""
    if not 0 <= value <= 1:
        raise ConfigurationError(f"Got {name} = {value!r} but expected a value in [0, 1].")
