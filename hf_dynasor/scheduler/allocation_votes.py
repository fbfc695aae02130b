"""Policies that look at the votes themselves: how many paths state which answer.

`AdaptiveConsistency` and `ConsistentWindow` are rules of others, here as baselines. `VoteForecast` is our own: it asks
whether the rest of the budget could still change the majority, and never waits where the answer cannot matter.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, get_args

from hf_dynasor.certaindex import Thresholds
from hf_dynasor.errors import ConfigurationError, name_unknown
from hf_dynasor.grants import Decision, GrantRecord, Knob
from hf_dynasor.scheduler.allocation_common import check_units, grant_some, judge_hopeless, stop_certain

Posterior = Literal["beta", "dirichlet"]

_PANELS = 400

_FEWEST_VOTES = 2
"""Votes of a leader that can end a program: a group of one may be a path that states nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveConsistency:
    """End once the leading answer is the most probable one with enough confidence (Aggarwal et al. 2023).

    The shares of the answers have a uniform prior; no vote is added that was not cast, so agreement alone can end
    it: three of three have a confidence of 15/16.

    Args:
        confidence: Posterior probability that the leading answer is the most frequent, in (0.5, 1).
        posterior: `beta` compares the two leading answers, `dirichlet` all that were seen.
        every: Units between two readings; the original takes one at a time, and waits for each.
    """

    confidence: float = 0.95
    posterior: Posterior = "beta"
    every: int = 1
    name: str = "adaptive_consistency"

    def __post_init__(self) -> None:
        if not 0.5 < self.confidence < 1:
            raise ConfigurationError(f"Got {self.confidence = } but expected a value in (0.5, 1).")
        if self.posterior not in get_args(Posterior):
            raise name_unknown("posterior", self.posterior, get_args(Posterior))
        check_units("every", self.every)

    def allocate(self, knob: Knob, trace: Sequence[GrantRecord]) -> Decision:
        """`every` units, until the leader is confident."""
        if trace and trace[-1].total < knob.maximum:
            sizes = _count_votes(self.name, trace[-1])
            confidence = self._read(sizes)
            if confidence > self.confidence:
                words = f"leader {_name_votes(sizes)} with confidence {confidence:.3f}"
                return stop_certain(f"{words} > {self.confidence:g} at {knob.describe(trace[-1].total)}")
        return grant_some(knob, trace, self.every)

    def _read(self, sizes: tuple[int, ...]) -> float:
        if not sizes:
            return 0.0
        leader, *others = sizes
        if self.posterior == "beta" or len(others) < 2:
            return beta_confidence(leader, others[0] if others else 0)
        return dirichlet_confidence(sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsistentWindow:
    """Take windows of paths one after another; end after the first whose paths all agree (ESC, Li et al. 2024).

    Args:
        window: Paths of a window; at least 2.
    """

    window: int = 5
    name: str = "window"

    def __post_init__(self) -> None:
        check_units("window", self.window, least=2)

    def allocate(self, knob: Knob, trace: Sequence[GrantRecord]) -> Decision:
        """Another window, until one is unanimous."""
        if trace and trace[-1].total < knob.maximum:
            _count_votes(self.name, trace[-1])
            newest = trace[-1].groups[len(trace[-2].groups) if len(trace) > 1 else 0 :]
            if len(newest) == trace[-1].units and len(set(newest)) == 1:
                return stop_certain(
                    f"{len(newest)} of {len(newest)} agree at {knob.describe(trace[-1].total)}"
                )
        return grant_some(knob, trace, self.window)


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteForecast:
    """End once the rest of the budget would hardly change the majority, and grant all that cannot end it earlier.

    The remaining votes are forecast for the leader and its strongest rival (every other vote counts as one for
    either, which is the cautious side): with a Beta prior on the leader's share they are beta-binomial. A grant is
    as large as the fewest votes that could end the program, so that it takes no more votes than single steps
    would, in far fewer turns (as long as `max_grants` allows them). With `risk` 0 it ends exactly where no vote that is left can change the
    majority: the answer is that of the full budget, always.

    Args:
        risk: Most probability that the full budget would end with another majority, in [0, 1).
        prior: Both parameters of the Beta prior: below 1 expects questions whose paths agree or split clearly, 1 is
            uniform.
        least: Fewest units of a grant.
        max_grants: Most grants, so that nobody waits for many turns: the last one is all that is left. `None` for any
            number, which takes the fewest votes.
        give_up: A program whose every signal named here is below its limit ends too, as hopeless; off by default.
        give_up_at: Units from which on `give_up` is read.
    """

    risk: float = 0.02
    prior: float = 1.0
    least: int = 1
    max_grants: int | None = 4
    give_up: Thresholds | None = None
    give_up_at: int = 5
    name: str = "forecast"

    def __post_init__(self) -> None:
        if not 0 <= self.risk < 1:
            raise ConfigurationError(f"Got {self.risk = } but expected a value in [0, 1).")
        if not (math.isfinite(self.prior) and self.prior > 0):
            raise ConfigurationError(f"Got {self.prior = } but expected a positive number.")
        check_units("least", self.least)
        if self.max_grants is not None:
            check_units("max_grants", self.max_grants)
        check_units("give_up_at", self.give_up_at)

    def allocate(self, knob: Knob, trace: Sequence[GrantRecord]) -> Decision:
        """The fewest votes that could settle it, until it is settled."""
        total = trace[-1].total if trace else 0
        left = knob.maximum - total
        if not left:
            return grant_some(knob, trace, 1)
        sizes = _count_votes(self.name, trace[-1]) if trace else ()
        race = _read_race(trace[-1].groups if trace else ())
        chance = race.forecast_change(left, self.prior)
        if chance <= self.risk and race.leader >= _FEWEST_VOTES:
            words = f"leader {_name_votes(sizes)}: {left} more change it with probability {chance:.3f}"
            return stop_certain(f"{words} <= {self.risk:g} at {knob.describe(total)}")
        if total >= self.give_up_at and (denial := judge_hopeless(knob, trace[-1], self.give_up)):
            return denial
        if self.max_grants is not None and len(trace) >= self.max_grants - 1:
            return grant_some(knob, trace, left)
        return grant_some(knob, trace, max(self.least, _count_fewest(race, left, self.risk, self.prior)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """The leading answer and its rivals; of equal answers the one seen first leads, and wins in the end.

    Args:
        leader: Votes of the leading answer.
        later: Most votes of an answer that was seen after it, or may still be seen: it must overtake.
        earlier: Most votes of an answer that was seen before it: a tie is enough; `None` where there is none.
    """

    leader: int = 0
    later: int = 0
    earlier: int | None = None

    def forecast_change(self, left: int, prior: float) -> float:
        """Probability that either rival wins, if all `left` votes went to it or to the leader."""
        chance = forecast_change(self.leader, self.later, left, prior)
        if self.earlier is None:
            return chance
        return max(chance, forecast_change(self.leader, self.earlier, left, prior, wins_ties=True))


def beta_confidence(leader: int, rival: int) -> float:
    """Posterior probability that the leader's share exceeds the rival's, uniform prior.

    For whole counts the incomplete beta function is a binomial tail, so this is exact.

    Examples:
        >>> beta_confidence(3, 0), beta_confidence(1, 1)
        (0.9375, 0.5)
    """
    num = leader + rival + 1
    likelier: int = sum(math.comb(num, successes) for successes in range(leader + 1))
    return likelier / (1 << num)


@lru_cache(maxsize=65536)
def dirichlet_confidence(sizes: tuple[int, ...]) -> float:
    """Posterior probability that the first share is the largest of all, uniform prior over those seen.

    Shares are gamma variables over their sum; the first is largest where all others are below it, which is one
    integral over its value (Simpson's rule).

    Args:
        sizes: Votes of each answer, the leader's first.
    """
    leader, *others = (size + 1 for size in sizes)
    end = leader + 12 * math.sqrt(leader) + 20
    step = end / _PANELS
    total = 0.0
    for index in range(1, _PANELS + 1):  # at 0 every other share is below with probability 0
        value = index * step
        density = math.exp((leader - 1) * math.log(value) - value - math.lgamma(leader))
        below = math.prod(_gamma_below(other, value) for other in others)
        total += (1 if index == _PANELS else 2 if index % 2 == 0 else 4) * density * below
    return min(1.0, total * step / 3)


@lru_cache(maxsize=65536)
def forecast_change(leader: int, rival: int, left: int, prior: float, *, wins_ties: bool = False) -> float:
    """Probability that the rival wins after `left` more votes, all of which go to it or to the leader.

    Examples:
        >>> forecast_change(11, 0, 9, 0.5)
        0.0
        >>> forecast_change(2, 0, 18, 0.5) > forecast_change(3, 0, 17, 0.5)
        True
    """
    needed = (leader - rival + left + wins_ties) // 2 + (not wins_ties)
    if needed > left:
        return 0.0
    return math.fsum(
        _beta_binomial(votes, left, rival + prior, leader + prior)
        for votes in range(max(0, needed), left + 1)
    )


@lru_cache(maxsize=65536)
def _count_fewest(race: Race, left: int, risk: float, prior: float) -> int:
    """Fewest further votes after which the program could end, all of them going to the leader."""
    for votes in range(1, left):
        ahead = replace(race, leader=race.leader + votes)
        if ahead.leader >= _FEWEST_VOTES and ahead.forecast_change(left - votes, prior) <= risk:
            return votes
    return left


def _read_race(groups: Sequence[int]) -> Race:
    sizes = Counter(groups)
    if not sizes:
        return Race()
    leader, votes = min(sizes.items(), key=lambda item: (-item[1], item[0]))
    return Race(
        leader=votes,
        later=max((size for group, size in sizes.items() if group > leader), default=0),
        earlier=max((size for group, size in sizes.items() if group < leader), default=None),
    )


def _beta_binomial(successes: int, trials: int, alpha: float, beta: float) -> float:
    def log_beta(first: float, second: float) -> float:
        return math.lgamma(first) + math.lgamma(second) - math.lgamma(first + second)

    chance = log_beta(alpha + successes, beta + trials - successes) - log_beta(alpha, beta)
    return math.comb(trials, successes) * math.exp(chance)


def _gamma_below(shape: int, value: float) -> float:
    """Probability that a gamma variable of a whole shape is below a value."""
    term, total = 1.0, 1.0
    for index in range(1, shape):
        term *= value / index
        total += term
    return max(0.0, 1.0 - math.exp(-value) * total)


def _count_votes(policy: str, record: GrantRecord) -> tuple[int, ...]:
    """Sizes of the groups of equal answers, largest first."""
    if record.certaindex.num_paths and not record.groups:
        raise ConfigurationError(
            f"Policy {policy!r} counts votes, but the program does not group its answers. Use it with self_consistency."
        )
    return tuple(sorted(Counter(record.groups).values(), reverse=True))


def _name_votes(sizes: tuple[int, ...]) -> str:
    return " to ".join(str(size) for size in (*sizes, 0)[:2])
