"""Evidence for an answer, gathered over boundaries of a chain of thought and confirmed by cheap probes. Pure.

What the recorded chains taught, each a term of `EvidenceSettings`:

- *Surprise.* An answer at a boundary whose tokens have geometric mean probability c brings -log(1 - c) nats: 0.9
  brings 2.3, 0.995 brings 5.3. A threshold on c alone is a threshold on this.
- *Carry.* The same answer at the next boundary adds up, discounted. A boundary a few tokens later asks the same
  question of the same text and is no news, so what is carried grows with the tokens in between.
- *Support.* Probes at regular places ask with other words and have no confidence. Alone they are not to be trusted:
  they repeat placeholders. But an answer of a boundary that recent probes gave too is wrong several times less often
  than one that none gave, at the same confidence.
- *Caution.* The first hundreds of tokens hold the boldest guesses and the fewest tokens to save by not waiting.
- *Fall.* The longer a chain has run, the more tokens a stop saves: a little less evidence will do.
- *Hold.* Some chains come to no boundary for long, or answer at none in a way that fits a probe. There an answer that
  every regular probe repeated for thousands of tokens is taken.
- *Sparse asking.* Every question costs tokens: probes are far apart until an answer is promising, and near then;
  boundaries next door to the last one are passed by.
- *Giving up* (off unless it is asked for). A chain that is still open late in its budget seldom ends right: most are
  cut off. Past a share of the cap it is asked once more and ends with what it says.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass

from hf_dynasor.certaindex.depth import (
    GO_ON,
    DepthPlace,
    DepthReading,
    DepthVerdict,
    check_count,
    check_finite,
    check_probability,
)
from hf_dynasor.errors import ConfigurationError

SMALLEST_DOUBT = 1e-5
"""Probabilities nearer to one than this count as this near: rounding hides the rest."""

CAUTION_SPAN = 500
"""Tokens over which the caution at the start falls to 1/e of itself."""

FALL_SPAN = 4000
"""Tokens after which the threshold has fallen by log(2) of `fall`."""

SILENCE = 0.3
"""Share of a chain without a boundary's answer after which its probes are listened to alone."""

HELD_SHARE = 0.75
"""An answer that came late must be held for at least this share of the tokens before it came."""

_AMOUNTS = ("threshold", "apart", "support", "least", "caution", "fall", "promising")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceSettings:
    """Stop once the evidence for the newest boundary's answer exceeds a threshold.

    Args:
        threshold: Evidence that must be exceeded, in nats; at least 0.
        carry: Share of the evidence that an answer brings along to the next boundary, in [0, 1].
        apart: Tokens between two boundaries over which 1 - 1/e of that share is earned, above 0.
        support: Nats for each unit of log(1 + recent probes with this answer), at least 0.
        least: Nats that the newest boundary's answer must exceed by itself; 2.4 is a probability of 0.91.
        caution: Nats asked for on top at the start of a chain, at least 0.
        fall: Nats by which the threshold falls for each unit of log(1 + tokens / 4000), at least 0.
        window: How many probes are recent, at least 1.
        far: Tokens between probes while nothing is promising, at least 1.
        near: Tokens between probes once an answer is promising, at least 1.
        promising: Nats of evidence that make an answer promising.
        spacing: Share of the position that lies at least between two boundaries that are asked while nothing is
            promising, in [0, 1].
        hold: Tokens for which all probes must repeat an answer in a chain without boundaries; `None` for never.
        give_up: Share of the cap after which an open chain ends, in (0, 1]; `None` never gives up.
        cap: Most tokens that a chain may have, at least 1; `None` where whoever starts a chain says it. Read by
            `give_up` alone.

    Raises:
        ConfigurationError: An option outside its range.
    """

    threshold: float = 8.25
    carry: float = 0.4
    apart: float = 150.0
    support: float = 2.25
    least: float = 2.4
    caution: float = 3.0
    fall: float = 2.0
    window: int = 12
    far: int = 512
    near: int = 128
    promising: float = 3.0
    spacing: float = 0.05
    hold: int | None = 3000
    give_up: float | None = None
    cap: int | None = None

    def __post_init__(self) -> None:
        for name in ("window", "far", "near"):
            check_count(name, getattr(self, name))
        for name in ("hold", "cap"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        check_probability("carry", self.carry)
        check_probability("spacing", self.spacing)
        for name in _AMOUNTS:
            check_finite(name, getattr(self, name))
            if getattr(self, name) < 0 or (name == "apart" and self.apart == 0):
                raise ConfigurationError(
                    f"Got {name} = {getattr(self, name)!r} but expected a positive number."
                )
        if self.give_up is not None and not 0 < self.give_up <= 1:
            raise ConfigurationError(
                f"Got give_up = {self.give_up!r} but expected a share in (0, 1] or None."
            )


class EvidenceState:
    """What is known of one chain.

    Args:
        settings: How evidence counts.
        cap: Most tokens that the chain may have, where the settings do not say it.
    """

    def __init__(self, settings: EvidenceSettings, cap: int | None = None) -> None:
        self._settings = settings
        cap = settings.cap if settings.cap is not None else cap
        is_bounded = settings.give_up is not None and cap is not None
        self._give_up_at = (settings.give_up or 0.0) * (cap or 0) if is_bounded else math.inf
        self._next_at = settings.far // 2
        self._probes: deque[Hashable | None] = deque(maxlen=settings.window)
        self._held_since = 0
        self._newest: DepthReading | None = None
        self._evidence = 0.0
        self._last_boundary: int | None = None
        self._last_spoken: int | None = None
        self._is_blank = False

    def wants(self, place: DepthPlace) -> bool:
        """Whether the chain is to be asked here. Changes nothing."""
        if self._is_late(place):
            return True
        if not place.is_boundary:
            return place.position >= self._next_at
        if self._last_boundary is None or self._is_promising:
            return True
        return place.position - self._last_boundary >= self._settings.spacing * place.position

    def observe(self, reading: DepthReading) -> DepthVerdict:
        """Take in an answer, and decide."""
        if reading.place.is_boundary:
            self._take_boundary(reading)
        else:
            self._take_probe(reading)
        self._schedule(reading.place)
        verdict = self._judge(reading.place)
        if verdict.is_stop:
            return verdict
        if not reading.place.is_boundary and self._is_held(reading):
            held = reading.place.position - self._held_since
            return _stop(reading, f"{reading.answer!r} held {held} tokens", verdict.evidence)
        if reading.key is not None and self._is_late(reading.place):
            return _stop(reading, f"still open at {reading.place.position} tokens", verdict.evidence)
        return verdict

    @property
    def _is_promising(self) -> bool:
        return self._newest is not None and self._evidence > self._settings.promising

    def _is_late(self, place: DepthPlace) -> bool:
        # A blank answer at the last boundary is one too long for the probe, not a chain that is lost.
        return place.position >= self._give_up_at and self._last_boundary is not None and not self._is_blank

    def _take_boundary(self, reading: DepthReading) -> None:
        position, newest = reading.place.position, self._newest
        self._last_boundary, self._is_blank = position, reading.key is None
        if reading.key is None:
            self._newest, self._evidence = None, 0.0
            return
        brought = measure(reading.confidence)
        if newest is not None and newest.key == reading.key:
            earned = 1.0 - math.exp(-(position - newest.place.position) / self._settings.apart)
            brought += self._settings.carry * earned * self._evidence
        self._newest, self._evidence, self._last_spoken = reading, brought, position

    def _take_probe(self, reading: DepthReading) -> None:
        if not self._probes or reading.key is None or self._probes[-1] != reading.key:
            self._held_since = reading.place.position
        self._probes.append(reading.key)

    def _schedule(self, place: DepthPlace) -> None:
        settings = self._settings
        if not place.is_boundary:
            self._next_at = place.position + (settings.near if self._is_promising else settings.far)
        elif self._is_promising:
            self._next_at = min(self._next_at, place.position + 1)

    def _judge(self, place: DepthPlace) -> DepthVerdict:
        settings, newest = self._settings, self._newest
        if newest is None:
            return GO_ON
        num_same = sum(key == newest.key for key in self._probes)
        evidence = self._evidence + settings.support * math.log1p(num_same)
        threshold = settings.threshold + settings.caution * math.exp(-place.position / CAUTION_SPAN)
        threshold -= settings.fall * math.log1p(place.position / FALL_SPAN)
        if evidence <= threshold or measure(newest.confidence) <= settings.least:
            return DepthVerdict(is_stop=False, evidence=evidence)
        words = f"evidence {evidence:.1f} > {threshold:.1f} for {newest.answer!r}, {num_same} probes agree"
        return _stop(newest, words, evidence)

    def _is_held(self, reading: DepthReading) -> bool:
        """Whether the probes, alone for long, have repeated one answer for long."""
        position, hold = reading.place.position, self._settings.hold
        is_silent = self._last_spoken is None or position - self._last_spoken > SILENCE * position
        if hold is None or reading.key is None or not is_silent:
            return False
        return position - self._held_since >= max(hold, HELD_SHARE * self._held_since)


def _stop(reading: DepthReading, words: str, evidence: float | None) -> DepthVerdict:
    return DepthVerdict(is_stop=True, reading=reading, explanation=words, evidence=evidence)


def measure(confidence: float | None) -> float:
    """Evidence of one answer: the surprise, in nats, were it wrong. Nothing is known of an answer without a confidence.

    Examples:
        >>> round(measure(0.995), 1), measure(0.0), measure(None), round(measure(1.0), 1)
        (5.3, -0.0, -0.0, 11.5)
    """
    return -math.log(max(SMALLEST_DOUBT, 1.0 - (confidence or 0.0)))
