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
from math import comb
from typing import Protocol

from hf_dynasor.scheduler.depth import check_count, check_probability


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


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledMajority:
    """A few chains at once; answer when the vote of those that ended is settled, and end the others there.

    The longest chains decide how long everyone waits, and they are the least worth waiting for: the first to end are
    right more often. So the vote is read whenever a chain ends, and what still runs is ended as soon as either

    - the leader is unlikely to lose to the runner-up: a Beta posterior over the two (`beta_lead`) exceeds
      `confidence`; with 0.95 that is four votes to none, or six to one; or
    - `share` of the chains have ended: stragglers of a question that is still open then are mostly lost chains,
      so the majority answers without them.

    Running chains are never asked. On the recorded chains, probes at every 500 tokens cost what they brought.

    Args:
        width: Chains, at least 1; never more than the budget.
        confidence: What the leader's chance must exceed, in [0, 1]; 1 never settles.
        share: Share of the chains after which the majority answers, in [0, 1]; 1 waits for all.

    Raises:
        ConfigurationError: An option outside its range.
    """

    width: int = 16
    confidence: float = 0.95
    share: float = 0.5
    name: str = "settled_majority"

    def __post_init__(self) -> None:
        check_count("width", self.width)
        check_probability("confidence", self.confidence)
        check_probability("share", self.share)

    @property
    def interval(self) -> None:
        """It reads only final answers."""

    def decide(self, view: JointView) -> JointDecision:
        """Start all, then read the vote of those that ended."""
        if not view.chains:
            return JointDecision(num_new=min(view.budget, self.width))
        ended = [chain for chain in view.chains if chain.is_finished]
        key, lead, second = lead_vote(chain.newest for chain in ended)
        if key is None:
            return JointDecision()
        votes = f"{lead} of the first {len(ended)} of {len(view.chains)} chains agree"
        chance = beta_lead(lead, second)
        if chance > self.confidence:
            return JointDecision(
                is_done=True, key=key, explanation=f"{votes}, settled with chance {chance:.3f}"
            )
        if len(ended) >= max(1, self.share * len(view.chains)):
            return JointDecision(is_done=True, key=key, explanation=f"{votes}, and the rest is late")
        return JointDecision()


def beta_lead(lead: int, second: int) -> float:
    """Chance that a Beta(lead + 1, second + 1) variable exceeds one half.

    It equals the chance of at most `lead` heads in lead + second + 1 tosses of a fair coin.

    Examples:
        >>> beta_lead(0, 0), beta_lead(3, 0), round(beta_lead(4, 0), 3), round(beta_lead(6, 1), 3)
        (0.5, 0.9375, 0.969, 0.965)
    """
    tosses = lead + second + 1
    return float(sum(comb(tosses, heads) for heads in range(lead + 1)) / 2**tosses)
