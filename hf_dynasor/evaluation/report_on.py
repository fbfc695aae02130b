"""The runs behind a report that is made by one command: each program recorded once a seed, as run folders.

What samples and searches do at smaller budgets is replayed from the record; a tree of another width is another tree,
and is a run of its own.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from hf_dynasor.clock import Clock, MonotonicClock
from hf_dynasor.engine import Engine
from hf_dynasor.errors import ConfigurationError, name_unknown
from hf_dynasor.evaluation.questions import Question
from hf_dynasor.evaluation.recording import InGrants
from hf_dynasor.evaluation.records import ProgramTrace, read_program_traces
from hf_dynasor.evaluation.replay import grade, replay_answer
from hf_dynasor.evaluation.report_record import record_trace
from hf_dynasor.evaluation.run_folder import TRACE_FILE, Prediction, RunInfo, write_run
from hf_dynasor.grants import AllocationPolicy
from hf_dynasor.recipe import Recipe
from hf_dynasor.scheduler import Even

PACKAGES = ("hf-dynasor", "torch", "transformers")
PREFIXED = ("self_consistency", "best_of_n", "mcts")
"""Programs whose smaller budgets are beginnings of the largest one's run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run to make.

    Args:
        name: Of its folder.
        recipe: How the questions are solved, to the full budget.
        grants: Sizes of the grants that it is recorded in; empty for one even grant.
    """

    name: str
    recipe: Recipe
    grants: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `report --on` runs.

    Args:
        model: As `hf-dynasor solve --model` takes it.
        dataset: What the questions are called.
        programs: By name: the recipe's options.
        budgets: Least to largest.
        num_questions, num_seeds: By default.
        budgets_of: Budgets of programs whose knob counts something else; `budgets` is not for them.
    """

    model: str
    dataset: str
    programs: dict[str, dict[str, Any]]
    budgets: tuple[int, ...]
    num_questions: int
    num_seeds: int
    budgets_of: dict[str, tuple[int, ...]] = field(default_factory=dict)


_TREES: dict[str, Any] = {"temperature": 1.0, "max_new_tokens": 256}

_CHAINS: dict[str, Any] = {
    "temperature": 0.6,
    "max_new_tokens": 512,
    "enable_thinking": True,
    "program_options": {"rule": "boundary_confidence", "suffix": "short"},
}

PLANS = {
    "embedded": Plan(
        model="embedded",
        dataset="test-2026",
        programs={
            "self_consistency": {"temperature": 0.7},
            "best_of_n": _TREES,
            "rebase": _TREES,
            "mcts": _TREES,
            "beam": _TREES,
            "chain_of_thought": _CHAINS,
            "chain_consistency": _CHAINS,
        },
        budgets=(1, 2, 4, 8, 12, 16, 20),
        budgets_of={"chain_of_thought": (128, 256, 512), "chain_consistency": (1, 3, 5)},
        num_questions=500,
        num_seeds=3,
    ),
    "smollm2": Plan(
        model="smollm2",
        dataset="one-digit-sums",
        programs={"self_consistency": {"temperature": 0.7, "max_new_tokens": 48, "instruction": ""}},
        budgets=(1, 2, 4, 8, 16),
        num_questions=60,
        num_seeds=1,
    ),
}
"""Ready plans by name. `embedded`: questions of all levels that the reasoner was not trained on."""


def list_jobs(plan: Plan, programs: Sequence[str], budgets: Sequence[int], num_seeds: int) -> list[Job]:
    """Every run of a plan, program by program and seed by seed.

    Args:
        plan: Where the recipes come from.
        programs: Of them; all where empty.
        budgets: Least to largest.
        num_seeds: Runs of each.

    Raises:
        ConfigurationError: A program is not in the plan, or a number is below 1.
    """
    if num_seeds < 1 or not budgets or min(budgets) < 1:
        raise ConfigurationError(
            f"Got {num_seeds = } and budgets {list(budgets)} but expected at least one of each, all at least 1."
        )
    jobs = []
    for program in programs or plan.programs:
        if program not in plan.programs:
            raise name_unknown("program of this report", program, plan.programs)
        of_program = plan.budgets_of.get(program, budgets)
        # A tree of width 1 is one sample, which the other programs have already.
        least = 1 if program in plan.budgets_of else 2
        wanted = sorted({budget for budget in of_program if budget >= least})
        widths = [max(budgets)] if program in PREFIXED else wanted
        for seed in range(num_seeds):
            for budget in widths:
                recipe = Recipe(
                    program=program,
                    budget=budget,
                    policy="even",
                    seed=seed,
                    logprobs=True,
                    **plan.programs[program],
                )
                jobs.append(Job(name=f"{program}-{budget}-seed{seed}", recipe=recipe))
    return jobs


def make_run(
    folder: Path,
    job: Job,
    questions: Sequence[Question],
    engine: Engine,
    *,
    model: str,
    dataset: str,
    max_active: int = 32,
    on_result: Callable[[Any], None] | None = None,
    clock: Clock | None = None,
) -> None:
    """Record what is left of a job, and write its run folder.

    Args:
        folder: Holds the run folders.
        job: What to run.
        questions: All of them.
        engine: Stays the caller's to close.
        model, dataset: What the run says it is of.
        max_active: Most questions in flight.
        on_result: Called as each question ends.
        clock: For the wall time.

    Raises:
        InputError: See `record_trace`.
        EngineError: The engine died; the same call later goes on.
    """
    clock = clock or MonotonicClock()
    begin = clock.now()
    recipe = replace(job.recipe, policy=InGrants(sizes=job.grants)) if job.grants else job.recipe
    path = folder / job.name / TRACE_FILE
    record_trace(path, questions, recipe, engine, max_active=max_active, on_result=on_result)
    write_trace_run(
        folder / job.name, model=model, dataset=dataset, seconds=clock.now() - begin, grants=job.grants
    )


def write_trace_run(
    folder: Path, *, model: str, dataset: str, seconds: float = 0.0, grants: Sequence[int] = ()
) -> None:
    """Make a run folder of a recorded trace that stands in it.

    Args:
        folder: Holds `trace.jsonl`.
        model, dataset: What the run says it is of.
        seconds: Wall time, where it is known.
        grants: Sizes of the grants that it was recorded in; empty for one even grant.
    """
    file = read_program_traces([folder / TRACE_FILE])
    policy = f"in_grants:{','.join(map(str, grants))}" if grants else "even"
    first = file.traces[0]
    settings = dict(first.recipe)
    seed, budget = settings.get("seed"), settings.get("budget") or first.budget
    info = RunInfo(
        name=folder.name,
        task="math",
        dataset=dataset,
        model=model,
        engine=first.model,
        program=first.program,
        policy=policy,
        budget=budget,
        unit=first.unit,
        seeds=(seed,),
        settings=settings,
        versions=list_versions(),
    )
    spend = InGrants(sizes=tuple(grants)) if grants else Even()
    predictions = [_make_prediction(trace, spend, seed, budget) for trace in file.traces]
    write_run(
        folder, info, predictions, arguments={"recipe": settings, "grants": list(grants)}, seconds=seconds
    )


def list_versions() -> dict[str, str]:
    """Of Python and of the packages that a result depends on, those that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _make_prediction(
    trace: ProgramTrace, policy: AllocationPolicy, seed: int | None, budget: int
) -> Prediction:
    answer = replay_answer(trace, policy, budget=budget, in_order=True)
    return Prediction(
        id=trace.id,
        seed=seed,
        question=trace.question,
        gold=trace.reference,
        group=trace.group,
        answer=answer.text,
        is_right=grade(trace, answer.text),
        stop_reason=answer.stop_reason.value,
        explanation=answer.explanation,
        certaindex=answer.certaindex.to_dict(),
        grants=tuple(record.to_dict() for record in answer.trace),
        votes=answer.votes,
        usage=answer.usage,
        sequential_tokens=trace.sequential_tokens,
        budget=budget,
        unit=trace.unit,
        is_early=answer.is_early,
        num_failed=answer.num_failed,
    )


__all__ = ["PLANS", "Job", "Plan", "list_jobs", "list_versions", "make_run", "write_trace_run"]
