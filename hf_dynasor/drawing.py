"""Draws what a program generated: a tree of its pieces as SVG, and a page of HTML around it.

Everything is in the one text that comes back: no script, no font, no image from anywhere else. What a model wrote is
escaped, so it is shown and never run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from hf_dynasor.paths import PathRecord

MAX_PIECES = 2000
"""Most pieces that are drawn; the page says how many were left out."""

_COLUMN, _ROW, _MARGIN = 190, 24, 16
_BOX_WIDTH, _BOX_HEIGHT = 166, 18
_MAX_LABEL = 24
_MAX_TOOLTIP = 2000

_STYLE = """\
body { font: 14px/1.5 system-ui, sans-serif; margin: 2em; color: #222; background: #fff; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { padding: 0.2em 0.8em; text-align: right; border-bottom: 1px solid #ddd; }
figure { margin: 1em 0; overflow-x: auto; }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spot:
    """A piece with its place: `depth` columns from the left, `row` rows from the top."""

    piece: PathRecord
    depth: int
    row: float


def draw_svg(paths: Sequence[PathRecord], *, root: str = "question") -> str:
    """The tree of pieces as one SVG element, the prompt at the left, a finished path's end outlined.

    Colour tells the reward (red 0, green 1; grey where it is not known); pointing at a piece shows its text.

    Args:
        paths: The pieces; a parent that is not among them counts as the prompt.
        root: What the box of the prompt says.
    """
    spots = _place(paths[:MAX_PIECES])
    num_rows = max((spot.row for spot in spots), default=0) + 1
    num_columns = max((spot.depth for spot in spots), default=0) + 1
    width, height = 2 * _MARGIN + num_columns * _COLUMN, 2 * _MARGIN + num_rows * _ROW
    places = {spot.piece.request_id: spot for spot in spots}
    tops = [spot.row for spot in spots if spot.depth == 1]
    middle = (tops[0] + tops[-1]) / 2 if tops else 0.0
    edges = [_draw_edge(spot, places.get(spot.piece.parent or ""), middle) for spot in spots]
    boxes = [_draw_piece(spot) for spot in spots]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height:g}" '
            f'viewBox="0 0 {width} {height:g}" font-family="ui-monospace, monospace" font-size="11" role="img">',
            f'<rect width="{width}" height="{height:g}" fill="#ffffff"/>',
            *edges,
            _draw_box(0, middle, root, "#e8e8e8", "#666666", 1, root),
            *boxes,
            "</svg>",
        ]
    )


def draw_page(
    paths: Sequence[PathRecord],
    *,
    title: str,
    header: Sequence[str] = (),
    rows: Sequence[Sequence[str]] = (),
) -> str:
    """A page of HTML with a table and the tree.

    Args:
        paths: The pieces, see `draw_svg`.
        title: Heading of the page.
        header, rows: The table's cells, as texts.
    """
    left_out = max(0, len(paths) - MAX_PIECES)
    note = f"<p>{left_out:,} further pieces are not drawn.</p>\n" if left_out else ""
    table = _draw_table(header, rows) if rows else ""
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f"<style>\n{_STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n{table}"
        f"<figure>\n{draw_svg(paths)}\n</figure>\n{note}</body>\n</html>\n"
    )


def _place(paths: Sequence[PathRecord]) -> list[_Spot]:
    """Every piece's place: leaves below each other, a parent halfway between its first and its last child."""
    known = {path.request_id for path in paths}
    children: dict[str | None, list[PathRecord]] = {}
    for path in paths:
        children.setdefault(path.parent if path.parent in known else None, []).append(path)
    depths: dict[str, int] = {}
    order: list[PathRecord] = []
    stack = [(path, 1) for path in reversed(children.get(None, []))]
    while stack:
        path, depth = stack.pop()
        depths[path.request_id] = depth
        order.append(path)
        stack += [(child, depth + 1) for child in reversed(children.get(path.request_id, []))]
    rows: dict[str, float] = {}
    num_leaves = 0
    for path in order:
        if path.request_id not in children:
            rows[path.request_id] = num_leaves
            num_leaves += 1
    for path in reversed(order):
        below = children.get(path.request_id)
        if below:
            rows[path.request_id] = (rows[below[0].request_id] + rows[below[-1].request_id]) / 2
    return [_Spot(piece=path, depth=depths[path.request_id], row=rows[path.request_id]) for path in order]


def _draw_edge(spot: _Spot, parent: _Spot | None, root_row: float) -> str:
    x, y = _locate(spot.depth, spot.row)
    from_x, from_y = _locate(parent.depth, parent.row) if parent else _locate(0, root_row)
    from_x += _BOX_WIDTH
    bend = (x - from_x) / 2
    return (
        f'<path d="M{from_x:g} {from_y:g} C{from_x + bend:g} {from_y:g} {x - bend:g} {y:g} {x:g} {y:g}" '
        'fill="none" stroke="#bbbbbb"/>'
    )


def _draw_piece(spot: _Spot) -> str:
    piece = spot.piece
    words = " ".join(piece.text.split())
    label = words if len(words) <= _MAX_LABEL else f"{words[: _MAX_LABEL - 1]}…"
    lines = [piece.text[:_MAX_TOOLTIP].strip(), f"{piece.num_tokens} tokens, {piece.finish_reason.value}"]
    lines += [f"reward {piece.reward:.3f}"] if piece.reward is not None else []
    lines += [f"answer {piece.answer}"] if piece.answer is not None else []
    stroke, stroke_width = ("#222222", 1.5) if piece.is_terminal else ("#999999", 0.75)
    return _draw_box(
        spot.depth, spot.row, label, _choose_colour(piece.reward), stroke, stroke_width, "\n".join(lines)
    )


def _draw_box(
    depth: int, row: float, label: str, fill: str, stroke: str, stroke_width: float, tooltip: str
) -> str:
    x, y = _locate(depth, row)
    return (
        f'<g><title>{_show(tooltip)}</title><rect x="{x:g}" y="{y - _BOX_HEIGHT / 2:g}" width="{_BOX_WIDTH}" '
        f'height="{_BOX_HEIGHT}" rx="4" fill="{fill}" stroke="{stroke}" stroke-width="{stroke_width:g}"/>'
        f'<text x="{x + 6:g}" y="{y + 4:g}">{_show(label)}</text></g>'
    )


def _draw_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>\n<tr>{head}</tr>\n{body}\n</table>\n"


def _locate(depth: int, row: float) -> tuple[float, float]:
    return _MARGIN + depth * _COLUMN, _MARGIN + (row + 0.5) * _ROW


def _choose_colour(reward: float | None) -> str:
    return "#f2f2f2" if reward is None else f"hsl({120 * reward:.0f}, 65%, 84%)"


def _show(text: str) -> str:
    """Escaped, and without the control characters that XML cannot hold."""
    return escape(
        "".join(
            char if char >= " " or char in "\t\n" else "\ufffd" for char in text if char not in "\ufffe\uffff"
        )
    )
