"""Width and depth decided together: many chains of thought of one question, watched while they are written.

Pure. A policy sees a `JointView` (every chain: how far it is, what it answered on the way, what it ended with) and
returns a `JointDecision` (chains to start, chains to end, or the answer). It is asked again whenever chains have
gone on by its `interval` or, without one, whenever a chain has ended. Answers are keys: equal keys are equal
answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainView:
    """One chain as it is now.

    Args:
        index: Its number, in the order of starting.
        num_tokens: Tokens it has written.
        is_running: Whether it goes on; a chain that ended has its final answer as the last of `answers`.
        is_pruned: Whether a decision ended it.
        answers: Keys of the answers it was asked for so far, and of its final one; `None` where it gave none.
    """

    index: int
    num_tokens: int
    is_running: bool
    is_pruned: bool = False
    answers: tuple[Hashable | None, ...] = ()

    @property
    def is_finished(self) -> bool:
        """Whether it ended by itself."""
        return not self.is_running and not self.is_pruned

    @property
    def newest(self) -> Hashable | None:
        """Its newest answer, final or not; `None` where it has none."""
        return self.answers[-1] if self.answers else None

    @property
    def streak(self) -> int:
        """How many of its newest answers in a row are the same; 0 without an answer."""
        count = 0
        for answer in reversed(self.answers):
            if answer is None or answer != self.answers[-1]:
                break
            count += 1
        return count


@dataclass(frozen=True, slots=True, kw_only=True)
class JointView:
    """All chains of a question.

    Args:
        elapsed: Sequential tokens so far: the time, had every token taken one unit.
        chains: Those started, in the order of starting.
        budget: How many chains may be started at most.
    """

    elapsed: int
    chains: tuple[ChainView, ...]
    budget: int

    @property
    def num_left(self) -> int:
        """Chains that may still be started."""
        return self.budget - len(self.chains)

    @property
    def num_running(self) -> int:
        """Chains that are being written."""
        return sum(chain.is_running for chain in self.chains)


@dataclass(frozen=True, slots=True, kw_only=True)
class JointDecision:
    """What to do next.

    Args:
        num_new: Chains to start now.
        pruned: Indices of running chains to end now.
        is_done: Whether to end all and answer `key`.
        key: The answer, where done.
        explanation: Why, for people.
    """

    num_new: int = 0
    pruned: frozenset[int] = frozenset()
    is_done: bool = False
    key: Hashable | None = None
    explanation: str = ""


class JointPolicy(Protocol):
    """Decides over all chains of a question."""

    @property
    def name(self) -> str:
        """What it is called in records and messages."""
        ...

    @property
    def interval(self) -> int | None:
        """Tokens between two probes of a running chain; `None` for a policy that reads only final answers."""
        ...

    def decide(self, view: JointView) -> JointDecision:
        """What to do now. Asked first with no chain; a function of the view alone."""
        ...


def lead_vote(answers: Iterable[Hashable | None]) -> tuple[Hashable | None, int, int]:
    """The most common answer, its count, and the runner-up's; of equals the one seen first leads.

    Examples:
        >>> lead_vote(["a", "b", None, "b"])
        ('b', 2, 1)
    """
    counts = Counter(answer for answer in answers if answer is not None).most_common(2)
    if not counts:
        return None, 0, 0
    return counts[0][0], counts[0][1], counts[1][1] if len(counts) > 1 else 0
