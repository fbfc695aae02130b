"""Our own depth policy: evidence for an answer, gathered over boundaries and confirmed by cheap probes. Pure.

What the recorded chains taught, and each term of `EvidenceExit` in turn:

- *Surprise of being wrong.* An answer at a boundary whose tokens have geometric mean probability c brings
  -log(1 - c): 0.9 brings 2.3, 0.995 brings 5.3. A threshold on c alone is a threshold on this.
- *Carry.* The same answer at the next boundary adds up, discounted: two boundaries at 0.98 are worth one at 0.995.
  Another answer starts afresh, and the more the old one had gathered, the more doubt it leaves (*doubt*).
- *Support.* Probes at regular places ask the chain with other words and have no confidence; alone they are not to
  be trusted, since they repeat placeholders. But an answer of a boundary that recent probes already gave is wrong
  several times less often than one that none gave, at the same confidence.
- *Sparse probes.* Every probe costs tokens, so they are far apart until an answer is promising, and near then.
- *Giving up.* A chain that is still open late in its budget seldom ends right: it would be cut off. Past a share
  of the cap it ends with the answer that has most weight so far. Without a known cap nothing is given up.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass

from hf_dynasor.errors import ConfigurationError
from hf_dynasor.scheduler.depth import (
    GO_ON,
    DepthPlace,
    DepthReading,
    DepthState,
    DepthVerdict,
    check_count,
    check_finite,
    check_probability,
)

SMALLEST_DOUBT = 1e-5
"""Probabilities nearer to one than this count as this near: rounding hides the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceExit:
    """Stop once the evidence for the newest answer exceeds a threshold; give up late in the budget.

    Args:
        threshold: Evidence that must be exceeded, in nats of surprise; at least 0.
        carry: Share of the evidence that the same answer brings along from boundary to boundary, in [0, 1].
        doubt: Share of a dropped answer's evidence, up to 4 nats of it, that counts against the next, in [0, 1].
        support: Nats for each unit of log(1 + recent probes with this answer), at least 0.
        isolation: Nats against an answer that no recent probe gave, where there were any; at least 0.
        least: Nats that the newest boundary's answer must bring by itself; 3 is a probability of 0.95.
        most: Nats that one boundary can bring at most.
        window: How many probes are recent, at least 1.
        far: Tokens between probes while nothing is promising, at least 1.
        near: Tokens between probes once an answer is promising, at least 1.
        promising: Nats of evidence that make an answer promising.
        give_up: Share of the cap after which an open chain ends, in (0, 1]; `None` never gives up.

    Raises:
        ConfigurationError: An option outside its range.
    """

    threshold: float = 7.0
    carry: float = 0.35
    doubt: float = 0.6
    support: float = 1.2
    isolation: float = 0.5
    least: float = 2.0
    most: float = 9.0
    window: int = 8
    far: int = 512
    near: int = 128
    promising: float = 3.0
    give_up: float | None = 0.6
    name: str = "evidence"

    def __post_init__(self) -> None:
        for name in ("window", "far", "near"):
            check_count(name, getattr(self, name))
        for name in ("carry", "doubt"):
            check_probability(name, getattr(self, name))
        for name in ("threshold", "support", "isolation", "least", "most", "promising"):
            check_finite(name, getattr(self, name))
            if getattr(self, name) < 0:
                raise ConfigurationError(f"Got {name} = {getattr(self, name)!r} but expected at least 0.")
        if self.give_up is not None and not 0 < self.give_up <= 1:
            raise ConfigurationError(
                f"Got give_up = {self.give_up!r} but expected a share in (0, 1] or None."
            )

    def start(self, *, cap: int | None = None) -> DepthState:
        """No answer yet. `cap` is the most tokens that the chain may have, where that is known."""
        return _EvidenceState(self, cap)


class _EvidenceState:
    def __init__(self, policy: EvidenceExit, cap: int | None) -> None:
        self._policy = policy
        gives_up = policy.give_up is not None and cap is not None
        self._give_up_at = math.ceil(policy.give_up * cap) if gives_up else math.inf  # type: ignore[operator]
        self._next_at = policy.far // 2
        self._probes: deque[Hashable | None] = deque(maxlen=policy.window)
        self._newest: DepthReading | None = None
        self._evidence = 0.0
        self._ballot = _Ballot()
        self._is_blank = False

    def wants(self, place: DepthPlace) -> bool:
        return place.is_boundary or place.position >= self._next_at

    def give_up(self, place: DepthPlace) -> DepthVerdict:
        # A blank answer at the last boundary is one too long for the probe, not a chain that is lost.
        if place.position < self._give_up_at or self._is_blank:
            return GO_ON
        return DepthVerdict(
            is_stop=True, reading=self._ballot.leader, explanation=f"still open at {place.position} tokens"
        )

    def observe(self, reading: DepthReading) -> DepthVerdict:
        if reading.place.is_boundary:
            self._take_boundary(reading)
        else:
            self._probes.append(reading.key)
            self._ballot.add(reading, 1.0)
        self._schedule(reading.place)
        return self._judge()

    def _take_boundary(self, reading: DepthReading) -> None:
        policy, newest = self._policy, self._newest
        self._is_blank = reading.key is None
        if reading.key is None:
            self._newest, self._evidence = None, self._evidence * policy.carry
            return
        brought = min(measure(reading.confidence), policy.most)
        if newest is not None and newest.key == reading.key:
            self._evidence = policy.carry * self._evidence + brought
        else:
            dropped = min(self._evidence, MOST_DOUBT) if newest is not None else 0.0
            self._evidence = brought - policy.doubt * dropped
        self._newest = reading
        self._ballot.add(reading, 1.0 + brought)

    def _schedule(self, place: DepthPlace) -> None:
        is_promising = self._newest is not None and self._evidence > self._policy.promising
        if not place.is_boundary:
            self._next_at = place.position + (self._policy.near if is_promising else self._policy.far)
        elif is_promising:
            self._next_at = min(self._next_at, place.position + 1)

    def _judge(self) -> DepthVerdict:
        policy, newest = self._policy, self._newest
        if newest is None or measure(newest.confidence) <= policy.least:
            return GO_ON
        num_same = sum(key == newest.key for key in self._probes)
        evidence = self._evidence + policy.support * math.log1p(num_same)
        evidence -= policy.isolation if self._probes and not num_same else 0.0
        if evidence <= policy.threshold:
            return GO_ON
        words = (
            f"evidence {evidence:.1f} > {policy.threshold:.1f} for {newest.answer!r}, {num_same} probes agree"
        )
        return DepthVerdict(is_stop=True, reading=newest, explanation=words)


MOST_DOUBT = 4.0
"""Nats of a dropped answer's evidence that can count against the next one at most."""

FADING = 0.8
"""What an earlier answer's weight is multiplied by at every reading, so that the late ones lead."""


class _Ballot:
    """Weights of all answers so far, for a chain that is given up."""

    def __init__(self) -> None:
        self._weights: dict[Hashable, float] = {}
        self._readings: dict[Hashable, DepthReading] = {}

    @property
    def leader(self) -> DepthReading | None:
        """The newest reading of the heaviest answer; `None` before any."""
        if not self._weights:
            return None
        return self._readings[max(self._weights, key=self._weights.__getitem__)]

    def add(self, reading: DepthReading, weight: float) -> None:
        """All answers fade; this one gains."""
        for key in self._weights:
            self._weights[key] *= FADING
        if reading.key is not None:
            self._weights[reading.key] = self._weights.get(reading.key, 0.0) + weight
            self._readings[reading.key] = reading


def measure(confidence: float | None) -> float:
    """Evidence of one answer: the surprise, in nats, were it wrong. Nothing is known of an answer without a confidence.

    Examples:
        >>> round(measure(0.995), 1), measure(0.0), measure(None), round(measure(1.0), 1)
        (5.3, 0.0, 0.0, 11.5)
    """
    return -math.log(max(SMALLEST_DOUBT, 1.0 - (confidence or 0.0)))
