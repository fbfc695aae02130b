"""Opens trace files of any kind and replays a policy on them: the one door that the command line and sweeps use.

| kind | a line is | a policy is |
|---|---|---|
| `program` | a recorded program (`hf_dynasor.evaluation.records`) | an allocation policy |
| `samples` | a question's finished samples | an allocation policy |
| `depth` | one long chain of thought, probed on its way | a stopping rule |
| `width_depth` | many such chains of one question | a joint policy; an allocation policy for whole chains |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from hf_dynasor.answers import AnswerFormat, canonicalise
from hf_dynasor.core import Usage
from hf_dynasor.errors import ConfigurationError, InputError, name_unknown
from hf_dynasor.evaluation.policy_specs import PolicySpec, parse_policy_spec
from hf_dynasor.evaluation.questions import BrokenLine
from hf_dynasor.evaluation.recording import grade_answer
from hf_dynasor.evaluation.records import ProgramTrace, read_lines, read_program_traces
from hf_dynasor.evaluation.replay import replay_programs
from hf_dynasor.evaluation.replay_depth import replay_depth
from hf_dynasor.evaluation.replay_rules import replay_rule
from hf_dynasor.evaluation.replay_width_depth import DEFAULT_DRAWS, replay_width_depth
from hf_dynasor.evaluation.replayed import ReplayedQuestion
from hf_dynasor.evaluation.samples import GradedSample, SampleSet, read_samples, replay_samples
from hf_dynasor.evaluation.traces import DepthTrace, SamplesTrace, TraceSet, WidthDepthTrace, read_traces
from hf_dynasor.evaluation.traces.policies import (
    DEFAULT_POLICIES,
    DEPTH_POLICIES,
    build_depth_policy,
    build_joint_policy,
)
from hf_dynasor.programs import PROGRAMS
from hf_dynasor.stopping.rule_table import RULES, build_rule

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


def open_traces(paths: Sequence[str | Path]) -> OpenTraces:
    """Read files of one kind as one set.

    Raises:
        InputError: No file, an unreadable one, one without traces, files of several kinds, or recorded programs
            of several models or programs.
    """
    names = [Path(path) for path in paths]
    if not names:
        raise InputError("Got no trace file but expected at least one.")
    are_programs = {path: _is_program_file(path) for path in names}
    if not any(are_programs.values()):
        recorded = read_traces(names)
        return OpenTraces(kind=recorded.kind, recorded=recorded)
    if not all(are_programs.values()):
        others = ", ".join(str(path) for path, is_one in are_programs.items() if not is_one)
        raise InputError(f"Got recorded programs together with other traces ({others}). Replay them apart.")
    files = {path: read_program_traces([path]) for path in names}
    traces = _name_apart({path: file.traces for path, file in files.items()})
    _check_alike(traces)
    broken = tuple(line for file in files.values() for line in file.broken_lines)
    return OpenTraces(kind="program", programs=tuple(traces), broken_lines=broken)


def replay(
    traces: OpenTraces,
    policy: str | PolicySpec | None = None,
    *,
    program: str | None = None,
    budget: int | None = None,
    draws: int | None = None,
    seed: int = 0,
) -> list[ReplayedQuestion]:
    """What a policy would have done on recorded traces: one row for each question and draw.

    Args:
        traces: From `open_traces`.
        policy: A name with options, a row of Table 1 or a file, see `parse_policy_spec`; `None` is the best default
            for the kind of trace.
        program: Which program to replay, where a trace can serve several: `self_consistency` takes the chains of a
            `width_depth` trace as whole samples.
        budget: Full budget in units of the knob; by default all that was recorded.
        draws: Random orders of the samples of each question; `None` keeps the recorded one.
        seed: Seeds the draws.

    Raises:
        ConfigurationError: An unknown program or policy, or one that does not fit the traces.
        InputError: The traces cannot be replayed so.
    """
    spec = parse_policy_spec(policy) if isinstance(policy, str) else policy
    _check_program(traces, program)
    if (samples := list_samples(traces, program)) is not None:
        allocation = (spec or DEFAULT_WIDTH).build_width()
        return replay_samples(samples, allocation, budget=budget, draws=draws, seed=seed)
    if traces.kind == "program":
        allocation = (spec or _default_for(traces.program)).build_width()
        return replay_programs(traces.programs, allocation, budget=budget, draws=draws, seed=seed)
    assert traces.recorded is not None  # of the kinds that are left
    spec = _check_kind(spec or PolicySpec(name=DEFAULT_POLICIES[traces.kind]), traces.kind)
    if traces.kind == "depth":
        return _replay_depth(traces.recorded.depth(), spec, budget, draws)
    return replay_width_depth(
        traces.recorded.width_depth(),
        build_joint_policy(spec.name, spec.parameters),
        budget=budget,
        draws=DEFAULT_DRAWS if draws is None else draws,
        seed=seed,
    )


DEFAULT_WIDTH = PolicySpec(kind="width", name="forecast")
"""What saves most at the accuracy of the full budget on samples without calibration, see docs/allocation.md."""


def grade_samples(trace: SamplesTrace, *, format: AnswerFormat = "auto") -> SampleSet:
    """Finished samples with their groups and grades, ready to be replayed."""
    samples = [
        _grade(item.answer, item.num_tokens, item.is_correct, trace.reference, format)
        for item in trace.samples
    ]
    return SampleSet(id=trace.id, group=trace.group, samples=tuple(samples))


def grade_branches(trace: WidthDepthTrace, *, format: AnswerFormat = "auto") -> SampleSet:
    """Whole chains as samples: each counts all of its tokens and is asked for nothing on its way."""
    samples = [_grade(item.answer, item.num_tokens, None, trace.reference, format) for item in trace.branches]
    return SampleSet(id=trace.id, group=trace.group, samples=tuple(samples), unit="branches")


def _grade(
    answer: str | None,
    num_tokens: int,
    is_correct: bool | None,
    reference: str | None,
    format: AnswerFormat,
) -> GradedSample:
    key = canonicalise(answer, format=format) if answer is not None else None
    if is_correct is None:
        is_correct = answer is not None and reference is not None and grade_answer(answer, reference, format)
    return GradedSample(
        answer=answer,
        key=(key.kind, key.value) if key is not None and key.value else None,
        is_correct=is_correct,
        usage=Usage(sampled=num_tokens),
    )


def _replay_depth(
    traces: Sequence[DepthTrace], spec: PolicySpec, budget: int | None, draws: int | None
) -> list[ReplayedQuestion]:
    """A policy for recorded chains by name, or a stopping rule of `generate` itself."""
    if budget is not None or draws is not None:
        raise ConfigurationError(
            f"Got {budget = } and {draws = } for single chains, which are neither cut nor drawn. Leave them out."
        )
    if spec.name in DEPTH_POLICIES:
        return replay_depth(traces, build_depth_policy(spec.name, spec.parameters))
    if spec.name in RULES:
        return replay_rule(traces, build_rule(spec.name, spec.parameters))
    raise name_unknown("policy for traces of kind 'depth'", spec.name, {*DEPTH_POLICIES, *RULES})


def _check_kind(spec: PolicySpec, kind: str) -> PolicySpec:
    if spec.kind not in (None, kind):
        raise ConfigurationError(
            f"Got {spec.title!r}, a policy of kind {spec.kind!r}, for traces of kind {kind!r}."
        )
    return spec


def list_samples(traces: OpenTraces, program: str | None = None) -> list[SampleSet] | None:
    """The independent samples of traces that have them; `None` for trees and single chains."""
    if traces.kind == "program" and traces.program == "self_consistency":
        return [read_samples(trace) for trace in traces.programs]
    if traces.recorded is not None and traces.kind == "samples":
        return [grade_samples(trace) for trace in traces.recorded.samples()]
    if traces.recorded is not None and traces.kind == "width_depth" and program == "self_consistency":
        return [grade_branches(trace) for trace in traces.recorded.width_depth()]
    return None


def _default_for(program: str) -> PolicySpec:
    """Votes are forecast where each sample has one; a tree reads its program's row of Table 1."""
    preset = getattr(PROGRAMS[program], "preset", None) if program in PROGRAMS else None
    if preset is None or program == "self_consistency":
        return DEFAULT_WIDTH
    return parse_policy_spec(preset)


def _check_program(traces: OpenTraces, program: str | None) -> None:
    known = {traces.program} | ({"self_consistency"} if traces.kind == "width_depth" else set())
    if program is not None and program not in known:
        raise name_unknown(f"program for traces of kind {traces.kind!r}", program, known)


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


__all__ = [
    "OpenTraces",
    "grade_branches",
    "grade_samples",
    "list_samples",
    "open_traces",
    "replay",
]
