"""Writes a report: one page of HTML that needs nothing else, a Markdown table, and the same figures as JSON.

Questions and answers come from data sets and models, so everything is escaped by the template, and the page forbids
itself to load or run anything (Content-Security-Policy).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_dynasor.errors import MissingExtraError
from hf_dynasor.evaluation.report_data import Group, ReportData, Row
from hf_dynasor.evaluation.report_pictures import draw_pictures
from hf_dynasor.evaluation.report_settings import Outcome
from hf_dynasor.evaluation.report_statistics import Comparison, Ratio
from hf_dynasor.grants import describe_units

TEMPLATES = Path(__file__).with_name("report_templates")

MAX_ANSWERS = 3
"""Different answers that a cell of the drill-down shows."""


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
            names=tuple(
                f"{row.name}, {describe_units(row.setting.key.budget, row.setting.key.unit)}" for row in rows
            ),
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


FILTERS: Mapping[str, Callable[..., Any]] = {
    "interval": _show_interval,
    "difference": _show_difference,
    "saving": _show_saving,
    "pretty": _show_json,
    "cell": _escape_cell,
    "units": describe_units,
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
    "describe_row",
    "list_drills",
    "render_html",
    "render_json",
    "render_markdown",
]
