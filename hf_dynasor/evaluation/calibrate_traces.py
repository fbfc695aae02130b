"""Calibration and drift from trace files: replays every setting of a grid, and brings runs of one question together.

Several runs of one question (seeds) are draws of it, not questions of their own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

from hf_dynasor.errors import InputError
from hf_dynasor.evaluation.calibrate import (
    RUN_TO_CAP,
    Calibration,
    CalibrationSettings,
    calibrate,
)
from hf_dynasor.evaluation.calibration_evidence import Evidence, ReplayedSetting, collect_evidence
from hf_dynasor.evaluation.calibration_grids import list_settings
from hf_dynasor.evaluation.drift import DriftReport, check_drift
from hf_dynasor.evaluation.policy_specs import PolicySpec
from hf_dynasor.evaluation.replay_chains import read_cap
from hf_dynasor.evaluation.replay_rules import EXIT_STYLE, RULES
from hf_dynasor.evaluation.replay_width_depth import DEFAULT_BUDGET
from hf_dynasor.evaluation.replayed import ReplayedQuestion
from hf_dynasor.evaluation.trace_sets import OpenTraces, choose_rule, replay
from hf_dynasor.scheduler.policy_file import PolicyFile, PolicyKind


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """How traces are replayed, the same for every setting.

    Args:
        program: Which program to replay, where a trace can serve several.
        budget: Full budget in units of the knob; by default what was recorded.
        draws: Random orders of each question's samples; `None` keeps the recorded one.
        seed: Of the draws.
    """

    program: str | None = None
    budget: int | None = None
    draws: int | None = None
    seed: int = 0


def calibrate_traces(
    traces: OpenTraces,
    settings: CalibrationSettings,
    *,
    policies: Sequence[str] = (),
    options: ReplayOptions | None = None,
) -> Calibration:
    """Calibrate a policy on recorded traces.

    Args:
        traces: From `open_traces`.
        settings: What is to be promised.
        policies: See `list_settings`.
        options: How the traces are replayed.

    Raises:
        InputError: Traces of several models, too few questions, or labels that can certify nothing.
        ConfigurationError: A policy that does not fit the traces.
    """
    options = options or ReplayOptions()
    kind, budget = find_kind(traces, options), find_budget(traces, options)
    model = find_model(traces)
    recorded = choose_rule(traces) if traces.kind == "program" else None
    named = policies or ([recorded.name] if recorded is not None else [])
    paths = _name_caps(list_settings(kind, named, budget=budget), traces)
    if recorded is not None:  # what the grid does not vary stays as it was recorded
        paths = [[choose_rule(traces, spec) or spec for spec in path] for path in paths]
    if settings.method == "crc":
        paths = paths[:1]
    evidence = collect_evidence([[replay_setting(traces, spec, options) for spec in path] for path in paths])
    calibration = calibrate(evidence, settings, kind=kind, model=model, budget=budget)
    if calibration.policy.name not in RULES or kind != "depth":
        return calibration
    return replace(calibration, policy=replace(calibration.policy, exit=EXIT_STYLE))


def _name_caps(paths: list[list[PolicySpec]], traces: OpenTraces) -> list[list[PolicySpec]]:
    """Settings that give up at a share of the cap name that cap: what loads the file later cannot see the traces.

    Raises:
        InputError: The traces have several caps, or an unknown one.
    """
    if (
        all(spec.parameters.get("give_up") is None for path in paths for spec in path)
        or traces.kind != "depth"
    ):
        return paths
    assert traces.recorded is not None  # of kind depth
    caps = {trace.cap for trace in traces.recorded.depth()}
    if len(caps) > 1 or None in caps:
        found = ", ".join(str(cap or "unknown") for cap in sorted(caps, key=lambda cap: cap or 0))
        raise InputError(
            f"Got settings that give up at a share of the cap, and traces with the caps {found}. Expected one: --cap N."
        )
    cap = caps.pop()
    return [[replace(spec, parameters={**spec.parameters, "cap": cap}) for spec in path] for path in paths]


def check_traces(
    traces: OpenTraces, policy: PolicyFile, *, options: ReplayOptions | None = None, level: float = 0.05
) -> DriftReport:
    """Test new traces against a policy file's certificate.

    Raises:
        InputError: The file has no certificate, or the traces are of another kind.
    """
    options = options or ReplayOptions()
    certificate = policy.certificate
    if certificate is None:
        raise InputError("The policy has no certificate to check. Expected a file that `calibrate` wrote.")
    kind = find_kind(traces, options)
    if policy.kind != kind:
        raise InputError(f"Got a policy of kind {policy.kind!r} but traces for kind {kind!r}.")
    find_model(traces)
    options = replace(options, budget=options.budget or certificate.budget)
    spec = PolicySpec(kind=policy.kind, name=policy.name, parameters=policy.parameters)
    evidence: Evidence = collect_evidence([[replay_setting(traces, spec, options)]])
    return check_drift(certificate, evidence, level=level, seed=options.seed)


def replay_setting(traces: OpenTraces, spec: PolicySpec, options: ReplayOptions) -> ReplayedSetting:
    """One setting on all questions; runs of one question become its draws."""
    rows = replay(
        traces, spec, program=options.program, budget=options.budget, draws=options.draws, seed=options.seed
    )
    merged = merge_runs(rows, name_questions(traces))
    return ReplayedSetting(name=spec.name, parameters=spec.parameters, rows=merged)


def merge_runs(rows: Sequence[ReplayedQuestion], questions: Mapping[str, str]) -> list[ReplayedQuestion]:
    """Rows by question: each further run or draw of one is another draw of it.

    Args:
        rows: As they were replayed.
        questions: The question that a trace's id stands for, see `name_questions`.
    """
    seen: Counter[str] = Counter()
    merged = []
    for row in rows:
        id = questions[row.id]
        merged.append(replace(row, id=id, draw=seen[id]))
        seen[id] += 1
    return merged


def name_questions(traces: OpenTraces) -> dict[str, str]:
    """What each trace asks: recorded programs by their text, runs of others by their id without the run's name."""
    if traces.recorded is None:
        first: dict[tuple[str, str], str] = {}
        return {
            trace.id: first.setdefault((trace.question, trace.reference), trace.id)
            for trace in traces.programs
        }
    prefixes = tuple(f"{run}/" for run in traces.recorded.sources)
    return {trace.id: _strip_prefix(trace.id, prefixes) for trace in traces.recorded.traces}


def find_kind(traces: OpenTraces, options: ReplayOptions) -> PolicyKind:
    """The kind of policy that fits."""
    if traces.kind == "program" and choose_rule(traces) is not None:
        return "depth"
    if traces.kind in ("program", "samples"):
        return "width"
    if traces.kind == "width_depth":
        return "width" if options.program == "self_consistency" else "width_depth"
    return "depth"


def find_budget(traces: OpenTraces, options: ReplayOptions) -> int | None:
    """The full budget in units of the knob, where all questions have the same."""
    if options.budget is not None or traces.kind == "depth":
        return options.budget
    if traces.recorded is None:
        count = read_cap if choose_rule(traces) is not None else attrgetter("budget")
        budgets = {count(trace) for trace in traces.programs}
    elif traces.kind == "samples":
        budgets = {len(trace.samples) for trace in traces.recorded.samples()}
    elif options.program == "self_consistency":
        budgets = {len(trace.branches) for trace in traces.recorded.width_depth()}
    else:
        return DEFAULT_BUDGET
    if len(budgets) > 1:
        raise InputError(
            f"Got traces with full budgets from {min(budgets)} to {max(budgets)}, but a promise is for one cap. "
            f"Name one that all have: --budget {min(budgets)}."
        )
    return budgets.pop()


def find_model(traces: OpenTraces) -> str | None:
    """Whose traces they are, where that is known.

    Raises:
        InputError: Several models': a promise is for one.
    """
    if traces.recorded is None:
        models = {trace.model for trace in traces.programs}
    else:
        groups = {trace.group for trace in traces.recorded.traces if trace.group}
        models = {_read_model(run, groups) for run in traces.recorded.sources} - {None}  # type: ignore[assignment]
    if len(models) > 1:
        raise InputError(
            f"Got traces of the models {', '.join(sorted(models))}. A promise holds for one: calibrate them apart."
        )
    return models.pop() if models else None


def _read_model(run: str, groups: set[str]) -> str | None:
    """The part of a run's name before its set of questions, as in MODEL_SET_seed42."""
    for group in sorted(groups, key=len, reverse=True):
        if found := re.match(rf"(.+?)_{re.escape(group)}(?:_|$)", run):
            return found[1]
    return None


def _strip_prefix(text: str, prefixes: Sequence[str]) -> str:
    for prefix in prefixes:
        if text.startswith(prefix):
            return text.removeprefix(prefix)
    return text


__all__ = [
    "RUN_TO_CAP",
    "ReplayOptions",
    "calibrate_traces",
    "check_traces",
    "merge_runs",
    "name_questions",
    "replay_setting",
]
