"""Figure 8: tokens saved at equal accuracy, by program, on recorded runs of the embedded reasoner.

A policy's setting is chosen on calibration questions alone: of those that lose no accuracy there, the one that saves
most. The length baseline gets the same treatment, and besides the best setting that can be found on the test questions
themselves (an oracle that no one has). Where that one stops everything it is no rule any more but a smaller even budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from hf_dynasor.errors import InputError
from hf_dynasor.evaluation.policy_specs import PolicySpec
from hf_dynasor.evaluation.report_replays import ReplayedRun, open_replay
from hf_dynasor.evaluation.report_settings import Setting, merge_settings, read_setting
from hf_dynasor.evaluation.report_statistics import (
    TOLERANCE,
    Comparison,
    compare,
    find_equal,
    summarise_setting,
)
from hf_dynasor.evaluation.run_folder import read_run

EVEN = PolicySpec(name="even")
NEVER = 10**9
ENTROPIES = (0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.9)
REWARDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
LENGTHS = (60, 80, 100, 120, 150, 175, 200, 225, 250, 275, 300, 350, 400, 450, 500, 600, 800)
RISKS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.08)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A program's recorded runs.

    Args:
        test: Runs with other seeds on the test questions.
        calibration: One on other questions.
        even: Runs of even budgets, the cap's first, where `test` was recorded in grants; else those of `test` are cut.
        budget: The cap.
        detect_at: Units after which policies may read.
        paper: What the paper saves, as it says it.
    """

    test: tuple[str, ...]
    calibration: str
    even: tuple[str, ...] = ()
    budget: int
    detect_at: tuple[int, ...]
    paper: str


WORKLOADS = {
    "self_consistency": Workload(
        test=("self_consistency_test", "self_consistency_test_1", "self_consistency_test_2"),
        calibration="self_consistency_calibration",
        budget=20,
        detect_at=(5,),
        paper="11% on MATH, more than 47% on GSM8K",
    ),
    "rebase": Workload(
        test=("rebase_test",),
        calibration="rebase_calibration",
        even=("rebase_even_test", "rebase_even_8_test", "rebase_even_4_test"),
        budget=16,
        detect_at=(4,),
        paper="more than 50% on MATH",
    ),
    "mcts": Workload(
        test=("mcts_test",),
        calibration="mcts_calibration",
        budget=16,
        detect_at=(4, 8),
        paper="13% on ASDiv (static), 15.8% (dynamic curve)",
    ),
}


@lru_cache(maxsize=4)
def measure_offline(runs: Path, programs: tuple[str, ...] = tuple(WORKLOADS)) -> dict[str, Any]:
    """The figure: each program whose runs are there; several figures and tables ask for it."""
    rows = {
        name: _measure(runs, WORKLOADS[name], name) for name in programs if _is_there(runs, WORKLOADS[name])
    }
    if not rows:
        raise InputError(f"Found no recorded runs in {runs}. Make them: python benchmarks/paper record")
    return rows


def _is_there(runs: Path, workload: Workload) -> bool:
    needed = (workload.test[0], workload.calibration, *workload.even[:1])
    return all((runs / name / "all_results.json").is_file() for name in needed)


def _measure(runs: Path, workload: Workload, program: str) -> dict[str, Any]:
    there = [name for name in workload.test if (runs / name / "all_results.json").is_file()]
    opened = [open_run(runs / name) for name in there]
    test = [run for run in opened if len(run.steps) == len(opened[0].steps)]  # whole seeds only
    calibration = open_run(runs / workload.calibration)
    test, evens = _keep_common(test, list_evens(runs, workload, test))
    full = next(item for item in evens if item.key.budget == workload.budget)
    base = _spend_all(calibration, workload, program)
    rows = []
    for label, specs in list_candidates(program, workload.detect_at).items():
        chosen = choose(specs, calibration, base, workload.budget)
        if chosen is not None:
            row = _describe(label, chosen, _apply(test, chosen, workload.budget), full, evens)
            rows.append(row | {"by_budget": _follow_budgets(test, chosen, evens)})
    lengths = list_candidates(program, workload.detect_at)["length"]
    rows.append(_find_best_length(lengths, test, full, evens, workload.budget))
    summary = summarise_setting(full)
    return {
        "budget": workload.budget,
        "num_questions": summary.num_questions,
        "num_seeds": summary.num_seeds,
        "num_calibration_questions": len(calibration.steps),
        "paper_saves": workload.paper,
        "even": {
            "accuracy": _share(summary.accuracy),
            "accuracy_interval": [_share(value) for value in summary.accuracy_interval],
            "net_tokens": round(summary.net_tokens, 1),
        },
        "smaller_even_budgets": {
            str(item.key.budget): [_share(found.accuracy), round(found.net_tokens, 1)]
            for item in evens
            if (found := summarise_setting(item))
        },
        "policies": rows,
    }


def open_run(folder: Path) -> ReplayedRun:
    """A run with its trace.

    Raises:
        InputError: It has none that can be replayed.
    """
    reasons: list[str] = []
    replayed = open_replay(read_run(folder), on_skip=reasons.append)
    if replayed is None:
        raise InputError(reasons[0] if reasons else f"{folder} has no trace.jsonl.")
    return replayed


def list_evens(runs: Path, workload: Workload, test: Sequence[ReplayedRun]) -> list[Setting]:
    """Every even budget, on the test questions and seeds."""
    if workload.even:
        # Of a tree each width is a run of its own; those on the same questions as the test run count.
        there = [name for name in workload.even if (runs / name / "all_results.json").is_file()]
        found = [read_setting(read_run(runs / name)) for name in there]
        return merge_settings(found)
    return merge_settings(item.make_setting(EVEN, budget) for item in test for budget in item.list_budgets())


def list_candidates(program: str, detect_at: Sequence[int]) -> dict[str, list[PolicySpec]]:
    """Settings to choose from, by policy."""

    def threshold(name: str, signal: str, values: Sequence[float], **more: int) -> list[PolicySpec]:
        return [
            PolicySpec(name=name, parameters={"thresholds": {signal: value}, "detect_at": at, **more})
            for at in detect_at
            for value in values
        ]

    found = {"static, entropy": threshold("static", "entropy", ENTROPIES)}
    if program == "self_consistency":
        found |= {"every 5, entropy": threshold("five_step", "entropy", ENTROPIES)}
        found |= {"forecast": [PolicySpec(name="forecast", parameters={"risk": risk}) for risk in RISKS]}
        found["forecast, giving up"] = [
            PolicySpec(
                name="forecast", parameters={"risk": risk, "give_up": {"entropy": limit}, "give_up_at": at}
            )
            for risk in (0.01, 0.02, 0.05)
            for limit in (0.1, 0.2, 0.3)
            for at in (5, 8)
        ]
    else:
        found |= {"static, reward": threshold("static", "reward", REWARDS)}
    if program == "mcts":
        found |= {"every 4, entropy": threshold("five_step", "entropy", ENTROPIES, every=4)}
    found["length"] = [
        PolicySpec(name="length", parameters={"max_tokens": limit, "detect_at": at})
        for at in detect_at
        for limit in LENGTHS
    ]
    return found


def choose(
    specs: Sequence[PolicySpec], calibration: ReplayedRun, base: Setting, budget: int
) -> PolicySpec | None:
    """Of the settings that lose nothing on the calibration questions the one that saves most; `None` if all lose."""
    best: tuple[float, PolicySpec] | None = None
    for spec in specs:
        found = compare(calibration.make_setting(spec, budget), base)
        if found is None or found.difference.mean < 0:
            continue
        if best is None or found.tokens.saved > best[0]:
            best = found.tokens.saved, spec
    return best[1] if best else None


def _spend_all(calibration: ReplayedRun, workload: Workload, program: str) -> Setting:
    """The calibration questions with everything spent; of a tree in grants by a length that nothing passes."""
    if not calibration.is_in_grants:
        return calibration.make_setting(EVEN, workload.budget)
    spec = PolicySpec(name="length", parameters={"max_tokens": NEVER, "detect_at": workload.detect_at[0]})
    return calibration.make_setting(spec, workload.budget)


def _apply(test: Sequence[ReplayedRun], spec: PolicySpec, budget: int) -> Setting:
    return merge_settings(item.make_setting(spec, budget) for item in test)[0]


def _keep_common(
    test: Sequence[ReplayedRun], evens: Sequence[Setting]
) -> tuple[list[ReplayedRun], list[Setting]]:
    """Both on the questions that both have, where a recording was cut short."""
    ids = {id for run in test for id, _ in run.steps}
    for even in evens:
        ids &= {item.id for item in even.outcomes}
    runs = [replace(run, steps=tuple(pair for pair in run.steps if pair[0] in ids)) for run in test]
    kept = [replace(even, outcomes=tuple(item for item in even.outcomes if item.id in ids)) for even in evens]
    return runs, kept


def _follow_budgets(
    test: Sequence[ReplayedRun], spec: PolicySpec, evens: Sequence[Setting]
) -> dict[str, list[float]]:
    """The same setting under smaller caps, each beside the even budget of that cap: share saved, points gained."""
    found = {}
    for even in evens:
        try:
            comparison = compare(_apply(test, spec, even.key.budget), even)
        except InputError:
            continue  # the policy would stop where this record has no stop
        if comparison is not None:
            points = round(100 * comparison.difference.mean, 2)
            found[str(even.key.budget)] = [_share(comparison.tokens.saved), points]
    return found


def _find_best_length(
    specs: Sequence[PolicySpec],
    test: Sequence[ReplayedRun],
    full: Setting,
    evens: Sequence[Setting],
    budget: int,
) -> dict[str, Any]:
    """The length baseline with the setting that is best on the test questions: at equal accuracy, the cheapest."""
    found = [(spec, setting) for spec in specs if (setting := _apply(test, spec, budget))]
    equal = [
        (spec, setting)
        for spec, setting in found
        if (comparison := compare(setting, full)) and comparison.difference.mean >= -TOLERANCE - 1e-12
    ]
    spec, setting = min(equal or found, key=lambda pair: summarise_setting(pair[1]).net_tokens)
    return _describe("length, best on the test questions", spec, setting, full, evens)


def _describe(
    label: str, spec: PolicySpec, setting: Setting, full: Setting, evens: Sequence[Setting]
) -> dict[str, Any]:
    summary = summarise_setting(setting)
    against, at_equal = compare(setting, full), find_equal(setting, evens)
    assert against is not None
    return {
        "policy": label,
        "setting": spec.title,
        "accuracy": _share(summary.accuracy),
        "net_tokens": round(summary.net_tokens, 1),
        "early": _share(summary.early_rate),
        "stops_everything": summary.early_rate == 1.0,
        **_compare(against),
        "is_equal": against.difference.mean >= -TOLERANCE - 1e-12,
        "at_equal_accuracy": None
        if at_equal is None
        else _compare(at_equal) | {"even_budget": at_equal.base_budget},
    }


def _compare(found: Comparison) -> dict[str, Any]:
    return {
        "points": round(100 * found.difference.mean, 2),
        "points_interval": [round(100 * found.difference.low, 2), round(100 * found.difference.high, 2)],
        "saved": _share(found.tokens.saved),
        "saved_interval": [_share(found.tokens.low), _share(found.tokens.high)],
        "lost": _share(found.lost),
        "num_questions": found.num_questions,
    }


def _share(value: float) -> float:
    return round(value, 4)
