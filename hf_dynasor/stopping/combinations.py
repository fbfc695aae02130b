"""Rules made of rules: stop when any of them says so, or only when all do. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from hf_dynasor.errors import ConfigurationError
from hf_dynasor.stopping.readings import Need, Progress, Reading, RuleState, StoppingRule, Verdict, Vote


@dataclass(frozen=True, slots=True)
class _Combination:
    """What both combinations share: what is needed, and who wins over whom.

    Args:
        rules: The rules, at least one. Their order is irrelevant.
    """

    rules: tuple[StoppingRule, ...]
    _word: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if not self.rules:
            raise ConfigurationError("Got no rules but expected at least one: AnyOf((rule, ...)).")

    @property
    def needs(self) -> frozenset[Need]:
        """What any of the rules needs."""
        return frozenset().union(*(rule.needs for rule in self.rules))

    @property
    def reads_text(self) -> bool:
        """Whether any of the rules reads text."""
        return any(rule.reads_text for rule in self.rules)

    @property
    def floor(self) -> float:
        """Below what a probe may give its answer up: where no rule that reads answers needs the rest of it."""
        return min(
            (getattr(rule, "floor", 0.0) for rule in self.rules if Need.ANSWER in rule.needs), default=0.0
        )

    def start(self) -> CombinedState:
        """The states of a fresh row."""
        return CombinedState(self.rules, is_all=isinstance(self, AllOf))


@dataclass(frozen=True, slots=True)
class AnyOf(_Combination):
    """Stop as soon as one rule says so. A `ThinkingBudget` among them still forbids and forces.

    Args:
        rules: The rules, at least one.

    Examples:
        >>> from hf_dynasor.stopping import AnswerConsistency, AnyOf, ThinkingBudget
        >>> rule = AnyOf((AnswerConsistency(window=3), ThinkingBudget(minimum=32, maximum=512)))
        >>> sorted(need.value for need in rule.needs)
        ['answer']
    """


@dataclass(frozen=True, slots=True)
class AllOf(_Combination):
    """Stop once the newest verdict of every rule that has an opinion is to stop.

    Args:
        rules: The rules, at least one. One that has not been asked yet counts as going on.
    """


class CombinedState:
    """The states of several rules on one row, and what each of them said last."""

    def __init__(self, rules: Sequence[StoppingRule], *, is_all: bool) -> None:
        self._states: list[RuleState] = [rule.start() for rule in rules]
        self._is_free = [not rule.needs for rule in rules]
        self._is_all = is_all
        self._verdicts = [Verdict(vote=Vote.CONTINUE, reason="not asked yet") for _ in rules]

    def is_due(self, progress: Progress) -> bool:
        """Whether any of the rules wants a reading here."""
        return any(state.is_due(progress) for state in self._states)

    def observe(self, reading: Reading) -> Verdict:
        """Ask the rules that are due, and those that cost nothing; the others' last word stands (`AllOf`)."""
        asked = []
        for index, state in enumerate(self._states):
            if self._is_free[index] or state.is_due(reading.progress):
                self._verdicts[index] = state.observe(reading)
                asked.append(self._verdicts[index])
        return _combine(self._verdicts if self._is_all else asked, is_all=self._is_all)


def _combine(verdicts: Sequence[Verdict], *, is_all: bool) -> Verdict:
    votes = {verdict.vote for verdict in verdicts}
    opinions = votes & {Vote.STOP, Vote.CONTINUE}
    if Vote.FORBID in votes:
        vote = Vote.FORBID
    elif Vote.FORCE in votes:
        vote = Vote.FORCE
    elif not opinions:
        vote = Vote.ABSTAIN
    elif is_all:
        vote = Vote.CONTINUE if Vote.CONTINUE in opinions else Vote.STOP
    else:
        vote = Vote.STOP if Vote.STOP in opinions else Vote.CONTINUE
    known = [verdict.certainty for verdict in verdicts if verdict.certainty is not None]
    certainty = (min(known) if is_all else max(known)) if known else None
    # The reasons of those who decided, in an order that does not depend on the order of the rules.
    reasons = sorted({verdict.reason for verdict in verdicts if verdict.vote is vote and verdict.reason})
    return Verdict(vote=vote, certainty=certainty, reason="; ".join(reasons))
