"""Pictures of a report, as SVG texts that stand in the page itself; needs matplotlib (the extra `eval`)."""

from __future__ import annotations

import io
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hf_dynasor.errors import MissingExtraError
from hf_dynasor.evaluation.report_settings import Setting
from hf_dynasor.evaluation.report_statistics import Summary

SIZE = (7.2, 4.4)
MARKERS = "os^vDPX*<>"
MAX_INTERVALS = 6
"""Intervals that are drawn on one line."""


def draw_frontier(lines: Mapping[str, Sequence[tuple[Setting, Summary]]], *, title: str) -> str:
    """Accuracy against mean net tokens, with 95% intervals both ways; a line joins the budgets of one series.

    Args:
        lines: By what a line is called: its settings with their summaries.
        title: Above the picture.

    Raises:
        MissingExtraError: matplotlib is not there.
    """
    figure, axes = _start("net tokens for a question (log scale)", "accuracy, %", title)
    for number, (name, points) in enumerate(lines.items()):
        ordered = sorted((summary for _, summary in points), key=lambda summary: summary.net_tokens)
        _draw_line(axes, number, name, ordered)
    axes.set_xscale("log")
    _name_ticks(axes)
    axes.legend(fontsize=7, loc="lower right")
    return _to_svg(figure)


def draw_needs(pairs: Sequence[tuple[float, int]], *, signal: str, detect_at: int, unit: str) -> str:
    """Certaindex at a few units against the units that each solved question needs, as in the paper's figure 3."""
    figure, axes = _start(f"{signal} after {detect_at} {unit}", f"{unit} needed", "")
    counts = Counter(pairs)
    areas = [22 * count**0.5 for count in counts.values()]
    axes.scatter([x for x, _ in counts], [y for _, y in counts], s=areas, alpha=0.5, label="solved questions")
    by_value: dict[float, list[int]] = {}
    for value, needed in pairs:
        by_value.setdefault(round(value, 1), []).append(needed)
    means = sorted((value, statistics.fmean(needs)) for value, needs in by_value.items())
    axes.plot(
        [x for x, _ in means], [y for _, y in means], "k--", linewidth=1, label="mean of readings alike"
    )
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7, loc="upper right", markerscale=0.5)
    return _to_svg(figure)


def draw_growth(
    rows: Mapping[str, Sequence[tuple[int, float, float, float]]], *, signal: str, unit: str
) -> str:
    """Mean certaindex against the units spent, with the middle half of the questions as a band.

    Args:
        rows: By kind of question: units, and the lower quartile, mean and upper quartile of the readings there.
        signal, unit: What is drawn.
    """
    figure, axes = _start(f"{unit} spent", signal, "")
    for number, (name, points) in enumerate(rows.items()):
        xs = [units for units, *_ in points]
        axes.plot(
            xs,
            [mean for _, _, mean, _ in points],
            marker=MARKERS[number],
            markersize=4,
            color=f"C{number}",
            label=name,
        )
        axes.fill_between(
            xs,
            [low for _, low, _, _ in points],
            [high for *_, high in points],
            color=f"C{number}",
            alpha=0.15,
            linewidth=0,
        )
    axes.set_ylim(0, 1.03)
    axes.legend(fontsize=7, loc="best")
    return _to_svg(figure)


def draw_bars(
    bars: Sequence[tuple[str, float, float, float]], *, x_label: str, title: str, mark: float | None = None
) -> str:
    """Horizontal bars with their intervals: name, value, low and high, in percent."""
    figure, axes = _start(x_label, "", title, height=max(1.6, 0.34 * len(bars) + 1.1))
    ordered = list(reversed(bars))
    values = [value for _, value, *_ in ordered]
    errors = [
        _clip([value - low for _, value, low, _ in ordered]),
        _clip([high - value for _, value, _, high in ordered]),
    ]
    axes.barh(range(len(ordered)), values, xerr=errors, color="C0", alpha=0.75, capsize=3, height=0.62)
    axes.set_yticks(range(len(ordered)), [name for name, *_ in ordered], fontsize=8)
    axes.axvline(0, color="black", linewidth=0.8)
    if mark is not None:
        axes.axvline(mark, color="tab:red", linestyle=":", linewidth=1)
    return _to_svg(figure)


def _draw_line(axes: Any, number: int, name: str, summaries: Sequence[Summary]) -> None:
    """One series; a line of many points has its intervals at some of them, or nothing could be told apart."""
    colour, marker = f"C{number % 10}", MARKERS[number % len(MARKERS)]
    xs, ys = [item.net_tokens for item in summaries], [100 * item.accuracy for item in summaries]
    axes.plot(xs, ys, marker=marker, color=colour, markersize=4, linewidth=1.2, label=name)
    every = max(1, -(-len(summaries) // MAX_INTERVALS))
    # From the largest budget down, and each series at other places than the one before it.
    shown = [item for place, item in enumerate(reversed(summaries)) if place % every == number % every]
    axes.errorbar(
        [item.net_tokens for item in shown],
        [100 * item.accuracy for item in shown],
        yerr=[
            _clip([100 * (item.accuracy - item.accuracy_interval[0]) for item in shown]),
            _clip([100 * (item.accuracy_interval[1] - item.accuracy) for item in shown]),
        ],
        xerr=_spread(shown),
        fmt="none",
        ecolor=colour,
        alpha=0.45,
        capsize=2,
    )


def _start(x_label: str, y_label: str, title: str, *, height: float = SIZE[1]) -> tuple[Any, Any]:
    """An empty picture that no window and no global state knows."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("Pictures need matplotlib: pip install 'hf-dynasor[eval]'.") from None
    figure = Figure(figsize=(SIZE[0], height), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    # Names come from files: `$` would be read as a formula, and a broken one raises.
    axes.set_title(title.replace("$", r"\$"), fontsize=10)
    axes.grid(alpha=0.3)
    return figure, axes


def _to_svg(figure: Any) -> str:
    """The picture as SVG; the same figures give the same text."""
    import matplotlib

    for axes in figure.axes:
        for text in [*axes.get_yticklabels(), *(axes.get_legend().get_texts() if axes.get_legend() else [])]:
            text.set_parse_math(False)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "hf-dynasor", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _spread(summaries: Sequence[Summary]) -> list[list[float]] | None:
    if any(item.net_tokens_interval is None for item in summaries):
        return None
    pairs = [(item.net_tokens, item.net_tokens_interval or (0.0, 0.0)) for item in summaries]
    return [_clip([x - low for x, (low, _) in pairs]), _clip([high - x for x, (_, high) in pairs])]


def _clip(values: Sequence[float]) -> list[float]:
    return [max(0.0, value) for value in values]


def _name_ticks(axes: Any) -> None:
    """Plain numbers on the logarithmic axis: 60, 100, 200, 1,000 rather than powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    show: Callable[[float, int], str] = lambda value, _: f"{value:,.0f}"  # noqa: E731
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(show))
    axes.xaxis.set_minor_formatter(NullFormatter())


__all__ = ["draw_bars", "draw_frontier", "draw_growth", "draw_needs"]
