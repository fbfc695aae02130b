"""Our own depth policy: evidence for an answer, gathered over boundaries and confirmed by cheap probes. Pure.

What the recorded chains taught, each a term of `EvidenceExit`:

- *Surprise.* An answer at a boundary whose tokens have geometric mean probability c brings -log(1 - c) nats: 0.9
  brings 2.3, 0.995 brings 5.3. A threshold on c alone is a threshold on this.
- *Carry.* The same answer at the next boundary adds up, discounted. A boundary a few tokens later asks the same
  question of the same text and is no news, so what is carried grows with the tokens in between.
- *Support.* Probes at regular places ask with other words and have no confidence. Alone they are not to be trusted:
  they repeat placeholders. But an answer of a boundary that recent probes gave too is wrong several times less often
  than one that none gave, at the same confidence.
- *Sparse probes.* Every probe costs tokens, so they are far apart until an answer is promising, and near then.
- *Caution.* The first hundreds of tokens hold the boldest guesses and the fewest tokens to save by not waiting.
- *Giving up.* A chain that is still open late in its budget seldom ends right: most are cut off. Past a share of the
  cap it ends with the answer that has most weight. Without a known cap, or without boundaries, none is given up.
- *Hold.* Without boundaries nothing tells how sure an answer is; then one that regular probes repeated for
  thousands of tokens is taken.
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

CAUTION_SPAN = 800
"""Tokens over which the caution at the start falls to 1/e of itself."""

FADING = 0.8
"""What an earlier answer's weight is multiplied by at every reading, so that late answers lead when giving up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceExit:
    """Stop once the evidence for the newest boundary's answer exceeds a threshold; give up late in the budget.

    Args:
        threshold: Evidence that must be exceeded, in nats; at least 0.
        carry: Share of the evidence that an answer brings along to the next boundary, in [0, 1].
        apart: Tokens between two boundaries over which 1 - 1/e of that share is earned, above 0.
        support: Nats for each unit of log(1 + recent probes with this answer), at least 0.
        least: Nats that the newest boundary's answer must exceed by itself; 3 is a probability of 0.95.
        caution: Nats asked for on top at the start of a chain, at least 0.
        window: How many probes are recent, at least 1.
        far: Tokens between probes while nothing is promising, at least 1.
        near: Tokens between probes once an answer is promising, at least 1.
        promising: Nats of evidence that make an answer promising.
        give_up: Share of the cap after which an open chain ends, in (0, 1]; `None` never gives up.
        hold: Tokens for which all probes must repeat an answer in a chain without boundaries; `None` for never.

    Raises:
        ConfigurationError: An option outside its range.
    """

    threshold: float = 7.5
    carry: float = 0.5
    apart: float = 200.0
    support: float = 2.2
    least: float = 3.0
    caution: float = 2.0
    window: int = 12
    far: int = 512
    near: int = 128
    promising: float = 2.5
    give_up: float | None = 0.6
    hold: int | None = 4000
    name: str = "evidence"

    def __post_init__(self) -> None:
        for name in ("window", "far", "near"):
            check_count(name, getattr(self, name))
        if self.hold is not None:
            check_count("hold", self.hold)
        check_probability("carry", self.carry)
        for name in ("threshold", "apart", "support", "least", "caution", "promising"):
            check_finite(name, getattr(self, name))
            if getattr(self, name) < 0 or (name == "apart" and self.apart == 0):
                raise ConfigurationError(
                    f"Got {name} = {getattr(self, name)!r} but expected a positive number."
                )
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
        self._give_up_at = math.inf
        if policy.give_up is not None and cap is not None:
            self._give_up_at = policy.give_up * cap
        self._next_at = policy.far // 2
        self._probes: deque[Hashable | None] = deque(maxlen=policy.window)
        self._held_since: int | None = None
        self._newest: DepthReading | None = None
        self._evidence = 0.0
        self._last_boundary: int | None = None
        self._is_blank = False
        self._ballot = _Ballot()

    def wants(self, place: DepthPlace) -> bool:
        return place.is_boundary or place.position >= self._next_at

    def give_up(self, place: DepthPlace) -> DepthVerdict:
        # A blank answer at the last boundary is one too long for the probe, not a chain that is lost.
        if place.position < self._give_up_at or self._last_boundary is None or self._is_blank:
            return GO_ON
        words = f"still open at {place.position} tokens"
        return DepthVerdict(is_stop=True, reading=self._ballot.leader, explanation=words)

    def observe(self, reading: DepthReading) -> DepthVerdict:
        if reading.place.is_boundary:
            self._take_boundary(reading)
        else:
            self._take_probe(reading)
        self._schedule(reading.place)
        verdict = self._judge(reading.place)
        return verdict if verdict.is_stop else self._judge_hold(reading)

    def _take_boundary(self, reading: DepthReading) -> None:
        position, newest = reading.place.position, self._newest
        self._is_blank = reading.key is None
        if reading.key is None:
            self._newest, self._evidence = None, 0.0
        else:
            brought = measure(reading.confidence)
            if newest is not None and newest.key == reading.key:
                earned = 1.0 - math.exp(-(position - newest.place.position) / self._policy.apart)
                brought += self._policy.carry * earned * self._evidence
            self._newest, self._evidence = reading, brought
            self._ballot.add(reading, 1.0 + measure(reading.confidence))
        self._last_boundary = position

    def _take_probe(self, reading: DepthReading) -> None:
        if not self._probes or self._probes[-1] != reading.key:
            self._held_since = reading.place.position
        self._probes.append(reading.key)
        self._ballot.add(reading, 1.0)

    def _schedule(self, place: DepthPlace) -> None:
        is_promising = self._newest is not None and self._evidence > self._policy.promising
        if not place.is_boundary:
            self._next_at = place.position + (self._policy.near if is_promising else self._policy.far)
        elif is_promising:
            self._next_at = min(self._next_at, place.position + 1)

    def _judge(self, place: DepthPlace) -> DepthVerdict:
        policy, newest = self._policy, self._newest
        if newest is None or measure(newest.confidence) <= policy.least:
            return GO_ON
        num_same = sum(key == newest.key for key in self._probes)
        evidence = self._evidence + policy.support * math.log1p(num_same)
        threshold = policy.threshold + policy.caution * math.exp(-place.position / CAUTION_SPAN)
        if evidence <= threshold:
            return GO_ON
        words = f"evidence {evidence:.1f} > {threshold:.1f} for {newest.answer!r}, {num_same} probes agree"
        return DepthVerdict(is_stop=True, reading=newest, explanation=words)

    def _judge_hold(self, reading: DepthReading) -> DepthVerdict:
        hold = self._policy.hold
        if hold is None or self._last_boundary is not None or reading.key is None or self._held_since is None:
            return GO_ON
        held = reading.place.position - self._held_since
        if held < hold:
            return GO_ON
        return DepthVerdict(
            is_stop=True, reading=reading, explanation=f"{reading.answer!r} held {held} tokens"
        )


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
        (5.3, -0.0, -0.0, 11.5)
    """
    return -math.log(max(SMALLEST_DOUBT, 1.0 - (confidence or 0.0)))
