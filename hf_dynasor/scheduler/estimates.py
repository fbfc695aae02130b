"""Estimated remaining work of a program: planned knob times mean tokens of its finished branches (paper §4).

What the paper leaves open is ours: while few branches are finished their mean is shrunk towards the mean of the
program's kind, and the units that will never be granted, because the program will have become certain, are left
out as far as programs of the kind with a like certaindex were denied them.
"""

from __future__ import annotations

from dataclasses import dataclass

from hf_dynasor.certaindex import Certaindex
from hf_dynasor.errors import ConfigurationError

NUM_BINS = 11
"""Bins of certaindex in which a kind remembers how many units were granted later, one for `not known` besides."""

MAX_KINDS = 1024
"""Most kinds that are remembered; beyond, the oldest is forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a program is expected still to cost.

    Args:
        units: Units of its knob still to be spent, those in flight included.
        tokens: Tokens for them.
        steps: The longest chain of tokens that must be one after another: one branch for each wave.
    """

    units: float
    tokens: float
    steps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkSoFar:
    """What is known of a program when its work is estimated.

    Args:
        program_id: The program.
        planned_units: Cap of its knob.
        granted_units: Granted so far.
        finished_units: Of those, ended.
        finished_tokens: Tokens of the ended ones.
        certaindex: The last reading; `None` before the first.
        is_plan_final: Whether the planned units are known to be granted, whatever the certaindex.
    """

    program_id: str
    planned_units: int
    granted_units: int
    finished_units: int
    finished_tokens: int
    certaindex: Certaindex | None = None
    is_plan_final: bool = False


class KindHistory:
    """What programs of one kind cost in the past. Mutable; owned by an estimator.

    What it tells changes only when twice as much has been seen as at the last change. So two programs of a kind
    that look alike rank alike, whenever their ranks were made, and all ranks of a kind are made anew a number of
    times that grows with the logarithm of what was seen.
    """

    def __init__(self, prior_tokens: float) -> None:
        self.mean_tokens = prior_tokens
        self._num_units = 1.0
        self._num_tokens = prior_tokens
        self._seen = [1.0] * (NUM_BINS + 1)
        self._granted = [1.0] * (NUM_BINS + 1)
        self._shares = [1.0] * (NUM_BINS + 1)
        self._num_seen = 0
        self._next_seen = 1

    def note_unit(self, units: int, tokens: int) -> bool:
        """A branch of so many units ended after so many tokens; returns whether what is told has changed."""
        self._num_units += units
        self._num_tokens += tokens
        return self._count()

    def note_decision(self, certaindex: Certaindex | None, share: float) -> bool:
        """After this reading, that share of the units not granted yet was granted; returns the same."""
        index = find_bin(certaindex)
        self._seen[index] += 1
        self._granted[index] += share
        return self._count()

    def predict_share(self, certaindex: Certaindex | None) -> float:
        """Share of the units not granted yet that will be; 1 as long as nothing was seen."""
        return self._shares[find_bin(certaindex)]

    def _count(self) -> bool:
        self._num_seen += 1
        if self._num_seen < self._next_seen:
            return False
        self._next_seen = 2 * self._num_seen
        self.mean_tokens = self._num_tokens / self._num_units
        self._shares = [part / whole for part, whole in zip(self._granted, self._seen, strict=True)]
        return True


class WorkEstimator:
    """Learns from what programs cost, and estimates what others will.

    Args:
        shrinkage: How many finished branches the mean of the kind counts for.
        prior_tokens: Tokens of a unit before any program was seen.
        uses_certaindex: Whether readings correct the planned units; without, all are expected to be granted.
    """

    def __init__(
        self, *, shrinkage: float = 2.0, prior_tokens: float = 256.0, uses_certaindex: bool = True
    ) -> None:
        if shrinkage < 0 or prior_tokens <= 0:
            raise ConfigurationError(
                f"Got {shrinkage = } and {prior_tokens = } but expected at least 0 and more than 0."
            )
        self.shrinkage = shrinkage
        self.prior_tokens = prior_tokens
        self.uses_certaindex = uses_certaindex
        self._kinds: dict[str, KindHistory] = {}

    def history(self, kind: str) -> KindHistory:
        """What is known of a kind; new ones begin with the prior."""
        history = self._kinds.get(kind)
        if history is None:
            if len(self._kinds) >= MAX_KINDS:
                self._kinds.pop(next(iter(self._kinds)))
            history = self._kinds[kind] = KindHistory(self.prior_tokens)
        return history

    def estimate(self, kind: str, work: WorkSoFar) -> Estimate:
        """What a program of this kind still costs."""
        history = self.history(kind)
        mean = (work.finished_tokens + self.shrinkage * history.mean_tokens) / max(
            work.finished_units + self.shrinkage, 1e-9
        )
        if not work.finished_units:
            mean = history.mean_tokens
        in_flight = max(0, work.granted_units - work.finished_units)
        later = max(0, work.planned_units - work.granted_units)
        is_open = later and self.uses_certaindex and not work.is_plan_final
        share = history.predict_share(work.certaindex) if is_open else 1.0
        units = in_flight + later * share
        waves = min(1, in_flight) + (share if later else 0.0)
        return Estimate(units=units, tokens=units * mean, steps=waves * mean)


def find_bin(certaindex: Certaindex | None) -> int:
    """Which bin a reading falls into: of its entropy, else agreement, answer probability or reward.

    Examples:
        >>> find_bin(None), find_bin(Certaindex(entropy=0.0)), find_bin(Certaindex(entropy=1.0))
        (11, 0, 10)
    """
    if certaindex is None:
        return NUM_BINS
    for value in (
        certaindex.entropy,
        certaindex.agreement,
        certaindex.answer_probability,
        certaindex.reward,
    ):
        if value is not None:
            return int(value * (NUM_BINS - 1))
    return NUM_BINS


__all__ = ["Estimate", "KindHistory", "WorkEstimator", "WorkSoFar", "find_bin"]
