"""The two pictures of `traces.py`: what depth policies lose for what they save, and what joint policies spend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

Points = Mapping[str, Sequence[tuple[float, float]]]


def draw_depth(runs: Mapping[str, Points], folder: Path) -> None:
    """One panel a run: points of accuracy gained against the percentage of net tokens saved."""
    figure = Figure(figsize=(5 * len(runs), 4), layout="constrained")
    for axes, (run, points) in zip(figure.subplots(1, len(runs), sharey=True), runs.items(), strict=True):
        for name, path in points.items():
            saved, gained = zip(*path, strict=True)
            if name.startswith("oracle"):
                axes.axvline(saved[0], ls=":", color="grey", label=name)
            elif len(path) == 1:
                axes.plot(saved, gained, "k*", ms=11, label=name, zorder=3)
            else:
                axes.plot(saved, gained, "o-", ms=3, label=name)
        axes.axhline(-0.5, lw=0.6, ls="--", color="grey")
        axes.set(title=run, xlabel="net tokens saved, %", ylabel="points gained", xlim=(-5, 90), ylim=(-8, 2))
        axes.legend(fontsize=7, loc="lower left")
    figure.savefig(folder / "traces_depth.png", dpi=110)


def draw_width(table: Mapping[str, Mapping[str, float]], folder: Path) -> None:
    """Every joint policy by its shares of the full width's total and sequential tokens, with its accuracy."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, row in table.items():
        place = (row["total_share"], row["sequential_share"])
        is_ours = name.startswith("settled")
        axes.plot(*place, "k*" if is_ours else "o", ms=9 if is_ours else 5)
        axes.annotate(f"  {name}: {row['accuracy']:.1f}%", place, fontsize=7, rotation=20)
    axes.axvline(0.35, lw=0.6, ls="--", color="grey")
    axes.axhline(0.65, lw=0.6, ls="--", color="grey")
    axes.set(xlabel="share of SC@64's tokens", ylabel="share of SC@64's sequential tokens", yscale="log")
    axes.set(xlim=(0, 1.3), ylim=(0.15, 15))
    axes.set_yticks([0.2, 0.5, 1, 2, 5, 10], ["0.2", "0.5", "1", "2", "5", "10"], minor=False)
    axes.minorticks_off()
    figure.savefig(folder / "traces_width.png", dpi=110)
