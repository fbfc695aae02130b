"""What a run keeps while it runs, so that an interrupted one goes on where it stood.

`partial/` in the run's folder holds `info.json` (what was asked) and one file of JSON lines for each process. A line is
written whole and flushed as a question ends; a crash costs no line but the one that was being written.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from hf_dynasor.errors import InputError
from hf_dynasor.evaluation.predictions import Prediction
from hf_dynasor.evaluation.records import parse_object, read_lines
from hf_dynasor.evaluation.run_folder import (
    ARGUMENTS_FILE,
    PREDICTIONS_FILE,
    RESULTS_FILE,
    TRACE_FILE,
    RunInfo,
    RunTotals,
    read_run,
    write_run,
    write_text,
)

PARTIAL_FOLDER = "partial"
_INFO_FILE = "info.json"
_KEPT_FILE = "resumed.jsonl"
_OF_A_RUN = (RESULTS_FILE, PREDICTIONS_FILE, ARGUMENTS_FILE, TRACE_FILE)

Key = tuple[str, int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of a journal.

    Args:
        prediction: What came of a question.
        trace: Its completions, where they are recorded.
        seconds: Wall time of the run so far.
    """

    prediction: Prediction
    trace: Mapping[str, Any] | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a folder holds of a run.

    Args:
        entries: What is done, by question and seed.
        is_done: Whether the run has ended: all its files are there.
        seconds: Wall time of the interrupted parts.
    """

    entries: Mapping[Key, Entry] = field(default_factory=dict)
    is_done: bool = False
    seconds: float = 0.0


def prepare_folder(folder: Path, info: RunInfo, *, overwrite: bool) -> bool:
    """Make the folder of a run ready; what an interrupted run of the same settings left is taken over.

    To be done by one process before any other looks at the folder.

    Args:
        folder: Made if it is not there. Files that are no part of a run are never touched.
        info: What is asked.
        overwrite: Remove what an earlier run left.

    Returns:
        Whether a run of these settings has ended there already.

    Raises:
        InputError: The folder holds a run with other settings, which the message names, or cannot be written.
    """
    partial = folder / PARTIAL_FOLDER
    try:
        if overwrite:
            _remove_run(folder)
        if (folder / RESULTS_FILE).exists():
            _check_same(folder, read_run(folder).info, info)
            return True
        partial.mkdir(parents=True, exist_ok=True)
        if (partial / _INFO_FILE).exists():
            _check_same(folder, _read_info(partial / _INFO_FILE), info)
        write_text(partial / _INFO_FILE, [json.dumps(info.to_dict())])
        entries = read_entries(folder)
        write_text(partial / _KEPT_FILE, map(_format_entry, entries.values()))
        for path in partial.glob("rank-*.jsonl"):
            path.unlink()
    except OSError as error:
        raise InputError(f"Cannot write into {folder}: {error.strerror}.") from None
    return False


def read_progress(folder: Path) -> Progress:
    """What a prepared folder holds; the same for every process, whatever others have begun to write."""
    if (folder / RESULTS_FILE).exists():
        return Progress(is_done=True)
    entries = read_entries(folder, pattern=_KEPT_FILE)
    return Progress(entries=entries, seconds=max((entry.seconds for entry in entries.values()), default=0.0))


def read_entries(folder: Path, *, pattern: str = "*.jsonl") -> dict[Key, Entry]:
    """All whole lines of all processes, by question and seed."""
    entries: dict[Key, Entry] = {}
    for path in sorted((folder / PARTIAL_FOLDER).glob(pattern)):
        for _, line in read_lines(path):
            with contextlib.suppress(
                InputError
            ):  # the one line that was being written when it was interrupted
                entry = _parse_entry(line)
                entries[entry.prediction.key] = entry
    return entries


class JournalWriter:
    """Writes the lines of one process.

    Args:
        folder: Of the run; prepared.
        rank: Number of the process.
    """

    def __init__(self, folder: Path, *, rank: int) -> None:
        path = folder / PARTIAL_FOLDER / f"rank-{rank:05}.jsonl"
        self._file: TextIO = path.open("a", encoding="utf-8")

    def __enter__(self) -> JournalWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, entry: Entry) -> None:
        """Add a line, and leave none of it in memory."""
        self._file.write(_format_entry(entry))
        self._file.flush()


def finish_run(
    folder: Path, info: RunInfo, keys: Sequence[Key], *, arguments: Mapping[str, Any]
) -> RunTotals:
    """Make the run's files from its journal, and remove the journal.

    Args:
        folder: Of the run.
        info: What was asked.
        keys: Every question and seed, in the order in which they are to stand.
        arguments: For `args.json`.

    Raises:
        InputError: One of them is missing, or not one could be solved (with the first one's error).
    """
    entries = read_entries(folder)
    missing = [key for key in keys if key not in entries]
    if missing:
        raise InputError(f"The journal of {folder} lacks {len(missing)} of {len(keys)} predictions.")
    ordered = [entries[key] for key in keys]
    if all(entry.prediction.error is not None for entry in ordered):
        raise InputError(
            f"None of the {len(ordered)} questions could be solved; the first: {ordered[0].prediction.error}"
        )
    if any(entry.trace is not None for entry in ordered):
        write_text(
            folder / TRACE_FILE, (json.dumps(entry.trace, allow_nan=False) + "\n" for entry in ordered)
        )
    predictions = [entry.prediction for entry in ordered]
    seconds = max(entry.seconds for entry in ordered)
    totals = write_run(folder, info, predictions, arguments=arguments, seconds=seconds)
    _remove_journal(folder)
    return totals


def _format_entry(entry: Entry) -> str:
    row = {"prediction": entry.prediction.to_dict(), "trace": entry.trace, "seconds": round(entry.seconds, 3)}
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _parse_entry(line: str) -> Entry:
    row = parse_object(line)
    try:
        return Entry(
            prediction=Prediction.from_dict(row["prediction"]),
            trace=row["trace"],
            seconds=float(row["seconds"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"no line of a journal ({error!r})") from None


def _read_info(path: Path) -> RunInfo:
    row = parse_object(path.read_text(encoding="utf-8"))
    try:
        return RunInfo(**row | {"seeds": tuple(row["seeds"])})
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read ({error}). Use --overwrite_output_dir to start anew."
        ) from None


def _check_same(folder: Path, old: RunInfo, new: RunInfo) -> None:
    """The engine's name is known only once it runs, and follows from the rest."""
    differences = _list_differences(
        replace(old, engine="").to_dict(), json.loads(json.dumps(replace(new, engine="").to_dict()))
    )
    if differences:
        raise InputError(
            f"{folder} holds a run with other settings: {'; '.join(differences[:5])}. Use another --output_dir, or "
            "--overwrite_output_dir to start anew."
        )


def _list_differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += _list_differences(before, after, f"{prefix}{name}.")
        elif before != after:
            found.append(f"{prefix}{name} was {before!r}, is {after!r}")
    return found


def _remove_run(folder: Path) -> None:
    for name in _OF_A_RUN:
        (folder / name).unlink(missing_ok=True)
    _remove_journal(folder)


def _remove_journal(folder: Path) -> None:
    partial = folder / PARTIAL_FOLDER
    for path in [*partial.glob("rank-*.jsonl"), partial / _KEPT_FILE, partial / _INFO_FILE]:
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody else's file is in it, or it is not there
        partial.rmdir()
