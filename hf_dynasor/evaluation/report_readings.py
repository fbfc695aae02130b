"""Certaindex against steps, from recorded runs: the readings behind a report's version of the paper's figure 3."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hf_dynasor.evaluation.report_replays import ReplayedRun
from hf_dynasor.evaluation.report_steps import Steps

Growth = tuple[int, float, float, float]
"""Units, and the lower quartile, mean and upper quartile of the readings there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """Certaindex of one recorded run.

    Args:
        program, unit, signal, temperature: What was read.
        detect_at: Units after which `needs` were read.
        needs: A reading, and the units from which on the answer is right; over the solved questions.
        growth: By kind of question, along the units.
    """

    program: str
    unit: str
    signal: str
    temperature: float | None
    detect_at: int
    needs: tuple[tuple[float, int], ...]
    growth: Mapping[str, tuple[Growth, ...]]


def list_readings(replayed: Sequence[ReplayedRun]) -> list[Readings]:
    """Of the first recorded seed of each program and temperature; programs with fewer than three stops have none."""
    firsts: dict[tuple[str, object], ReplayedRun] = {}
    for item in replayed:
        if not item.is_in_grants:
            firsts.setdefault((item.run.info.program, item.run.info.settings.get("temperature")), item)
    made = (_make_readings(item) for item in firsts.values())
    return [item for item in made if item is not None]


def count_needed(steps: Steps) -> int | None:
    """Units from which on the answer is right up to the end; `None` where the end is wrong."""
    needed = None
    for total in reversed(steps.totals):
        if not steps.is_right(total):
            break
        needed = total
    return needed


def _make_readings(replayed: ReplayedRun) -> Readings | None:
    steps = [item for _, item in replayed.steps]
    totals = replayed.list_budgets()
    if len(totals) < 3:
        return None
    # Five for samples, as the paper reads them; the first stop after that for programs with coarser ones.
    detect_at = next((total for total in totals if total >= 5), totals[-1])
    info = replayed.run.info
    signal = "reward" if info.program in ("mcts", "best_of_n") else "entropy"
    temperature = info.settings.get("temperature")
    needs = [(_read(item, detect_at, signal), count_needed(item)) for item in steps]
    return Readings(
        program=info.program,
        unit=info.unit,
        signal=signal,
        temperature=temperature if isinstance(temperature, int | float) else None,
        detect_at=detect_at,
        needs=tuple((value, needed) for value, needed in needs if value is not None and needed is not None),
        growth=_follow(steps, totals, signal),
    )


def _follow(steps: Sequence[Steps], totals: Sequence[int], signal: str) -> dict[str, tuple[Growth, ...]]:
    """The readings along the units: of the questions that end right, and of the others."""
    kinds: dict[str, list[Steps]] = {"right at the end": [], "wrong at the end": []}
    for item in steps:
        kinds["right at the end" if item.is_right(totals[-1]) else "wrong at the end"].append(item)
    found = {}
    for name, items in kinds.items():
        points = []
        for total in totals:
            values = [value for item in items if (value := _read(item, total, signal)) is not None]
            if len(values) > 1:
                low, _, high = statistics.quantiles(values, n=4, method="inclusive")
                points.append((total, low, statistics.fmean(values), high))
        if points:
            found[f"{name} ({len(items)} questions)"] = tuple(points)
    return found


def _read(steps: Steps, total: int, signal: str) -> float | None:
    return steps.read(total).signals.get(signal)


__all__ = ["Growth", "Readings", "count_needed", "list_readings"]
