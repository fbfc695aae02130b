"""Known ways of spending samples, as joint policies: the yardsticks for deciding over width and depth together."""

from __future__ import annotations

from dataclasses import dataclass

from hf_dynasor.scheduler.depth import check_count, check_probability
from hf_dynasor.scheduler.joint import JointDecision, JointView, beta_lead, lead_vote


@dataclass(frozen=True, slots=True, kw_only=True)
class FullWidth:
    """Self-consistency: a number of chains at once, each to its end, and the majority.

    Args:
        width: Chains; `None` for the whole budget.
    """

    width: int | None = None
    name: str = "full"

    @property
    def interval(self) -> None:
        """It reads only final answers."""

    def decide(self, view: JointView) -> JointDecision:
        """All at first, then nothing."""
        if view.chains:
            return JointDecision()
        return JointDecision(num_new=min(view.budget, self.width or view.budget))


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveConsistency:
    """One sample after another until the leader is unlikely to lose to the runner-up (Beta stop).

    With a and b votes, the chance that the leader's true share exceeds the runner-up's is that of a
    Beta(a + 1, b + 1) variable exceeding one half.

    Args:
        confidence: What that chance must exceed, in [0, 1].
    """

    confidence: float = 0.95
    name: str = "adaptive_consistency"

    def __post_init__(self) -> None:
        check_probability("confidence", self.confidence)

    @property
    def interval(self) -> None:
        """It reads only final answers."""

    def decide(self, view: JointView) -> JointDecision:
        """Start one, wait for it, judge."""
        if view.num_running:
            return JointDecision()
        key, lead, second = lead_vote(chain.newest for chain in view.chains)
        chance = beta_lead(lead, second)
        if key is not None and chance > self.confidence:
            return JointDecision(is_done=True, key=key, explanation=f"leads with chance {chance:.3f}")
        return JointDecision(num_new=min(1, view.num_left))


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyStoppingWindows:
    """Waves of samples until one wave is unanimous (ESC); else the majority of all.

    Args:
        window: Samples in a wave, at least 1.
    """

    window: int = 8
    name: str = "early_stopping"

    def __post_init__(self) -> None:
        check_count("window", self.window)

    @property
    def interval(self) -> None:
        """It reads only final answers."""

    def decide(self, view: JointView) -> JointDecision:
        """Start a wave, wait for all of it, judge."""
        if view.num_running:
            return JointDecision()
        wave = [chain.newest for chain in view.chains[-self.window :]]
        if len(wave) == self.window and wave[0] is not None and len(set(wave)) == 1:
            return JointDecision(is_done=True, key=wave[0], explanation=f"{self.window} in a row agree")
        return JointDecision(num_new=min(self.window, view.num_left))


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelConsensus:
    """All chains at once; stop when the majority of their newest answers has held, prune those who differ long.

    In the manner of Parallel-Probe.

    Args:
        width: Chains; `None` for the whole budget.
        interval: Tokens between two probes.
        hold: Looks in a row at which the majority must be the same.
        patience: Looks in a row at which a chain may differ from the majority before it is ended.
        warmup: Looks before a chain may be ended.
    """

    width: int | None = None
    interval: int = 500
    hold: int = 8
    patience: int = 10
    warmup: int = 12
    name: str = "parallel_consensus"

    def __post_init__(self) -> None:
        for name in ("interval", "hold", "patience", "warmup"):
            check_count(name, getattr(self, name))

    def decide(self, view: JointView) -> JointDecision:
        """Compare the majorities of the last looks."""
        if not view.chains:
            return JointDecision(num_new=min(view.budget, self.width or view.budget))
        looks = max(len(chain.answers) for chain in view.chains)
        if looks == 0:
            return JointDecision()
        kept = [chain for chain in view.chains if not chain.is_pruned]
        leads = [
            lead_vote(chain.answers[min(look, len(chain.answers)) - 1] for chain in kept if chain.answers)[0]
            for look in range(max(1, looks - max(self.hold, self.patience) + 1), looks + 1)
        ]
        recent = leads[-self.hold :]
        if len(recent) == self.hold and recent[0] is not None and len(set(recent)) == 1:
            return JointDecision(is_done=True, key=recent[0], explanation=f"held for {self.hold} looks")
        if looks < max(self.warmup, self.patience):
            return JointDecision()
        odd = leads[-self.patience :]
        return JointDecision(
            pruned=frozenset(
                chain.index
                for chain in kept
                if chain.is_running
                and len(chain.answers) >= self.patience
                and all(a != b for a, b in zip(chain.answers[-self.patience :], odd, strict=True))
            )
        )
