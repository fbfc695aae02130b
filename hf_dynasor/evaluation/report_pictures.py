"""Which pictures a report has, and how they stand in the page: as `data:` addresses, with a description each."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass

from hf_dynasor.evaluation import report_figures as figures
from hf_dynasor.evaluation.report_data import Group, Row
from hf_dynasor.evaluation.report_settings import Setting
from hf_dynasor.evaluation.report_statistics import Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture in a page.

    Args:
        source: A `data:` address.
        description: What it shows, for those who do not see it; stands below it too.
    """

    source: str
    description: str


def draw_pictures(group: Group) -> dict[str, Picture]:
    """Every picture of a group, by a name of its own."""
    evens = [row for row in group.rows if row.setting.key.policy == "even"]
    where = f"{group.model}, {group.dataset}"
    what = "each program at its even budgets" if evens else "every program and policy"
    drawn = {
        "programs": _embed(
            figures.draw_frontier(_collect(evens or group.rows), title=f"{where}: {what}"),
            f"Accuracy against net tokens for a question, {what}, with 95% intervals.",
        )
    }
    for rows in _group_policies(group):
        key = rows[0].setting.key
        name = key.program if key.temperature is None else f"{key.program}, T = {key.temperature:g}"
        drawn[f"policies of {name}"] = _embed(
            figures.draw_frontier(_collect(rows), title=f"{where}: policies of {name}"),
            f"Accuracy against net tokens for a question, {name}, under each policy, with 95% intervals.",
        )
    return drawn | _draw_savings(group) | _draw_readings(group)


def _group_policies(group: Group) -> list[list[Row]]:
    """The rows of each program and temperature that was tried under more than one policy."""
    groups: dict[tuple[str, float | None], list[Row]] = {}
    for row in group.rows:
        groups.setdefault((row.setting.key.program, row.setting.key.temperature), []).append(row)
    return [rows for rows in groups.values() if len({row.name for row in rows}) > 1]


def _collect(rows: Iterable[Row]) -> dict[str, list[tuple[Setting, Summary]]]:
    """Lines of a plot; where they rest on different numbers of questions, their names say on how many."""
    listed = list(rows)
    is_alike = len({row.summary.num_questions for row in listed}) == 1
    lines: dict[str, list[tuple[Setting, Summary]]] = {}
    for row in listed:
        name = row.name if is_alike else f"{row.name} ({row.summary.num_questions} questions)"
        lines.setdefault(name, []).append((row.setting, row.summary))
    return lines


def _draw_savings(group: Group) -> dict[str, Picture]:
    compared = [
        (row.name, row.against_even.tokens) for row in group.last_rows if row.against_even is not None
    ]
    if not compared:
        return {}
    bars = [(name, 100 * share.saved, 100 * share.low, 100 * share.high) for name, share in compared]
    svg = figures.draw_bars(bars, x_label="net tokens saved, %", title="")
    words = (
        "Net tokens that each policy saves against the same even budget, with 95% intervals; the table tells the "
        "accuracy."
    )
    return {"tokens saved": _embed(svg, words)}


def _draw_readings(group: Group) -> dict[str, Picture]:
    drawn = {}
    for item in group.readings:
        name = f"{item.program}" + ("" if item.temperature is None else f", T = {item.temperature:g}")
        if item.needs:
            svg = figures.draw_needs(item.needs, signal=item.signal, detect_at=item.detect_at, unit=item.unit)
            words = (
                f"{name}: {item.signal} after {item.detect_at} {item.unit} against the {item.unit} that each solved "
                "question needs; a larger dot is more questions."
            )
            drawn[f"needs of {name}"] = _embed(svg, words)
        if item.growth:
            svg = figures.draw_growth(item.growth, signal=item.signal, unit=item.unit)
            words = f"{name}: mean {item.signal} along the {item.unit}, the middle half of the questions as a band."
            drawn[f"certaindex of {name}"] = _embed(svg, words)
    return drawn


def _embed(svg: str, description: str) -> Picture:
    encoded = base64.b64encode(svg.encode()).decode()
    return Picture(source=f"data:image/svg+xml;base64,{encoded}", description=description)


__all__ = ["Picture", "draw_pictures"]
