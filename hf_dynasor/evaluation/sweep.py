"""Sweeps: several policies at several budgets on the same recorded traces, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hf_dynasor.errors import ConfigurationError, InputError
from hf_dynasor.evaluation.fitting import CURVES, fit_policy
from hf_dynasor.evaluation.policy_specs import PolicySpec, parse_policy_spec
from hf_dynasor.evaluation.prefixes import Prefixes, ProgramPrefixes
from hf_dynasor.evaluation.replayed import ReplayedQuestion, ReplaySummary, summarise
from hf_dynasor.evaluation.samples import SampleRun, draw_samples
from hf_dynasor.evaluation.statistics import PairedDifference, paired_difference, wilson_interval
from hf_dynasor.evaluation.trace_sets import OpenTraces, list_samples, replay


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRow:
    """One policy at one budget.

    Args:
        policy: What it is called.
        parameters: Its options; of a curve those that were fitted.
        budget: Full budget in units of the knob; `None` where a trace has none.
        summary: Its totals beside those of the full budget.
        accuracy_interval: Wilson's 95% interval over questions.
        difference: Accuracy against the full budget, paired by question, with its 95% interval.
        lost: Share of the replays that were right at the full budget and wrong when stopped.
    """

    policy: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    budget: int | None
    summary: ReplaySummary
    accuracy_interval: tuple[float, float]
    difference: PairedDifference | None
    lost: float

    @property
    def saved(self) -> float:
        """Share of the net tokens that was saved; negative where more were spent."""
        return _share_saved(self.summary.net_tokens, self.summary.baseline_tokens)

    @property
    def sequential_saved(self) -> float:
        """Share of the sequential tokens that was saved; negative where the answer waits longer."""
        return _share_saved(self.summary.sequential_tokens, self.summary.baseline_sequential_tokens)

    def to_dict(self) -> dict[str, Any]:
        """The row, ready for JSON."""
        row: dict[str, Any] = {"policy": self.policy, "parameters": dict(self.parameters)}
        row |= {"budget": self.budget, **self.summary.to_dict()}
        row |= {"saved": round(self.saved, 4), "sequential_saved": round(self.sequential_saved, 4)}
        row |= {"lost": round(self.lost, 4)}
        row |= {"accuracy_interval": [round(value, 4) for value in self.accuracy_interval]}
        if self.difference is not None:
            difference = self.difference
            row |= {"difference": round(difference.mean, 4)}
            row |= {"difference_interval": [round(difference.low, 4), round(difference.high, 4)]}
        return row


def sweep(
    traces: OpenTraces,
    policies: Sequence[str | PolicySpec],
    budgets: Sequence[int | None] = (None,),
    *,
    fit_on: OpenTraces | None = None,
    program: str | None = None,
    draws: int | None = None,
    seed: int = 0,
) -> list[SweepRow]:
    """Every policy at every budget, on the same draws.

    Args:
        traces: What they are tried on.
        policies: See `parse_policy_spec`.
        budgets: Full budgets; `None` is all that was recorded.
        fit_on: Traces of other questions, on which curves are fitted.
        program, draws, seed: As in `replay`.

    Raises:
        ConfigurationError: No policy, or a curve without points and nothing to fit it on.
        InputError: The traces cannot be replayed so.
    """
    specs = [parse_policy_spec(item) if isinstance(item, str) else item for item in policies]
    if not specs or not budgets:
        raise ConfigurationError(
            "Got no policy or no budget to sweep over but expected at least one of each."
        )
    rows = []
    for budget in budgets:
        for spec in specs:
            fitted = fit_spec(spec, fit_on, program=program, budget=budget, draws=draws, seed=seed)
            replayed = replay(traces, fitted, program=program, budget=budget, draws=draws, seed=seed)
            row = summarise_row(spec.title, budget, replayed)
            rows.append(replace(row, parameters=fitted.parameters))
    return rows


def fit_spec(
    spec: PolicySpec,
    fit_on: OpenTraces | None,
    *,
    program: str | None = None,
    budget: int | None = None,
    draws: int | None = None,
    seed: int = 0,
) -> PolicySpec:
    """A curve fitted on traces of programs or samples; any other policy as it is.

    Raises:
        InputError: The traces to fit on have no units to count, or are of a tree that cannot be walked in single
            units.
    """
    if fit_on is None or spec.name not in CURVES or spec.parameters.get("points"):
        return spec

    def try_out(tried: PolicySpec) -> ReplaySummary:
        return summarise(replay(fit_on, tried, program=program, budget=budget, draws=draws, seed=seed))

    runs = list_prefixes(fit_on, program=program, budget=budget, draws=draws, seed=seed)
    return fit_policy(spec, runs, try_out)


def list_prefixes(
    traces: OpenTraces,
    *,
    program: str | None = None,
    budget: int | None = None,
    draws: int | None = None,
    seed: int = 0,
) -> list[Prefixes]:
    """Every question and draw, unit by unit.

    Raises:
        InputError: The traces are chains, which have no units, or trees that cannot be walked in single units.
    """
    samples = list_samples(traces, program)
    if samples is not None:
        return [SampleRun(trace, budget) for _, trace in draw_samples(samples, draws, seed)]
    if not traces.programs:
        raise InputError(
            f"Traces of kind {traces.kind!r} are single chains: they have no units to read after."
        )
    return [ProgramPrefixes(trace, budget) for trace in traces.programs]


def summarise_row(policy: str, budget: int | None, rows: Sequence[ReplayedQuestion]) -> SweepRow:
    """Totals with intervals. Draws of one question are averaged first: they are no independent evidence."""
    before, after = average_by_question(rows)
    return SweepRow(
        policy=policy,
        budget=budget,
        summary=summarise(rows),
        accuracy_interval=wilson_interval(min(round(sum(after)), len(after)), len(after)),
        difference=paired_difference(before, after) if len(after) > 1 else None,
        lost=sum(row.is_lost for row in rows) / len(rows),
    )


def average_by_question(rows: Sequence[ReplayedQuestion]) -> tuple[list[float], list[float]]:
    """Accuracy of each question over its draws: at the full budget, and under the policy."""
    questions: dict[str, list[ReplayedQuestion]] = {}
    for row in rows:
        questions.setdefault(row.id, []).append(row)
    groups = list(questions.values())
    before = [sum(row.baseline_is_correct for row in group) / len(group) for group in groups]
    after = [sum(row.is_correct for row in group) / len(group) for group in groups]
    return before, after


def _share_saved(spent: int, full: int) -> float:
    return 1 - spent / full if full else 0.0
