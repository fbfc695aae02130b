"""Reads trace files of any known kind, and says which kind they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from hf_dynasor.errors import InputError
from hf_dynasor.evaluation.questions import BrokenLine
from hf_dynasor.evaluation.trace_files import name_stem
from hf_dynasor.evaluation.traces.depth import find_run, read_run
from hf_dynasor.evaluation.traces.fields import Row, keep_readable, read_rows
from hf_dynasor.evaluation.traces.records import (
    DepthTrace,
    Trace,
    TraceKind,
    TraceSet,
    WidthDepthTrace,
)
from hf_dynasor.evaluation.traces.width import check_same_interval, read_samples, read_width_depth


def read_traces(paths: Sequence[str | Path], *, cap: int | None = None) -> TraceSet:
    """Read trace files as one set. A `boundary_`, `probed_` or `text_` file brings the others of its run.

    Args:
        paths: Files of one kind, compressed with gzip where their name ends in `.gz`. A run that several of them
            belong to is read once. Questions that several files have are told apart by the file's name in their id.
        cap: Most tokens that each recorded chain was allowed, for single chains; `None` reads it off those that
            were cut off.

    Returns:
        The traces, their kind, and the lines that could not be read and are left out.

    Raises:
        InputError: There is no file, one cannot be read at all, the files are of different kinds, or a cap is named
            for others than single chains.
    """
    broken: list[BrokenLine] = []
    if not paths:
        raise InputError("Got no trace file but expected at least one.")
    found: dict[tuple[Path, str], tuple[TraceKind, list[Trace]]] = {}
    for path in map(Path, paths):
        run = find_run(path) or (path.parent, name_stem(path))
        if run in found:
            continue
        found[run] = _read_file(path, cap, broken)
    kinds = sorted({kind for kind, _ in found.values()})
    if len(kinds) > 1:
        raise InputError(f"Got traces of kinds {', '.join(kinds)} but expected one kind. Replay them apart.")
    check_same_interval([t for _, traces in found.values() for t in traces if isinstance(t, WidthDepthTrace)])
    return TraceSet(
        kind=kinds[0],
        traces=tuple(_name_apart([(run, traces) for (_, run), (_, traces) in found.items()])),
        sources=tuple(run for _, run in found),
        broken_lines=tuple(broken),
    )


def _read_file(path: Path, cap: int | None, broken: list[BrokenLine]) -> tuple[TraceKind, list[Trace]]:
    if (run := find_run(path)) is not None:
        if not path.is_file():
            raise InputError(f"Cannot read {path}: there is no such file.")
        return "depth", list(read_run(*run, cap=cap, broken=broken))
    rows = read_rows(path, broken)
    known: dict[str, tuple[TraceKind, Callable[[Row], Trace]]] = {
        "branches": ("width_depth", read_width_depth),
        "samples": ("samples", read_samples),
    }
    field = next((name for name in known if any(name in row.fields for row in rows[:3])), None)
    if field is None:
        raise _unknown_kind(path, rows[0])
    if cap is not None:
        raise InputError(
            f"Got {cap = } for {path.name}, which has no single chains of thought. Leave it out."
        )
    kind, read = known[field]
    traces = keep_readable(rows, read, broken)
    if not traces:
        raise InputError(
            f"{path} holds no trace that can be read ({len(broken)} broken lines; first: {broken[0]})."
        )
    return kind, traces


def _unknown_kind(path: Path, row: Row) -> InputError:
    fields = ", ".join(sorted(row.fields)) or "nothing"
    return InputError(
        f"{path.name} is no known trace: its first line has {fields}. Expected `branches` (chains probed on the "
        "way), `samples` (finished samples), or a file named boundary_RUN, probed_RUN or text_RUN .jsonl."
    )


def _name_apart(runs: Sequence[tuple[str, list[Trace]]]) -> list[Trace]:
    """All traces; where several runs have a question, its id names the run."""
    counts = Counter(trace.id for _, traces in runs for trace in traces)
    named = [
        _rename(trace, f"{run}/{trace.id}") if counts[trace.id] > 1 else trace
        for run, traces in runs
        for trace in traces
    ]
    repeated = [id for id, count in Counter(trace.id for trace in named).items() if count > 1]
    if repeated:
        raise InputError(f"Question {repeated[0]!r} stands twice in its file. Expected every question once.")
    return named


def _rename(trace: Trace, id: str) -> Trace:
    # Spelt out because `replace` must know which kind it copies.
    if isinstance(trace, DepthTrace):
        return replace(trace, id=id)
    if isinstance(trace, WidthDepthTrace):
        return replace(trace, id=id)
    return replace(trace, id=id)
