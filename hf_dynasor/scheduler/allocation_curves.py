"""Curves: from a reading of certaindex to the units that a program with this reading may need (paper §3).

A curve is a list of points (reading, units), readings rising and units falling: a program that reads at most the
first point's value needs its units, and so on. It is fitted on questions that the full budget solves, as the upper
envelope of what they needed.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from hf_dynasor.certaindex import SIGNAL_NAMES, Certaindex
from hf_dynasor.errors import ConfigurationError, name_unknown
from hf_dynasor.grants import Decision, GrantRecord, Knob
from hf_dynasor.scheduler.allocation_common import check_units, grant_some, stop_certain

Curve: TypeAlias = tuple[tuple[float, int], ...]
"""Points (reading, units): readings rise strictly, units fall strictly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InitialStepCurve:
    """Read certaindex once, at detect @knob: the curve there gives the whole budget of the program.

    Args:
        points: The curve, see `fit_curve`.
        signal: Which signal is read.
        detect_at: Units of the knob after which it is read.
    """

    points: Curve = ()
    signal: str = "entropy"
    detect_at: int = 5
    name: str = "initial_curve"

    def __post_init__(self) -> None:
        _check_curve(self.name, self.points, self.signal, self.detect_at)

    def allocate(self, knob: Knob, trace: Sequence[GrantRecord]) -> Decision:
        """`detect_at` units at first; then what the curve says is missing, at once."""
        if not trace:
            return grant_some(knob, trace, self.detect_at)
        needed = _read(self.points, self.signal, trace[0].certaindex, knob.maximum)
        if trace[-1].total < min(needed, knob.maximum):
            return Decision(units=min(needed, knob.maximum) - trace[-1].total)
        return _end(knob, trace, self.signal, trace[0], needed)


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicCurve:
    """Read certaindex again and again from detect @knob on; end where the curve asks for no more than was spent.

    Args:
        points, signal, detect_at: As in `InitialStepCurve`.
        every: Units between two readings.
    """

    points: Curve = ()
    signal: str = "entropy"
    detect_at: int = 5
    every: int = 1
    name: str = "dynamic_curve"

    def __post_init__(self) -> None:
        _check_curve(self.name, self.points, self.signal, self.detect_at)
        check_units("every", self.every)

    def allocate(self, knob: Knob, trace: Sequence[GrantRecord]) -> Decision:
        """`detect_at` units at first, then `every` more as long as the curve asks for more."""
        if not trace:
            return grant_some(knob, trace, self.detect_at)
        needed = _read(self.points, self.signal, trace[-1].certaindex, knob.maximum)
        if trace[-1].total < min(needed, knob.maximum):
            return grant_some(knob, trace, self.every)
        return _end(knob, trace, self.signal, trace[-1], needed)


def fit_curve(readings: Iterable[tuple[float, int]], *, coverage: float = 1.0) -> Curve:
    """The monotone upper envelope of what solvable questions needed.

    Args:
        readings: Pairs of a reading in [0, 1] and the units that its question needed in the end.
        coverage: Share of the pairs at or above a reading that its point must cover, in (0, 1]; 1 is the envelope
            of all, and less forgives outliers.

    Returns:
        A curve: units for a reading are enough for that share of the pairs that read as much or more.

    Raises:
        ConfigurationError: There is no pair, or a value out of range.

    Examples:
        >>> fit_curve([(1.0, 5), (1.0, 5), (0.6, 9), (0.4, 20), (0.5, 7)])
        ((0.4, 20), (0.6, 9), (1.0, 5))
    """
    pairs = sorted(readings, reverse=True)
    if not pairs:
        raise ConfigurationError("Got no reading to fit a curve on but expected at least one.")
    if not 0 < coverage <= 1:
        raise ConfigurationError(f"Got {coverage = } but expected a share in (0, 1].")
    points: list[tuple[float, int]] = []
    needed: list[int] = []
    for index, (reading, units) in enumerate(pairs):
        needed.insert(bisect_left(needed, units), units)
        if index + 1 < len(pairs) and pairs[index + 1][0] == reading:
            continue
        covering = needed[math.ceil(coverage * len(needed)) - 1]
        # From high readings to low: only a point that asks for more than all above it says anything new.
        if not points or covering > points[-1][1]:
            points.append((reading, covering))
    return tuple(reversed(points))


def _read(points: Curve, signal: str, certaindex: Certaindex, maximum: int) -> int:
    """Units that a reading asks for; all of them where the signal is not known."""
    value = certaindex.signals.get(signal)
    if value is None:
        return maximum
    place = bisect_left(points, value, key=lambda point: point[0])
    return points[min(place, len(points) - 1)][1]


def _end(knob: Knob, trace: Sequence[GrantRecord], signal: str, record: GrantRecord, needed: int) -> Decision:
    value = record.certaindex.signals.get(signal)
    read = f"{signal} {value:.2f}" if value is not None else f"{signal} not known"
    words = f"{read} at {knob.describe(record.total)} asks for {needed}"
    if trace[-1].total >= knob.maximum:
        return grant_some(knob, trace, 1, words)
    return stop_certain(words)


def _check_curve(name: str, points: Curve, signal: str, detect_at: int) -> None:
    check_units("detect_at", detect_at)
    if signal not in SIGNAL_NAMES:
        raise name_unknown("signal", signal, SIGNAL_NAMES)
    if not points:
        raise ConfigurationError(
            f"Policy {name!r} got no points: a curve is fitted on recorded traces (hf-dynasor replay --fit, or a "
            "policy file)."
        )
    for point in points:
        if len(point) != 2 or not 0 <= point[0] <= 1:
            raise ConfigurationError(f"Got the point {point} but expected (reading in [0, 1], units).")
        check_units("the units of a point", point[1])
    for (low, more), (high, fewer) in pairwise(points):
        if not (low < high and more > fewer):
            raise ConfigurationError(
                f"Got the points {(low, more)} and {(high, fewer)} but expected rising readings with falling units."
            )
