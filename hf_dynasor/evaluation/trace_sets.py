"""Replays a policy on traces of any kind: the one door that the command line and sweeps use.

| kind | a line is | a policy is |
|---|---|---|
| `program` | a recorded program (`hf_dynasor.evaluation.records`) | an allocation policy |
| `samples` | a question's finished samples | an allocation policy |
| `depth` | one long chain of thought, probed on its way | a stopping rule |
| `width_depth` | many such chains of one question | a joint policy; an allocation policy for whole chains |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hf_dynasor.answers import AnswerFormat, canonicalise
from hf_dynasor.core import Usage
from hf_dynasor.errors import ConfigurationError, InputError, name_unknown
from hf_dynasor.evaluation.opened import OpenTraces, open_traces
from hf_dynasor.evaluation.policy_specs import PolicySpec, parse_policy_spec
from hf_dynasor.evaluation.recording import grade_answer
from hf_dynasor.evaluation.replay import replay_programs
from hf_dynasor.evaluation.replay_chains import fill_parameters, read_recorded_rule, replay_chains
from hf_dynasor.evaluation.replay_depth import cut_chain, replay_depth
from hf_dynasor.evaluation.replay_rules import replay_rule
from hf_dynasor.evaluation.replay_width_depth import DEFAULT_DRAWS, replay_width_depth
from hf_dynasor.evaluation.replayed import ReplayedQuestion
from hf_dynasor.evaluation.samples import GradedSample, SampleSet, read_samples, replay_samples
from hf_dynasor.evaluation.traces import DepthTrace, SamplesTrace, TraceSet, WidthDepthTrace
from hf_dynasor.evaluation.traces.policies import (
    DEFAULT_POLICIES,
    DEPTH_POLICIES,
    build_depth_policy,
    build_joint_policy,
)
from hf_dynasor.programs import PROGRAMS
from hf_dynasor.stopping.rule_table import RULES, build_rule

HOLD_WITHOUT_BOUNDARIES = 4000
"""Tokens for which all probes must repeat an answer in runs that were asked at no boundary."""

_LIVE_OPTIONS = ("delimiter", "format")
"""Options of the rule `evidence` that say where steps end and which answers are equal: records have settled both."""


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
        budget: Full budget in units of the knob, or in tokens of a single chain; by default all that was recorded.
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
    if traces.kind == "program" and (rule := choose_rule(traces, spec)) is not None:
        _refuse_draws(draws)
        return replay_chains(traces.programs, rule.name, rule.parameters, budget=budget)
    if traces.kind == "program":
        allocation = (spec or _default_for(traces.program)).build_width()
        return replay_programs(traces.programs, allocation, budget=budget, draws=draws, seed=seed)
    assert traces.recorded is not None  # of the kinds that are left
    spec = _check_kind(spec or _default_recorded(traces.recorded), traces.kind)
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
    _refuse_draws(draws)
    if budget is not None:
        if budget < 1:
            raise ConfigurationError(f"Got {budget = } but expected at least 1 token.")
        traces = [cut_chain(trace, budget) for trace in traces]
    if spec.name in DEPTH_POLICIES:
        options = {name: spec.parameters[name] for name in spec.parameters if name not in _LIVE_OPTIONS}
        _check_cap(traces, options)
        return replay_depth(traces, build_depth_policy(spec.name, options))
    if spec.name in RULES:
        return replay_rule(traces, build_rule(spec.name, spec.parameters))
    raise name_unknown("policy for traces of kind 'depth'", spec.name, {*DEPTH_POLICIES, *RULES})


def _check_cap(traces: Sequence[DepthTrace], options: Mapping[str, Any]) -> None:
    if options.get("give_up") is None or options.get("cap") is not None:
        return
    if unknown := next((trace for trace in traces if trace.cap is None), None):
        raise InputError(
            f"Got give_up = {options['give_up']}, a share of the cap, but no chain of {unknown.run} was cut off, so its "
            "cap is unknown. Name it: --cap N, the most tokens that the run allowed."
        )


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


def choose_rule(traces: OpenTraces, spec: PolicySpec | None = None) -> PolicySpec | None:
    """The stopping rule to replay on recorded chains: the one that is named, or the one that they were read by.

    Returns:
        `None` where the policy allocates, or the traces are no chains that were read to their end.
    """
    recorded = read_recorded_rule(traces.programs)
    if recorded is None or (spec is not None and (spec.kind == "width" or spec.name not in RULES)):
        return None
    name = spec.name if spec is not None else recorded["name"]
    parameters = fill_parameters(name, spec.parameters if spec is not None else {}, traces.programs)
    return PolicySpec(kind="depth", name=name, parameters=parameters)


def _default_recorded(traces: TraceSet) -> PolicySpec:
    """Runs without any boundary have only probes to go by, which are to hold an answer for longer."""
    has_boundaries = traces.kind != "depth" or any(
        probe.place == "boundary" for trace in traces.depth() for probe in trace.probes
    )
    parameters = {} if has_boundaries else {"hold": HOLD_WITHOUT_BOUNDARIES}
    return PolicySpec(name=DEFAULT_POLICIES[traces.kind], parameters=parameters)


def _refuse_draws(draws: int | None) -> None:
    if draws is not None:
        raise ConfigurationError(
            f"Got {draws = } for single chains: each question has one chain in a run, so there is nothing to draw. Leave "
            "it out; name the files of several runs (seeds) to have several chains of a question."
        )


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


__all__ = [
    "OpenTraces",
    "choose_rule",
    "grade_branches",
    "grade_samples",
    "list_samples",
    "open_traces",
    "replay",
]
