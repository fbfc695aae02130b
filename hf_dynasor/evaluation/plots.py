"""Pictures of sweeps and signals, in the paper's manner; needs matplotlib (the extra `eval`)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from hf_dynasor.errors import InputError, MissingExtraError
from hf_dynasor.evaluation.fitting import collect_readings
from hf_dynasor.evaluation.policy_specs import PolicySpec
from hf_dynasor.evaluation.prefixes import Prefixes
from hf_dynasor.evaluation.replayed import ReplaySummary
from hf_dynasor.evaluation.signals_compared import SignalReadings, compare_signals
from hf_dynasor.evaluation.sweep import SweepRow
from hf_dynasor.scheduler import fit_curve

THRESHOLDS = tuple(step / 20 for step in range(20))
SIZE, DPI = (6.4, 4.4), 130


def plot_frontier(rows: Sequence[SweepRow], path: str | Path, *, title: str = "") -> None:
    """Accuracy against net tokens for each policy, one point a budget, with 95% intervals over questions.

    Args:
        rows: From `sweep`.
        path: Picture to write; its suffix says of which kind.
        title: Above the picture.
    """
    figure, axes = _start("net tokens of a replay", "accuracy, %", title)
    ordered = sorted(rows, key=lambda row: row.policy)
    for number, (policy, group) in enumerate(groupby(ordered, key=lambda row: row.policy)):
        points = sorted(group, key=lambda row: row.summary.net_tokens)
        middles = [100 * row.summary.accuracy for row in points]
        lows = [max(0.0, y - 100 * row.accuracy_interval[0]) for y, row in zip(middles, points, strict=True)]
        highs = [max(0.0, 100 * row.accuracy_interval[1] - y) for y, row in zip(middles, points, strict=True)]
        tokens = [row.summary.net_tokens for row in points]
        colour = f"C{number % 10}"
        axes.plot(tokens, middles, "os^vD"[number // 10 % 5] + "-", color=colour, markersize=5, label=policy)
        axes.errorbar(tokens, middles, yerr=[lows, highs], fmt="none", color=colour, capsize=2, alpha=0.3)
    axes.legend(fontsize=7)
    _save(figure, path)


def plot_needs(
    runs: Sequence[Prefixes], path: str | Path, *, detect_at: int = 5, signal: str = "entropy"
) -> None:
    """Certaindex at detect @knob against the units that each solved question needs, with its upper envelope."""
    pairs = list(collect_readings(runs, signal=signal, detect_at=detect_at))
    if not pairs:
        raise InputError(f"No solved question has a reading of {signal} at {detect_at}: nothing to draw.")
    unit = runs[0].knob.unit
    figure, axes = _start(f"{signal} certaindex at {detect_at} {unit}", f"{unit} needed", "")
    counts = Counter(pairs)
    areas = [15 * math.sqrt(count) for count in counts.values()]
    axes.scatter([x for x, _ in counts], [y for _, y in counts], s=areas, alpha=0.5, label="solved questions")
    for coverage, style in ((1.0, "-"), (0.95, "--")):
        points = fit_curve(pairs, coverage=coverage)
        xs, ys = [0.0, *(x for x, _ in points), 1.0], [points[0][1], *(y for _, y in points), points[-1][1]]
        axes.step(xs, ys, style, where="pre", color="tab:red", label=f"curve that covers {coverage:.0%}")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7, loc="upper right", markerscale=0.5)
    _save(figure, path)


def plot_thresholds(
    try_out: Callable[[PolicySpec], ReplaySummary],
    path: str | Path,
    *,
    detect_at: int = 5,
    signal: str = "entropy",
) -> None:
    """What each static threshold costs and saves: accuracy and net tokens against the threshold.

    Args:
        try_out: Replays a policy on the questions.
        path, detect_at, signal: As above.
    """
    figure, axes = _start(f"threshold on {signal} at detect @knob {detect_at}", "accuracy, %", "")
    summaries = [try_out(_make_threshold(limit, detect_at, signal)) for limit in THRESHOLDS]
    shares = [100 * item.net_tokens / item.baseline_tokens for item in summaries]
    axes.plot(THRESHOLDS, [100 * item.accuracy for item in summaries], "o-", markersize=4, label="accuracy")
    axes.axhline(
        100 * summaries[0].baseline_accuracy,
        color="tab:blue",
        linestyle=":",
        label="accuracy of the full budget",
    )
    right = axes.twinx()
    right.plot(THRESHOLDS, shares, "s--", markersize=4, color="tab:orange", label="net tokens (right)")
    right.set_ylabel("net tokens, % of the full budget")
    right.set_ylim(0, 105)
    lines = [*axes.get_lines(), *right.get_lines()]
    axes.legend(lines, [line.get_label() for line in lines], fontsize=7, loc="best")
    _save(figure, path)


def plot_signals(runs: Sequence[Prefixes], path: str | Path, *, detect_at: int = 5) -> None:
    """How strongly each signal goes with the units that a question needs: absolute correlations."""
    compared = compare_signals(runs, detect_at=detect_at)
    figure, axes = _start(
        f"signal at {detect_at} samples", "absolute correlation with the samples needed", ""
    )
    places = range(len(compared))
    for offset, name in ((-0.2, "pearson"), (0.2, "kendall")):
        heights = [abs(getattr(readings, name) or 0.0) for readings in compared]
        axes.bar([place + offset for place in places], heights, width=0.38, label=name.capitalize())
    axes.set_xticks(list(places), [_name_signal(readings) for readings in compared])
    axes.set_ylim(0, 1)
    axes.legend(fontsize=8)
    _save(figure, path)


def _make_threshold(limit: float, detect_at: int, signal: str) -> PolicySpec:
    return PolicySpec(name="static", parameters={"thresholds": {signal: limit}, "detect_at": detect_at})


def _name_signal(readings: SignalReadings) -> str:
    return readings.signal.replace("_", " ")


def _start(x_label: str, y_label: str, title: str) -> tuple[Any, Any]:
    """An empty picture that no window and no global state knows."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("Pictures need matplotlib: pip install 'hf-dynasor[eval]'.") from None
    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    return figure, axes


def _save(figure: Any, path: str | Path) -> None:
    try:
        figure.savefig(path)
    except OSError as error:
        raise InputError(
            f"Cannot write {path}: {error.strerror}. Choose a file in a folder that exists."
        ) from None
    except ValueError as error:
        raise InputError(
            f"Cannot write {path}: {error}. Choose a name that ends in .png, .svg or .pdf."
        ) from None
