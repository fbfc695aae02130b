"""Allocation policies side by side, as in the paper's Table 4: tokens at equal accuracy, and the cost of finer checks.

Runs the embedded reasoner to the full budget on test questions and on other questions for calibration (or takes the
traces of an earlier run), chooses each policy's setting on the latter alone, and replays it on the former. Also
measures how long ten thousand replays take and what reading certaindex costs on the engine. Prints tables and ends
with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hf_dynasor.cli.replays import describe_sweep
from hf_dynasor.embedded.problems import generate_problems
from hf_dynasor.evaluation import Question, evaluate
from hf_dynasor.evaluation.fitting import choose_lossless
from hf_dynasor.evaluation.policy_specs import PolicySpec, parse_policy_spec
from hf_dynasor.evaluation.recording import RecordingEngine, TraceWriter
from hf_dynasor.evaluation.replay import replay_programs
from hf_dynasor.evaluation.replayed import ReplaySummary, summarise
from hf_dynasor.evaluation.samples import replay_samples
from hf_dynasor.evaluation.signals_compared import compare_signals
from hf_dynasor.evaluation.sweep import SweepRow, fit_spec, list_prefixes, sweep
from hf_dynasor.evaluation.trace_sets import OpenTraces, list_samples, open_traces, replay
from hf_dynasor.programs import SelfConsistency
from hf_dynasor.recipe import Recipe
from hf_dynasor.scheduler import SingleStep
from hf_dynasor.serving import make_engine

TEST_SEED, CALIBRATION_SEED = 2026, 4711
ENTROPIES = (0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9)
REWARDS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995)
RISKS = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12)
PRESETS = {"self_consistency": "sc/math", "mcts": "mcts/asdiv"}


def main() -> None:
    """Record or read, choose, replay, report."""
    arguments = _parse()
    torch.set_num_threads(1)
    test, calibration = [_open(arguments, which) for which in ("test", "calibration")]
    choose = partial(_choose, calibration=calibration, draws=arguments.calibration_draws)
    chosen = [parse_policy_spec(PRESETS[arguments.program])]
    chosen += [choose(name, specs) for name, specs in _list_candidates(arguments.program).items()]
    rows = sweep(test, ["even", *chosen], draws=arguments.draws)
    print(describe_sweep(rows))
    row: dict[str, Any] = {
        "benchmark": "allocation",
        "program": arguments.program,
        "num_questions": rows[0].summary.num_questions,
        "num_calibration_questions": len(calibration.programs),
        "draws": arguments.draws,
        "budget": test.programs[0].budget,
        "accuracy": round(rows[0].summary.accuracy, 4),
        "policies": [_shorten(item) for item in rows[1:]],
        "correlations": _correlate(test),
    }
    if arguments.program == "self_consistency":
        row |= {"replay_seconds_of_10000": _time_replays(test), "certaindex_share": _measure_share(arguments)}
    print(json.dumps(row))


def _list_candidates(program: str) -> dict[str, list[PolicySpec]]:
    """Settings to choose from, by policy; the detection point is Table 1's."""
    signal, detect_at, values = (
        ("entropy", 5, ENTROPIES) if program == "self_consistency" else ("reward", 3, REWARDS)
    )
    curve = {"signal": signal, "detect_at": detect_at}
    thresholds = [{"thresholds": {signal: value}, "detect_at": detect_at} for value in values]
    candidates = {
        name: [PolicySpec(name=name, parameters=item) for item in thresholds]
        for name in ("static", "five_step", "single_step")
    }
    candidates |= {
        name: [PolicySpec(name=name, parameters=curve)] for name in ("initial_curve", "dynamic_curve")
    }
    order = ("static", "initial_curve", "five_step", "single_step", "dynamic_curve")
    ordered = {name: candidates[name] for name in order}
    return ordered if program != "self_consistency" else ordered | _list_vote_rules()


def _list_vote_rules() -> dict[str, list[PolicySpec]]:
    confidences = [{"confidence": value} for value in (0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.99)]
    forecasts = [{"risk": risk} for risk in RISKS]
    giving_up = [
        {"risk": risk, "give_up": {"entropy": limit}, "give_up_at": at}
        for risk in (0.01, 0.02, 0.05)
        for limit in (0.1, 0.2, 0.3, 0.4)
        for at in (5, 8)
    ]
    options: dict[str, list[dict[str, Any]]] = {
        "adaptive_consistency": confidences,
        "window": [{"window": window} for window in (2, 3, 4, 5, 6, 8)],
        "forecast": forecasts,
        "forecast, any number of grants": [item | {"max_grants": None} for item in forecasts],
        "forecast, giving up": giving_up,
    }
    return {
        label: [PolicySpec(name=label.partition(",")[0], parameters=item) for item in items]
        for label, items in options.items()
    }


def _choose(label: str, specs: list[PolicySpec], *, calibration: OpenTraces, draws: int | None) -> PolicySpec:
    """The setting that saves most without losing accuracy on the calibration questions."""

    def try_out(spec: PolicySpec) -> ReplaySummary:
        return summarise(replay(calibration, spec, draws=draws))

    fitted = [fit_spec(spec, calibration, draws=draws) for spec in specs]
    return replace(choose_lossless(fitted, try_out) if len(fitted) > 1 else fitted[0], label=label)


def _shorten(row: SweepRow) -> dict[str, Any]:
    full = row.to_dict()
    kept = ("policy", "parameters", "accuracy", "difference", "difference_interval", "lost", "saved")
    short = {name: full[name] for name in kept} | {"early_stop_rate": round(full["early_stop_rate"], 4)}
    short["accuracy"] = round(short["accuracy"], 4)
    return short | {
        "sequential_ratio": round(row.summary.sequential_tokens / row.summary.baseline_sequential_tokens, 4)
    }


def _correlate(traces: OpenTraces) -> dict[str, list[float | None]]:
    """Pearson's and Kendall's correlation of each signal with the units that a solved question needs."""
    detect_at = 5 if traces.program == "self_consistency" else 3
    compared = compare_signals(list_prefixes(traces), detect_at=detect_at)
    return {
        item.signal: [None if value is None else round(value, 3) for value in (item.pearson, item.kendall)]
        for item in compared
    }


def _time_replays(traces: OpenTraces) -> dict[str, float]:
    """Processor seconds for 10,000 programs under the policy with the most decisions, both ways."""
    samples = list_samples(traces)
    assert samples is not None
    draws = max(1, 10_000 // len(samples))
    begin = time.process_time()
    num_fast = len(replay_samples(samples, SingleStep(), draws=draws))
    fast = time.process_time() - begin
    part = traces.programs[:100]
    begin = time.process_time()
    num_exact = len(replay_programs(part, SingleStep(), draws=2, exact=True))
    exact = time.process_time() - begin
    return {"samples": round(fast / num_fast * 10_000, 2), "programs": round(exact / num_exact * 10_000, 2)}


def _measure_share(arguments: argparse.Namespace) -> dict[str, float]:
    """Share of the run's processor time that goes into finding and grouping answers and reading certaindex."""
    spent = 0.0

    def clock(method: Any) -> Any:
        def timed(*args: Any) -> Any:
            nonlocal spent
            begin = time.thread_time()
            try:
                return method(*args)
            finally:
                spent += time.thread_time() - begin

        return timed

    class Timed(SelfConsistency):
        update_certaindex = clock(SelfConsistency.update_certaindex)
        _observe = clock(SelfConsistency._observe)

    questions = _make_questions(arguments.num_share_questions, TEST_SEED)
    shares = {}
    with make_engine(arguments.model) as engine:
        evaluate(questions[:8], Recipe(seed=0), engine)
        for policy in ("static", "single_step"):
            spent, begin = 0.0, time.process_time()
            _run_timed(Timed, questions, Recipe(seed=0, policy=policy), engine)
            shares[policy] = round(spent / (time.process_time() - begin), 5)
    return shares


def _run_timed(program: Any, questions: list[Question], recipe: Recipe, engine: Any) -> None:
    from hf_dynasor.drivers import run_many

    pairs = []
    for question in questions:
        built, policy = recipe.build(question.question, label=question.id)
        built.__class__ = program  # the same program, with its two methods on the clock
        pairs.append((built, policy))
    for outcome in run_many(pairs, engine):
        assert outcome.answer is not None


def _open(arguments: argparse.Namespace, which: str) -> OpenTraces:
    """Traces of an earlier run, or of a new one that is written beside them."""
    path = Path(arguments.folder) / f"{arguments.program}_{which}.jsonl"
    if not path.exists():
        seed = {"test": TEST_SEED, "calibration": CALIBRATION_SEED}[which]
        _record(arguments, path, _make_questions(arguments.num_questions, seed), int(which == "calibration"))
    return open_traces([path])


def _record(arguments: argparse.Namespace, path: Path, questions: list[Question], seed: int) -> None:
    options = {"num_parallel": 1} if arguments.program == "mcts" else {}
    recipe = Recipe(
        program=arguments.program,
        policy="even",
        budget=arguments.budget,
        temperature=0.7,
        seed=seed,
        logprobs=True,
        program_options=options,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    with make_engine(arguments.model) as engine, unfinished.open("w") as file:
        recording = RecordingEngine(engine)
        writer = TraceWriter(file, recording, recipe)
        report = evaluate(questions, recipe, recording, on_result=writer, max_active=32)
    unfinished.rename(path)
    print(
        f"recorded {path}: {report.accuracy:.1%}, {report.usage.net_tokens:,} tokens, {report.seconds:.0f} s"
    )


def _make_questions(num: int, seed: int) -> list[Question]:
    problems = generate_problems(num, seed=seed, split="test")
    return [
        Question(id=item.id, question=item.question, answer=item.answer, group=str(item.level))
        for item in problems
    ]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", default="self_consistency", choices=sorted(PRESETS))
    parser.add_argument("--num-questions", type=int, default=500)
    parser.add_argument("--budget", type=int, default=20)
    parser.add_argument("--draws", type=int, help="random orders of each question's samples")
    parser.add_argument("--calibration-draws", type=int, help="the same for the calibration questions")
    parser.add_argument("--num-share-questions", type=int, default=100)
    parser.add_argument("--folder", default="runs/traces", help="where the traces are, or are to be")
    parser.add_argument("--model", default="embedded")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
