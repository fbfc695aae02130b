"""Opens trace files of any kind as one set; what can be done with them stands in `hf_dynasor.evaluation.trace_sets`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from hf_dynasor.errors import ConfigurationError, InputError
from hf_dynasor.evaluation.questions import BrokenLine
from hf_dynasor.evaluation.records import ProgramTrace, read_lines, read_program_traces
from hf_dynasor.evaluation.traces import TraceSet, read_traces

SetKind = Literal["program", "samples", "depth", "width_depth"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTraces:
    """Traces of one kind from one or several files.

    Args:
        kind: See the table above.
        programs: Recorded programs, of kind `program`.
        recorded: Traces of the other kinds.
        broken_lines: Lines that were left out.
    """

    kind: SetKind
    programs: tuple[ProgramTrace, ...] = ()
    recorded: TraceSet | None = None
    broken_lines: tuple[BrokenLine, ...] = ()

    @property
    def program(self) -> str:
        """Name of the program that was recorded."""
        if self.kind == "program":
            return self.programs[0].program
        return {"samples": "self_consistency", "depth": "chain_of_thought"}.get(self.kind, "parallel_chains")


def open_traces(paths: Sequence[str | Path], *, cap: int | None = None) -> OpenTraces:
    """Read files of one kind as one set.

    Args:
        paths: The files; compressed with gzip where their name ends in `.gz`.
        cap: Most tokens that each recorded single chain was allowed; `None` reads it off those that were cut off.

    Raises:
        ConfigurationError: A cap below 1.
        InputError: No file, an unreadable one, one without traces, files of several kinds, recorded programs of
            several models or programs, or a cap that does not fit.
    """
    if cap is not None and cap < 1:
        raise ConfigurationError(f"Got {cap = } but expected at least 1.")
    names = [Path(path) for path in paths]
    if not names:
        raise InputError("Got no trace file but expected at least one.")
    are_programs = {path: _is_program_file(path) for path in names}
    if not any(are_programs.values()):
        recorded = read_traces(names, cap=cap)
        return OpenTraces(kind=recorded.kind, recorded=recorded, broken_lines=recorded.broken_lines)
    if cap is not None:
        raise InputError(f"Got {cap = } for recorded programs, which know theirs. Leave it out.")
    if not all(are_programs.values()):
        others = ", ".join(str(path) for path, is_one in are_programs.items() if not is_one)
        raise InputError(f"Got recorded programs together with other traces ({others}). Replay them apart.")
    files = {path: read_program_traces([path]) for path in names}
    traces = _name_apart({path: file.traces for path, file in files.items()})
    _check_alike(traces)
    broken = tuple(line for file in files.values() for line in file.broken_lines)
    return OpenTraces(kind="program", programs=tuple(traces), broken_lines=broken)


def _is_program_file(path: Path) -> bool:
    """Whether the first line that says what it is is a recorded program's."""
    for _, line in read_lines(path):
        return '"schema"' in line[:200]
    raise InputError(f"{path} is empty. Expected traces, one a line.")


def _name_apart(files: dict[Path, tuple[ProgramTrace, ...]]) -> list[ProgramTrace]:
    """All traces; a question that several files have is named with its file."""
    counts: dict[str, int] = {}
    for traces in files.values():
        for trace in traces:
            counts[trace.id] = counts.get(trace.id, 0) + 1
    return [
        replace(trace, id=f"{trace.id} ({path.stem})") if counts[trace.id] > 1 else trace
        for path, traces in files.items()
        for trace in traces
    ]


def _check_alike(traces: Iterable[ProgramTrace]) -> None:
    ids: set[str] = set()
    alike: dict[str, str] = {}
    for trace in traces:
        if trace.id in ids:
            raise InputError(f"Question {trace.id!r} stands twice in the traces. Expected each once a file.")
        ids.add(trace.id)
        for name in ("program", "model", "unit"):
            value = getattr(trace, name)
            if alike.setdefault(name, value) != value:
                raise InputError(
                    f"Got traces of {name}s {alike[name]!r} and {value!r} but expected one. Replay them apart."
                )
