"""Reads questions with many branches: finished samples, or chains of thought that were probed on the way."""

from __future__ import annotations

from fractions import Fraction

from hf_dynasor.answers import extract_answer
from hf_dynasor.errors import InputError
from hf_dynasor.evaluation.traces.fields import Row
from hf_dynasor.evaluation.traces.records import (
    RecordedBranch,
    RecordedSample,
    SamplesTrace,
    WidthDepthTrace,
)

CHARS_PER_TOKEN = 4
"""Characters that count as one token of a sample whose tokens were not recorded."""

NO_ANSWER = frozenset({"ERR", ""})
"""How these files write that a probe found no answer."""


def read_width_depth(row: Row) -> WidthDepthTrace:
    """One question of chains that were probed every `probe_interval` tokens."""
    interval = row.get_count("probe_interval", least=1)
    branches = tuple(_read_branch(item, interval) for item in row.get_rows("branches"))
    if not branches:
        raise row.error("branches", "at least one branch")
    id = row.get_text("id")
    return WidthDepthTrace(
        id=id,
        group=id.rpartition("-")[0] or None,
        reference=row.get_text("answer"),
        interval=interval,
        branches=branches,
    )


def _read_branch(row: Row, interval: int) -> RecordedBranch:
    num_tokens = row.get_count("num_tokens", least=1)
    probes = tuple(_read_found(Row({"probe": item}, row.place), "probe") for item in row.get_list("probes"))
    return RecordedBranch(
        positions=locate_probes(len(probes), interval, num_tokens),
        probes=probes,
        num_tokens=num_tokens,
        answer=_read_found(row, "answer"),
    )


def locate_probes(num_probes: int, interval: int, num_tokens: int) -> tuple[int, ...]:
    """Where the probes of a branch stand, never earlier than they can have stood.

    The i-th is due at i times the interval. Where a branch has fewer probes than its length asks for, its pieces
    were longer than the interval, and its probes are spread evenly over its length; a probe past the end was
    taken at the end.

    Examples:
        >>> locate_probes(3, 500, 1600), locate_probes(3, 500, 2400), locate_probes(3, 500, 1200)
        ((500, 1000, 1500), (600, 1200, 1800), (500, 1000, 1200))
    """
    step = max(Fraction(interval), Fraction(num_tokens, num_probes + 1))
    return tuple(min(num_tokens, int(step * place)) for place in range(1, num_probes + 1))


def read_samples(row: Row) -> SamplesTrace:
    """One question of finished samples: texts that state an answer, or answers that were judged."""
    items = row.get_list("samples")
    if not items:
        raise row.error("samples", "at least one sample")
    samples = tuple(_read_sample(row, item) for item in items)
    name = "id" if "id" in row.fields else "idx"
    id = row.get_text(name)
    reference = row.get_answer("answer")
    if reference is None and any(sample.is_correct is None for sample in samples):
        raise row.error("answer", "the right answer, since the samples are not judged")
    return SamplesTrace(id=id, group=id.rpartition("-")[0] or None, reference=reference, samples=samples)


def _read_sample(row: Row, item: object) -> RecordedSample:
    if isinstance(item, str):
        return RecordedSample(answer=extract_answer(item), num_tokens=_estimate_tokens(len(item)))
    fields = Row(item, f"{row.place}, a sample")
    is_judged = "correct" in fields.fields
    tokens = "num_tokens" in fields.fields
    return RecordedSample(
        answer=_read_found(fields, "answer"),
        num_tokens=fields.get_count("num_tokens") if tokens else _estimate_tokens(fields.get_count("chars")),
        is_correct=fields.get_truth("correct") if is_judged else None,
    )


def _estimate_tokens(num_chars: int) -> int:
    return max(1, -(-num_chars // CHARS_PER_TOKEN))


def _read_found(row: Row, name: str) -> str | None:
    answer = row.get_answer(name)
    return None if answer is None or answer.strip() in NO_ANSWER else answer


def check_same_interval(traces: list[WidthDepthTrace]) -> None:
    """Raises `InputError` where questions were probed at different intervals: a policy counts probes."""
    intervals = sorted({trace.interval for trace in traces})
    if len(intervals) > 1:
        raise InputError(
            f"Got traces with probe intervals {intervals} but expected one interval. Replay them apart."
        )
