"""How well each signal at detect @knob tells the units that a question needs (paper §3, figures 3 to 5)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from hf_dynasor.certaindex import SIGNAL_NAMES
from hf_dynasor.errors import InputError
from hf_dynasor.evaluation.fitting import count_needed
from hf_dynasor.evaluation.prefixes import Prefixes


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalReadings:
    """One signal over questions.

    Args:
        signal: A signal of certaindex, or `length`: mean tokens of the paths so far.
        values: What it read, question by question.
        needed: Units from which on the question's vote is right.
        pearson, kendall: Their correlations; `None` where either never varies. A good signal of certainty is
            strongly negative, a good signal of difficulty strongly positive.
    """

    signal: str
    values: tuple[float, ...]
    needed: tuple[int, ...]
    pearson: float | None
    kendall: float | None


def compare_signals(runs: Sequence[Prefixes], *, detect_at: int = 5) -> list[SignalReadings]:
    """Every signal that the programs know, over the questions that the full budget solves.

    Raises:
        InputError: The full budget solves fewer than two questions.
    """
    solved = [(run, needed) for run in runs if (needed := count_needed(run)) is not None]
    if len(solved) < 2:
        raise InputError(f"Got {len(solved)} solved questions but expected at least 2 to compare signals on.")
    found = [_collect(signal, solved, detect_at) for signal in (*SIGNAL_NAMES, "length")]
    return [readings for readings in found if readings is not None]


def kendall(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's tau-b, which allows for ties; `None` where either never varies.

    Examples:
        >>> kendall([1, 2, 3], [1, 2, 3]), kendall([1, 2, 3], [3, 2, 1]), kendall([1, 1], [1, 2])
        (1.0, -1.0, None)
    """
    agreeing, first_pairs, second_pairs = 0, 0, 0
    pairs = list(zip(first, second, strict=True))
    for index, (one, other) in enumerate(pairs):
        for another, yet_another in pairs[:index]:
            rise, other_rise = (
                (one > another) - (one < another),
                (other > yet_another) - (other < yet_another),
            )
            agreeing += rise * other_rise
            first_pairs += rise != 0
            second_pairs += other_rise != 0
    if not first_pairs or not second_pairs:
        return None
    return float(agreeing / (first_pairs * second_pairs) ** 0.5)


def _collect(signal: str, solved: Sequence[tuple[Prefixes, int]], detect_at: int) -> SignalReadings | None:
    pairs = [
        (value, needed) for run, needed in solved if (value := _read(run, signal, detect_at)) is not None
    ]
    if len(pairs) < 2:
        return None
    values, steps = tuple(value for value, _ in pairs), tuple(needed for _, needed in pairs)
    return SignalReadings(
        signal=signal,
        values=values,
        needed=steps,
        pearson=_pearson(values, steps),
        kendall=kendall(values, steps),
    )


def _read(run: Prefixes, signal: str, detect_at: int) -> float | None:
    total = min(detect_at, run.knob.maximum)
    if signal == "length":
        return run.count_net_tokens(total) / total
    return run.read(total).signals.get(signal)


def _pearson(first: Sequence[float], second: Sequence[float]) -> float | None:
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return statistics.correlation(first, second)
