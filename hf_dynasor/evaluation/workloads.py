"""Recorded traces as workloads of the scheduling simulator: lengths, groups of equal answers, and what is right."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from hf_dynasor.core import Usage
from hf_dynasor.errors import InputError
from hf_dynasor.evaluation.replay_depth import replay_depth
from hf_dynasor.evaluation.samples import GradedSample, SampleSet, read_samples
from hf_dynasor.evaluation.trace_sets import OpenTraces, grade_branches, grade_samples, open_traces
from hf_dynasor.evaluation.traces import DepthTrace
from hf_dynasor.evaluation.traces.judging import read_key
from hf_dynasor.scheduler.depth import DepthPolicy
from hf_dynasor.scheduler.simulate import (
    RecordedBranch,
    RecordedQuestion,
    Workload,
    read_workload,
)

DEFAULT_PROMPT_TOKENS = 128
"""Prompt of a question whose trace does not say how long it was."""


def open_workload(
    paths: Sequence[str | Path],
    *,
    budget: int | None = None,
    name: str | None = None,
    prompt_tokens: int = DEFAULT_PROMPT_TOKENS,
) -> Workload:
    """A workload from a workload file, or from trace files of any kind.

    Runs of long chains (`probed_*`) on the same questions are pooled: each run is one branch of the question.

    Args:
        paths: One workload file, or trace files of one kind.
        budget: Branches of a program; by default as many as every question has.
        name: What it is called; by default the first file's name.
        prompt_tokens: Prompt of a question whose trace does not say how long it was.

    Raises:
        InputError: A file cannot be read, or has no branches.
    """
    if len(paths) == 1 and _is_workload(Path(paths[0])):
        workload = read_workload(paths[0])
        return _resize(workload, budget)
    traces = open_traces(paths)
    questions = tuple(_make_question(item, prompt_tokens) for item in _list_sets(traces))
    smallest = min((len(question.branches) for question in questions), default=0)
    return Workload(
        name=name or Path(paths[0]).stem, budget=smallest if budget is None else budget, questions=questions
    )


def _list_sets(traces: OpenTraces) -> list[SampleSet]:
    if traces.recorded is None:
        return [read_samples(trace) for trace in traces.programs]
    if traces.kind == "samples":
        return [grade_samples(trace) for trace in traces.recorded.samples()]
    if traces.kind == "width_depth":
        return [grade_branches(trace) for trace in traces.recorded.width_depth()]
    return pool_runs(traces.recorded.depth())


def open_depth_workload(
    paths: Sequence[str | Path], policy: DepthPolicy, *, prompt_tokens: int = DEFAULT_PROMPT_TOKENS
) -> Workload:
    """Long chains that end where a depth policy stops them, its probes counted: programs of one chain each.

    Runs of one question are its branches, in the order of the files; a program draws one of them. Under
    `FullDepth` the chains are as recorded, question by question and branch by branch the same ones.

    Args:
        paths: Runs of long chains.
        policy: Where a chain stops.
        prompt_tokens: Prompt of a question.

    Raises:
        InputError: The files hold no long chains.
    """
    traces = open_traces(paths)
    if traces.recorded is None or traces.kind != "depth":
        raise InputError(f"Got traces of kind {traces.kind!r} but expected runs of long chains.")
    chains = traces.recorded.depth()
    pooled: dict[str, list[RecordedBranch]] = {}
    for trace, row in zip(chains, replay_depth(chains, policy), strict=True):
        branch = RecordedBranch(num_tokens=max(1, row.net_tokens), group=0, is_correct=row.is_correct)
        pooled.setdefault(_name_question(trace), []).append(branch)
    questions = tuple(
        RecordedQuestion(id=name, prompt_tokens=prompt_tokens, branches=tuple(branches))
        for name, branches in pooled.items()
    )
    return Workload(name=Path(paths[0]).stem, unit="chains", budget=1, questions=questions)


def _name_question(trace: DepthTrace) -> str:
    # A question that several runs have is named `run/id`, and a run ends in its seed.
    return re.sub(r"_seed\d+", "", trace.run) + "/" + trace.id.rpartition("/")[2]


def pool_runs(traces: Iterable[DepthTrace]) -> list[SampleSet]:
    """Runs of long chains as samples: those of one question and dataset are its branches."""
    pooled: dict[str, list[GradedSample]] = {}
    for trace in traces:
        name = _name_question(trace)
        key = read_key(trace.answer)
        pooled.setdefault(name, []).append(
            GradedSample(
                answer=trace.answer,
                key=None if key is None else ("depth", str(key)),
                is_correct=trace.is_correct,
                usage=Usage(sampled=trace.num_tokens),
            )
        )
    return [SampleSet(id=name, samples=tuple(samples)) for name, samples in pooled.items()]


def _make_question(samples: SampleSet, prompt_tokens: int) -> RecordedQuestion:
    numbers: dict[tuple[str, str], int] = {}
    branches = tuple(
        RecordedBranch(
            num_tokens=max(1, sample.usage.net_tokens),
            group=None if sample.key is None else numbers.setdefault(sample.key, len(numbers)),
            is_correct=sample.is_correct,
        )
        for sample in samples.samples
        if not sample.is_failed
    )
    prompts = [sample.usage.prompt for sample in samples.samples if sample.usage.prompt]
    length = round(sum(prompts) / len(prompts)) if prompts else prompt_tokens
    return RecordedQuestion(id=samples.id, prompt_tokens=length, branches=branches)


def _is_workload(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(12) == '{"workload":'
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        return False


def _resize(workload: Workload, budget: int | None) -> Workload:
    if budget is None:
        return workload
    return Workload(name=workload.name, unit=workload.unit, budget=budget, questions=workload.questions)


__all__ = ["DEFAULT_PROMPT_TOKENS", "open_depth_workload", "open_workload", "pool_runs"]
