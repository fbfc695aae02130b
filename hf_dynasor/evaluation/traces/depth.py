"""Reads one run of long chains of thought: `probed_RUN`, with `boundary_RUN` and `text_RUN` where they are beside it.

`probed_RUN` has the questions, the ends and a probe every so many tokens; `boundary_RUN` the answers with their
probabilities at reasoning boundaries; `text_RUN` the thoughts. Any of the three names the run.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hf_dynasor.errors import InputError
from hf_dynasor.evaluation.traces.fields import Row, read_rows
from hf_dynasor.evaluation.traces.records import PLACES, DepthTrace, RecordedProbe

ROUNDING = 1e-3
"""By how much a recorded probability may exceed one."""

PREFIXES = ("boundary_", "probed_", "text_")


def find_run(path: Path) -> tuple[Path, str] | None:
    """The folder and name of the run that a file belongs to; `None` where its name is of no such file."""
    for prefix in PREFIXES:
        if path.name.startswith(prefix) and path.suffix == ".jsonl":
            return path.parent, path.stem.removeprefix(prefix)
    return None


def read_run(folder: Path, run: str) -> list[DepthTrace]:
    """Every question of a run, in the order of its `probed_` file.

    Raises:
        InputError: The `probed_` file is missing, a file is broken, or two files do not fit each other.
    """
    path = folder / f"probed_{run}.jsonl"
    if not path.is_file():
        raise InputError(
            f"Found no {path}. Expected it beside the run's other files: it has the questions and the full runs."
        )
    rows = {row.get_text("id"): row for row in read_rows(path)}
    trials = _read_beside(folder / f"boundary_{run}.jsonl", rows)
    texts = _read_beside(folder / f"text_{run}.jsonl", rows)
    traces = [_read_trace(row, run, trials.get(id), texts.get(id)) for id, row in rows.items()]
    # The cap was set before the run; the file tells it only by the chains that it cut off.
    cap = max((trace.num_tokens for trace in traces if not trace.is_finished), default=None)
    return [replace(trace, cap=cap) for trace in traces]


def _read_beside(path: Path, questions: dict[str, Row]) -> dict[str, Row]:
    if not path.is_file():
        return {}
    rows = {row.get_text("id"): row for row in read_rows(path)}
    strangers = [id for id in rows if id not in questions]
    if strangers:
        raise InputError(
            f"{path.name} has {strangers[0]!r}, which probed_{path.stem.partition('_')[2]}.jsonl does not have. "
            "Expected files of one run."
        )
    return rows


def _read_trace(row: Row, run: str, trials: Row | None, text: Row | None) -> DepthTrace:
    num_tokens = row.get_count("num_tokens", least=1)
    probes = [_read_probe(row, item) for item in row.get_list("probes")]
    probes += [_read_trial(item) for item in trials.get_rows("trials")] if trials else []
    # An answer at or after the end would be known too late to change anything.
    probes = [probe for probe in probes if probe.position < num_tokens]
    id = row.get_text("id")
    return DepthTrace(
        id=id,
        run=run,
        group=id.rpartition("-")[0] or None,
        reference=row.get_text("answer"),
        num_tokens=num_tokens,
        is_finished=row.get_answer("finish_reason") != "length",
        answer=row.get_answer("final_answer"),
        is_correct=row.get_truth("is_correct"),
        probes=tuple(sorted(probes, key=lambda probe: (probe.position, PLACES.index(probe.place)))),
        text=text.get_text("text") if text else None,
    )


def _read_probe(row: Row, item: object) -> RecordedProbe:
    if not isinstance(item, list) or len(item) != 4:
        raise row.error("probes", "lists of [position, answer, free of hesitation, probe tokens]")
    names = ("position", "answer", "is_free", "num_tokens")
    fields = Row(dict(zip(names, item, strict=True)), f"{row.place}, a probe")
    return RecordedProbe(
        position=fields.get_count("position"),
        answer=fields.get_answer("answer"),
        num_tokens=fields.get_count("num_tokens"),
        place="interval",
        is_hesitant=not fields.get_truth("is_free"),
    )


def _read_trial(row: Row) -> RecordedProbe:
    logprobs = row.get_list("logprobs") if "logprobs" in row.fields else []
    if not all(isinstance(value, int | float) and value <= ROUNDING for value in logprobs):
        raise row.error("logprobs", "natural log-probabilities, at most 0")
    confidence = row.get_number("confidence")
    if confidence is not None and not 0 <= confidence <= 1 + ROUNDING:
        raise row.error("confidence", "a probability in [0, 1]")
    return RecordedProbe(
        position=row.get_count("position"),
        answer=row.get_answer("answer"),
        num_tokens=row.get_count("num_tokens"),
        place="boundary",
        logprobs=tuple(map(float, logprobs)),
        confidence=None if confidence is None else min(1.0, confidence),
        closes_think="closes_think" in row.fields and row.get_truth("closes_think"),
    )
