"""Reads one run of long chains of thought: `probed_RUN`, with `boundary_RUN` and `text_RUN` where they are beside it.

`probed_RUN` has the questions, the ends and a probe every so many tokens; `boundary_RUN` the answers with their
probabilities at reasoning boundaries; `text_RUN` the thoughts. Any of the three names the run.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hf_dynasor.certaindex import answer_probability
from hf_dynasor.errors import InputError
from hf_dynasor.evaluation.questions import BrokenLine
from hf_dynasor.evaluation.trace_files import GZIP, name_stem
from hf_dynasor.evaluation.traces.fields import Row, keep_readable, read_rows
from hf_dynasor.evaluation.traces.records import PLACES, DepthTrace, RecordedProbe

ROUNDING = 1e-3
"""By how much a recorded probability may exceed one."""

PREFIXES = ("boundary_", "probed_", "text_")


def find_run(path: Path) -> tuple[Path, str] | None:
    """The folder and name of the run that a file belongs to; `None` where its name is of no such file."""
    for prefix in PREFIXES:
        if path.name.startswith(prefix) and path.name.removesuffix(GZIP).endswith(".jsonl"):
            return path.parent, name_stem(path).removeprefix(prefix)
    return None


def read_run(folder: Path, run: str, *, cap: int | None, broken: list[BrokenLine]) -> list[DepthTrace]:
    """Every question of a run, in the order of its `probed_` file.

    Args:
        folder: Where its files are.
        run: Its name.
        cap: Most tokens that the run allowed; `None` reads it off the chains that were cut off, if there are any.
        broken: Gets the lines that cannot be read. A question is left out whole where its line is broken in its
            `probed_` or `boundary_` file.

    Raises:
        InputError: The `probed_` file is missing, none of its lines can be read, two files do not fit each other, or
            a chain is longer than the cap.
    """
    path = _find_file(folder, f"probed_{run}")
    if path is None:
        raise InputError(
            f"Found no {folder / f'probed_{run}.jsonl'}. Expected it beside the run's other files: it has the "
            "questions and the full runs."
        )
    rows = _read_ids(path, broken)
    num_broken = len(broken)
    boundaries = _read_beside(_find_file(folder, f"boundary_{run}"), rows, broken)
    if len(broken) > num_broken:
        # A broken line does not tell whose it is: whoever has no boundaries is left out with it.
        rows = {id: row for id, row in rows.items() if id in boundaries}
    texts = _read_beside(_find_file(folder, f"text_{run}"), rows, broken)
    traces = keep_readable(rows.values(), lambda row: _read_trace(row, run, boundaries, texts), broken)
    if not traces:
        raise InputError(
            f"{path} holds no trace that can be read ({len(broken)} broken lines; first: {broken[0]})."
        )
    return set_cap(traces, cap)


def set_cap(traces: list[DepthTrace], cap: int | None) -> list[DepthTrace]:
    """Traces of one run that know their cap.

    Raises:
        InputError: A chain is longer than the cap that was named.
    """
    if cap is None:
        # It was set before the run; the file tells it only by the chains that it cut off.
        cap = max((trace.num_tokens for trace in traces if not trace.is_finished), default=None)
    elif (longest := max(traces, key=lambda trace: trace.num_tokens)).num_tokens > cap:
        raise InputError(
            f"Got {cap = } but {longest.id!r} of {longest.run} has {longest.num_tokens} tokens. Expected the most "
            "tokens that the run allowed; to replay a smaller budget, name that."
        )
    return [replace(trace, cap=cap) for trace in traces]


def _find_file(folder: Path, name: str) -> Path | None:
    paths = (folder / f"{name}.jsonl", folder / f"{name}.jsonl{GZIP}")
    return next((path for path in paths if path.is_file()), None)


def _read_ids(path: Path, broken: list[BrokenLine]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for id, row in keep_readable(read_rows(path, broken), lambda row: (row.get_text("id"), row), broken):
        if id in found:
            raise InputError(
                f"{row.place}: question {id!r} stands twice. Expected every question once in a file."
            )
        found[id] = row
    return found


def _read_beside(path: Path | None, questions: dict[str, Row], broken: list[BrokenLine]) -> dict[str, Row]:
    if path is None:
        return {}
    known = len(broken)
    rows = _read_ids(path, broken)
    strangers = [id for id in rows if id not in questions]
    if strangers and known == 0:
        raise InputError(
            f"{path.name} has {strangers[0]!r}, which probed_{name_stem(path).partition('_')[2]}.jsonl does not "
            "have. Expected files of one run."
        )
    return {id: row for id, row in rows.items() if id in questions}


def _read_trace(row: Row, run: str, boundaries: dict[str, Row], texts: dict[str, Row]) -> DepthTrace:
    id = row.get_text("id")
    trials, text = boundaries.get(id), texts.get(id)
    num_tokens = row.get_count("num_tokens", least=1)
    probes = [_read_probe(row, item) for item in row.get_list("probes")]
    probes += [_read_trial(item) for item in trials.get_rows("trials")] if trials else []
    # An answer at or after the end would be known too late to change anything.
    probes = [probe for probe in probes if probe.position < num_tokens]
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
    if confidence is None:  # some recorders leave the mean to whoever reads their log-probabilities
        confidence = answer_probability([min(0.0, value) for value in logprobs])
    elif not 0 <= confidence <= 1 + ROUNDING:
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
