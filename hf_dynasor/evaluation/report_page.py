"""Writes a report: one page of HTML that needs nothing else, a Markdown table, and the same figures as JSON.

Questions and answers come from data sets and models, so everything is escaped by the template, and the page forbids
itself to load or run anything (Content-Security-Policy).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_dynasor.errors import MissingExtraError
from hf_dynasor.evaluation import report_figures as figures
from hf_dynasor.evaluation.report_data import Group, ReportData, Row
from hf_dynasor.evaluation.report_settings import Outcome
from hf_dynasor.evaluation.report_statistics import Comparison, Ratio

TEMPLATES = Path(__file__).with_name("report_templates")

MAX_ANSWERS = 3
"""Different answers that a cell of the drill-down shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture in a page.

    Args:
        source: A `data:` address.
        description: What it shows, for those who do not see it; stands below it too.
    """

    source: str
    description: str


def render_html(
    data: ReportData, *, title: str, command: str = "", max_questions: int = 500, has_pictures: bool = True
) -> str:
    """The page.

    Args:
        data: What it shows.
        title: Its heading.
        command: What made it, shown so that it can be made again.
        max_questions: Most questions in a drill-down.
        has_pictures: Whether pictures are drawn (matplotlib).

    Raises:
        MissingExtraError: jinja2, or matplotlib where there are pictures, is not there.
    """
    return _render(
        "page.html",
        data=data,
        title=title,
        command=command,
        pictures=[draw_pictures(group) if has_pictures else {} for group in data.groups],
        drills=[list(list_drills(group, max_questions)) for group in data.groups],
        max_questions=max_questions,
    )


def render_markdown(data: ReportData, *, title: str, command: str = "") -> str:
    """The tables, as Markdown."""
    return _render("table.md", data=data, title=title, command=command)


def render_json(data: ReportData) -> str:
    """The figures of every row, one object."""
    rows = [describe_row(row) for group in data.groups for row in group.rows]
    return json.dumps({"schema": "hf_dynasor.report/1", "rows": rows, "notes": list(data.notes)}) + "\n"


def describe_row(row: Row) -> dict[str, Any]:
    """A row's figures, ready for JSON; shares, not percent."""
    key, summary = row.setting.key, row.summary
    described: dict[str, Any] = {name: getattr(key, name) for name in key.__slots__}
    described |= {name: getattr(summary, name) for name in summary.__slots__}
    described |= {"cost_of_1000": row.cost, "source": row.setting.source}
    for name, comparison in (("against_even", row.against_even), ("at_equal_accuracy", row.at_equal)):
        described[name] = None if comparison is None else _describe(comparison)
    rounded: dict[str, Any] = _round(described)
    return rounded


def draw_pictures(group: Group) -> dict[str, Picture]:
    """Every picture of a group, by a name of its own."""
    evens = _collect(row for row in group.rows if row.setting.key.policy == "even")
    where = f"{group.model}, {group.dataset}"
    drawn = {
        "programs": _embed(
            figures.draw_frontier(evens, title=f"{where}: every program, even budgets"),
            "Accuracy against net tokens for a question, each program at its even budgets, with 95% intervals.",
        )
    }
    for program in dict.fromkeys(row.setting.key.program for row in group.rows):
        rows = [row for row in group.rows if row.setting.key.program == program]
        if len({row.name for row in rows}) > 1:
            drawn[f"policies of {program}"] = _embed(
                figures.draw_frontier(_collect(rows), title=f"{where}: policies of {program}"),
                f"Accuracy against net tokens for a question, {program} under each policy, with 95% intervals.",
            )
    return drawn | _draw_savings(group) | _draw_readings(group)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """Question by question: a program's settings at their largest budgets side by side.

    Args:
        program: Whose.
        names: Of the settings.
        num_left_out: Questions beyond the most that are shown.
        rows: A question's id, its text, and a cell for each setting.
    """

    program: str
    names: tuple[str, ...]
    num_left_out: int
    rows: tuple[tuple[str, Any, tuple[Mapping[str, Any] | None, ...]], ...]


def list_drills(group: Group, max_questions: int) -> Iterable[Drill]:
    """One for each program of a group."""
    for program in dict.fromkeys(row.setting.key.program for row in group.last_rows):
        rows = [row for row in group.last_rows if row.setting.key.program == program]
        tables = [_group_outcomes(row.setting.outcomes) for row in rows]
        ids = list(dict.fromkeys(id for table in tables for id in table))
        yield Drill(
            program=program,
            names=tuple(f"{row.name}, {row.setting.key.budget} {row.setting.key.unit}" for row in rows),
            num_left_out=max(0, len(ids) - max_questions),
            rows=tuple(
                (id, group.texts.get(id), tuple(_describe_cell(table.get(id)) for table in tables))
                for id in ids[:max_questions]
            ),
        )


def _describe_cell(outcomes: Sequence[Outcome] | None) -> Mapping[str, Any] | None:
    if not outcomes:
        return None
    answers = list(dict.fromkeys(item.error or item.answer for item in outcomes if item.error or item.answer))
    return {
        "num_right": sum(item.is_right for item in outcomes),
        "num": len(outcomes),
        "tokens": sum(item.net_tokens for item in outcomes) / len(outcomes),
        "answers": answers[:MAX_ANSWERS],
        "why": outcomes[0].why,
        "is_early": any(item.is_early for item in outcomes),
    }


def _group_outcomes(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    groups: dict[str, list[Outcome]] = {}
    for item in outcomes:
        groups.setdefault(item.id, []).append(item)
    return groups


def _collect(rows: Iterable[Row]) -> dict[str, list[tuple[Any, Any]]]:
    lines: dict[str, list[tuple[Any, Any]]] = {}
    for row in rows:
        lines.setdefault(row.name, []).append((row.setting, row.summary))
    return lines


def _draw_savings(group: Group) -> dict[str, Picture]:
    compared = [
        (row.name, row.against_even.tokens) for row in group.last_rows if row.against_even is not None
    ]
    if not compared:
        return {}
    bars = [(name, 100 * share.saved, 100 * share.low, 100 * share.high) for name, share in compared]
    svg = figures.draw_bars(bars, x_label="net tokens saved against the same even budget, %", title="")
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


def _render(template: str, **values: Any) -> str:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise MissingExtraError("Reports need jinja2: pip install 'hf-dynasor[eval]'.") from None
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=template.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    return environment.get_template(template).render(**values)


def _show_interval(pair: tuple[float, float] | None, scale: float = 100, digits: int = 1) -> str:
    return "" if pair is None else f"{scale * pair[0]:,.{digits}f} to {scale * pair[1]:,.{digits}f}"


def _show_difference(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    paired = comparison.difference
    return f"{100 * paired.mean:+.2f} ({100 * paired.low:+.2f} to {100 * paired.high:+.2f})"


def _show_saving(ratio: Ratio | None) -> str:
    return (
        "" if ratio is None else f"{100 * ratio.saved:.1f}% ({100 * ratio.low:.1f} to {100 * ratio.high:.1f})"
    )


def _show_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1, default=str)


def _escape_cell(value: object) -> str:
    """For a cell of a Markdown table: what would end it, or begin a tag or a link, is written plainly."""
    text = re.sub(r"([\\`*{}\[\]<>|#~$])", r"\\\1", " ".join(str(value).split()))
    return text if len(text) <= 200 else text[:199] + "…"


def _make_slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


FILTERS: Mapping[str, Callable[..., Any]] = {
    "interval": _show_interval,
    "difference": _show_difference,
    "saving": _show_saving,
    "pretty": _show_json,
    "cell": _escape_cell,
    "slug": _make_slug,
}


def _describe(comparison: Comparison) -> dict[str, Any]:
    paired, tokens = comparison.difference, comparison.tokens
    return {
        "base_budget": comparison.base_budget,
        "num_questions": comparison.num_questions,
        "difference": paired.mean,
        "difference_interval": [paired.low, paired.high],
        "saved": tokens.saved,
        "saved_interval": [tokens.low, tokens.high],
        "lost": comparison.lost,
    }


def _round(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return {name: _round(item) for name, item in value.items()}
    return [_round(item) for item in value] if isinstance(value, list | tuple) else value


__all__ = [
    "Drill",
    "Picture",
    "describe_row",
    "draw_pictures",
    "list_drills",
    "render_html",
    "render_json",
    "render_markdown",
]
