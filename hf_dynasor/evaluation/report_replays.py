"""Smaller budgets and other policies from one recorded run, where that is exact."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from hf_dynasor.errors import InputError
from hf_dynasor.evaluation.policy_specs import PolicySpec, parse_policy_spec
from hf_dynasor.evaluation.records import read_program_traces
from hf_dynasor.evaluation.report_settings import Outcome, Setting, make_key
from hf_dynasor.evaluation.report_steps import IN_GRANTS, Steps, open_steps
from hf_dynasor.evaluation.run_folder import RunFolder
from hf_dynasor.grants import AllocationPolicy

DEFAULT_POLICIES = {
    "self_consistency": ("even", "sc/math", "adaptive_consistency", "window", "forecast"),
}
"""Policies that a trace is replayed under where none is asked for; other programs: as they were recorded."""

CHAINS = ("chain_of_thought", "chain_consistency")
"""Programs that are read while a grant is spent: another budget is another run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedRun:
    """A run's trace, opened once, from which settings are made.

    Args:
        run: Its folder.
        steps: Question by question, with the id.
    """

    run: RunFolder
    steps: tuple[tuple[str, Steps], ...]

    @property
    def seed(self) -> int | None:
        """The seed of the run."""
        return self.run.info.seeds[0] if self.run.info.seeds else None

    @property
    def is_in_grants(self) -> bool:
        """Whether it was recorded in given grants, so that its end is not that of an even grant."""
        return self.run.info.policy.startswith(IN_GRANTS)

    def list_budgets(self) -> tuple[int, ...]:
        """Even budgets that every question can be cut to."""
        if self.is_in_grants:
            return ()
        common = set(self.steps[0][1].totals)
        for _, steps in self.steps:
            common &= set(steps.totals)
        return tuple(sorted(common))

    def make_setting(self, spec: PolicySpec, budget: int, *, name: str | None = None) -> Setting:
        """The run under another policy and budget.

        Raises:
            InputError: The policy stops where nothing was recorded.
            ConfigurationError: There is no such policy or option.
        """
        policy = spec.build_width()
        outcomes = tuple(self._make_outcome(id, steps, policy, budget) for id, steps in self.steps)
        return Setting(
            key=make_key(self.run, policy=name or spec.title, budget=budget),
            outcomes=outcomes,
            source=f"replayed from the trace of run {self.run.path.name}",
        )

    def _make_outcome(self, id: str, steps: Steps, policy: AllocationPolicy, budget: int) -> Outcome:
        records, decision, answer, is_right = steps.run(policy, budget)
        last = records[-1]
        return Outcome(
            id=id,
            seed=self.seed,
            is_right=is_right,
            answer=answer,
            net_tokens=last.usage.net_tokens,
            prompt_tokens=last.usage.prompt,
            sequential_tokens=last.sequential_tokens,
            is_early=last.total < budget,
            why=decision.explanation or (decision.stop_reason.value if decision.stop_reason else ""),
            certaindex=last.certaindex.signals,
            units=last.total,
        )


def open_replay(
    run: RunFolder, *, on_skip: Callable[[str], None] = lambda message: None
) -> ReplayedRun | None:
    """A run with its trace opened; `None` where it has none, several seeds, chains, or cannot be walked through.

    Args:
        run: Its folder.
        on_skip: Told why a trace is not used.
    """
    if run.trace_path is None or run.info.program in CHAINS:
        return None
    if len(run.info.seeds) > 1:
        on_skip(f"{run.path.name}: its trace is of several seeds, and is not replayed.")
        return None
    try:
        file = read_program_traces([run.trace_path])
        steps = tuple((trace.id, open_steps(trace, run.info.policy)) for trace in file.traces)
    except InputError as error:
        on_skip(f"{run.path.name}: {error}")
        return None
    return ReplayedRun(run=run, steps=steps)


def replay_run(
    replayed: ReplayedRun,
    policies: Sequence[str] | None = None,
    budgets: Iterable[int] | None = None,
    *,
    on_skip: Callable[[str], None] = lambda message: None,
) -> list[Setting]:
    """Every policy at every budget; the even one at every budget that can be cut.

    Args:
        replayed: The trace.
        policies: Their names, see `parse_policy_spec`; by default those of `DEFAULT_POLICIES`.
        budgets: Budgets; by default all.
        on_skip: Told which policy cannot be replayed on this trace, and why.
    """
    wanted = None if budgets is None else set(budgets)
    full = replayed.run.info.budget
    cuts = [budget for budget in replayed.list_budgets() if wanted is None or budget in wanted]
    if replayed.list_budgets() and not cuts:
        return []
    names = DEFAULT_POLICIES.get(replayed.run.info.program, ("even",)) if policies is None else policies
    settings = []
    for spec in dict.fromkeys(["even", *names]):
        parsed = parse_policy_spec(spec)
        if replayed.is_in_grants and parsed.name == "even":
            continue  # what it spent in grants is not what one even grant would have bought
        try:
            settings += [replayed.make_setting(parsed, budget) for budget in cuts or [full]]
        except InputError as error:
            on_skip(f"{replayed.run.path.name}, {parsed.title}: {error}")
    return settings


__all__ = ["DEFAULT_POLICIES", "ReplayedRun", "open_replay", "replay_run"]
