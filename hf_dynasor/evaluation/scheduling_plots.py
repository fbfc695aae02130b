"""Pictures of scheduling studies, in the manner of the paper's figures 9 to 11 and 14; needs matplotlib (extra `eval`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_dynasor.errors import MissingExtraError

SIZE, DPI = (6.0, 4.0), 120


def plot_figures(row: Mapping[str, Any], folder: str | Path) -> list[Path]:
    """Draw what `benchmarks/scheduling.py figures` measured.

    Args:
        row: Its JSON line.
        folder: Where the pictures go; made if it is not there.

    Returns:
        The pictures.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    return [
        _draw_curves(
            row["attainment_by_rate"], "programs a second", "deadlines met", target / "attainment_by_rate.png"
        ),
        _draw_curves(
            _without_rate(row["attainment_by_scale"]),
            f"SLO scale, at {row['attainment_by_scale']['rate']:g} programs a second",
            "deadlines met",
            target / "attainment_by_scale.png",
        ),
        _draw_points(row["accuracy_by_attainment"], target / "accuracy_by_attainment.png"),
        _draw_bars(
            _without_rate(row["mean_latency"]),
            f"mean latency, s, at {row['mean_latency']['rate']:g} programs a second",
            target / "mean_latency.png",
        ),
        _draw_bars(
            row["sustained_rate"],
            f"programs a second with 90% of deadlines met at scale {row['slo_scale']:g}",
            target / "sustained_rate.png",
        ),
        _draw_curves(
            _without_rate(row["fairness"]),
            "quantile of programs",
            "latency for each token, s",
            target / "fairness.png",
        ),
    ]


def _without_rate(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "rate"}


def _draw_curves(curves: Mapping[str, Mapping[str, float]], x: str, y: str, path: Path) -> Path:
    figure, axes = _start(x, y)
    for number, (name, curve) in enumerate(curves.items()):
        places = [float(place.lstrip("p")) for place in curve]
        axes.plot(places, list(curve.values()), "os^vDP"[number % 6] + "-", markersize=4, label=name)
    if y == "deadlines met":
        axes.axhline(0.9, color="grey", linewidth=0.8, linestyle=":")
    axes.legend(fontsize=7)
    return _save(figure, path)


def _draw_points(curves: Mapping[str, Any], path: Path) -> Path:
    figure, axes = _start(f"deadlines met, at {curves['rate']:g} programs a second", "accuracy")
    for name, points in _without_rate(curves).items():
        places = [point["attainment"] for point in points]
        axes.plot(places, [point["accuracy"] for point in points], "o-", markersize=4, label=name)
        for point in points:
            axes.annotate(str(point["budget"]), (point["attainment"], point["accuracy"]), fontsize=7)
    axes.legend(fontsize=7)
    return _save(figure, path)


def _draw_bars(values: Mapping[str, float | None], x: str, path: Path) -> Path:
    figure, axes = _start(x, "")
    names = list(values)[::-1]
    axes.barh(names, [values[name] or 0.0 for name in names], color="C0")
    for place, name in enumerate(names):
        axes.text(values[name] or 0.0, place, f" {values[name] or 0.0:.3g}", va="center", fontsize=8)
    return _save(figure, path)


def _start(x: str, y: str) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError(
            "Pictures need matplotlib, which is not installed. Run: pip install 'hf-dynasor[eval]'"
        ) from None
    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    return figure, axes


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path)
    return path


__all__ = ["plot_figures"]
