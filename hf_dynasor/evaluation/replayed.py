"""What a replay of recorded traces ends with: one row for each question and draw, and their totals.

Every replay (samples, trees, long chains of thought, samples of long chains) ends in these rows, so that
calibration, sweeps and plots need not know which kind of trace they came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hf_dynasor.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedQuestion:
    """One question under one policy, beside the same question at its full budget.

    Args:
        id: The question.
        draw: Which random draw of the question's branches, counted from 0.
        group: Domain or difficulty, where the trace names one.
        answer: What the policy ends with; `None` where it has no answer.
        is_correct: Whether that is right.
        baseline_is_correct: Whether the full budget's answer is right.
        net_tokens: Tokens that the policy spent, probes and rewards included.
        baseline_tokens: Tokens of the full budget, which needs no probes.
        sequential_tokens: Longest chain of those tokens that had to wait for each other.
        baseline_sequential_tokens: The same for the full budget.
        is_early: Whether the policy ended before the full budget.
        stopped_at: Where it ended, in units of the trace (samples, tokens of the chain).
        explanation: Why, for people.
    """

    id: str
    draw: int = 0
    group: str | None = None
    answer: str | None
    is_correct: bool
    baseline_is_correct: bool
    net_tokens: int
    baseline_tokens: int
    sequential_tokens: int
    baseline_sequential_tokens: int
    is_early: bool
    stopped_at: int
    explanation: str = ""

    @property
    def is_lost(self) -> bool:
        """Whether stopping cost the answer: right at the full budget, wrong when stopped."""
        return self.baseline_is_correct and not self.is_correct

    def to_dict(self) -> dict[str, Any]:
        """The row, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySummary:
    """Totals over replayed questions; accuracies are means over rows, tokens are sums."""

    num_questions: int
    accuracy: float
    baseline_accuracy: float
    net_tokens: int
    baseline_tokens: int
    sequential_tokens: int
    baseline_sequential_tokens: int
    early_stop_rate: float

    def to_dict(self) -> dict[str, float | int]:
        """The totals, ready for JSON."""
        return asdict(self)


def summarise(rows: Sequence[ReplayedQuestion]) -> ReplaySummary:
    """Totals of a replay. A question that was drawn several times counts each draw in the means and sums.

    Raises:
        InputError: There is no row.
    """
    if not rows:
        raise InputError("Got no replayed question but expected at least one.")
    return ReplaySummary(
        num_questions=len({row.id for row in rows}),
        accuracy=sum(row.is_correct for row in rows) / len(rows),
        baseline_accuracy=sum(row.baseline_is_correct for row in rows) / len(rows),
        net_tokens=sum(row.net_tokens for row in rows),
        baseline_tokens=sum(row.baseline_tokens for row in rows),
        sequential_tokens=sum(row.sequential_tokens for row in rows),
        baseline_sequential_tokens=sum(row.baseline_sequential_tokens for row in rows),
        early_stop_rate=sum(row.is_early for row in rows) / len(rows),
    )
