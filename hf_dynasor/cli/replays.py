"""`hf-dynasor replay` and `hf-dynasor sweep`: policies tried on recorded traces, without a model."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from hf_dynasor.errors import InputError
from hf_dynasor.evaluation.policy_specs import PolicySpec, parse_policy_spec
from hf_dynasor.evaluation.replayed import ReplayedQuestion, ReplaySummary, summarise
from hf_dynasor.evaluation.statistics import paired_difference, wilson_interval
from hf_dynasor.evaluation.sweep import SweepRow, average_by_question, fit_spec, list_prefixes, sweep
from hf_dynasor.evaluation.trace_sets import OpenTraces, list_samples, open_traces, replay

EXIT_BAD_INPUT = 2

REPLAY_EPILOG = """\
TRACES are files that `hf-dynasor eval ... --trace` wrote, samples, or long chains of thought with probes; several
files are one set, and a boundary_* file finds the probed_* and text_* files of the same run beside it. A file whose
name ends in .gz is decompressed. A broken line is told and left out; the rest is replayed, and the exit code is 2.

A policy is a name with options, a row of the paper's Table 1, or a file that `hf-dynasor calibrate` wrote.

examples:
  hf-dynasor eval questions.jsonl --trace traces.jsonl
  hf-dynasor replay traces.jsonl --policy static:entropy=0.6,detect_at=4
  hf-dynasor replay traces.jsonl --policy sc/math --budget 10 --draws 20 --seed 1 --json
  hf-dynasor replay boundary_model_math500_seed42.jsonl --rows rows.jsonl
  hf-dynasor replay boundary_model_math500_seed42.jsonl --policy evidence:give_up=0.8 --cap 16384

--json ends with one line: {num_questions, accuracy, baseline_accuracy, net_tokens, baseline_tokens,
sequential_tokens, baseline_sequential_tokens, early_stop_rate}; the baseline is the full budget."""


SWEEP_EPILOG = """\
Every policy is replayed at every budget on the same draws, and compared with the full budget of the same draws. A
curve (initial_curve, dynamic_curve) is fitted on the traces of --fit, which should be of other questions.

example:
  hf-dynasor sweep test.jsonl --policies even static five_step dynamic_curve forecast --budgets 5 10 20 \\
      --fit calibration.jsonl --plots pictures

--json ends with one line: a list with the totals of `replay --json` for each policy and budget, and the policy, the
budget, saved, sequential_saved, lost, accuracy_interval, difference, difference_interval."""


def add_replay_options(parser: argparse.ArgumentParser, natural: Callable[[str], int]) -> None:
    """What `replay` takes."""
    _add_trace_options(parser, natural)
    parser.add_argument(
        "--policy", metavar="NAME|FILE.json", help="by default the best known for this kind of trace"
    )
    parser.add_argument(
        "--budget",
        type=int,
        metavar="N",
        help="full budget: samples, or tokens of a single chain (default: what was recorded)",
    )
    parser.add_argument(
        "--fit", nargs="+", metavar="TRACES", help="traces of other questions, on which a curve is fitted"
    )
    parser.add_argument("--rows", metavar="FILE.jsonl", help="write one line for each question and draw")
    parser.add_argument("--json", action="store_true", help="print one line of JSON only")


def run_replay(arguments: argparse.Namespace) -> int:
    """Replay one policy; its totals beside those of the full budget."""
    traces = open_traces(arguments.traces, cap=arguments.cap)
    report_broken_lines(traces)
    policy = parse_policy_spec(arguments.policy) if arguments.policy else None
    if policy is not None and arguments.fit:
        policy = fit_spec(
            policy,
            open_traces(arguments.fit),
            program=arguments.program,
            budget=arguments.budget,
            draws=arguments.draws,
            seed=arguments.seed,
        )
    rows = replay(
        traces,
        policy,
        program=arguments.program,
        budget=arguments.budget,
        draws=arguments.draws,
        seed=arguments.seed,
    )
    summary = summarise(rows)
    with open_output(arguments.rows) as file:
        if file is not None:
            file.writelines(json.dumps(row.to_dict()) + "\n" for row in rows)
    if not arguments.json:
        print(describe_replay(summary, rows))
    else:
        print(json.dumps(summary.to_dict()))
    return EXIT_BAD_INPUT if traces.broken_lines else 0


def add_sweep_options(
    parser: argparse.ArgumentParser, natural: Callable[[str], int], positive: Callable[[str], int]
) -> None:
    """What `sweep` takes."""
    _add_trace_options(parser, natural)
    parser.add_argument(
        "--policies", nargs="+", required=True, metavar="POLICY", help="names with options, presets or files"
    )
    parser.add_argument(
        "--budgets", nargs="+", type=positive, metavar="N", help="full budgets (default: what was recorded)"
    )
    parser.add_argument(
        "--fit", nargs="+", metavar="TRACES", help="traces of other questions, on which curves are fitted"
    )
    parser.add_argument("--plots", metavar="FOLDER", help="draw the pictures of docs/allocation.md there")
    parser.add_argument("--json", action="store_true", help="print one line of JSON only")


def run_sweep(arguments: argparse.Namespace) -> int:
    """Replay several policies at several budgets; a table, pictures, or one line of JSON."""
    traces = open_traces(arguments.traces, cap=arguments.cap)
    report_broken_lines(traces)
    rows = sweep(
        traces,
        arguments.policies,
        arguments.budgets or (None,),
        fit_on=open_traces(arguments.fit) if arguments.fit else None,
        program=arguments.program,
        draws=arguments.draws,
        seed=arguments.seed,
    )
    if arguments.plots:
        _draw(Path(arguments.plots), traces, rows, arguments.program)
    print(json.dumps([row.to_dict() for row in rows]) if arguments.json else describe_sweep(rows))
    return EXIT_BAD_INPUT if traces.broken_lines else 0


def describe_sweep(rows: list[SweepRow]) -> str:
    """A table for people; the difference is paired with the full budget, question by question."""
    width = max(len("policy"), *(len(row.policy) for row in rows))
    head = f"{'policy':{width}}  budget  accuracy  difference (95% interval)    net saved  sequential saved  early"
    return "\n".join([head, *(_describe_sweep_row(row, width) for row in rows)])


def _describe_sweep_row(row: SweepRow, width: int) -> str:
    paired = row.difference
    difference = (
        f"{paired.mean * 100:+6.2f} ({paired.low * 100:+6.2f} to {paired.high * 100:+6.2f})" if paired else ""
    )
    budget = "all" if row.budget is None else str(row.budget)
    return (
        f"{row.policy:{width}}  {budget:>6}  {row.summary.accuracy:8.1%}  {difference:27}  "
        f"{row.saved:9.1%}  {row.sequential_saved:16.1%}  {row.summary.early_stop_rate:5.0%}"
    )


def _draw(folder: Path, traces: OpenTraces, rows: list[SweepRow], program: str | None) -> None:
    from hf_dynasor.evaluation import plots

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Cannot make the folder {folder}: {error.strerror}.") from None
    plots.plot_frontier(rows, folder / "frontier.png")
    if list_samples(traces, program) is None:
        return

    def try_out(spec: PolicySpec) -> ReplaySummary:
        return summarise(replay(traces, spec, program=program))

    runs = list_prefixes(traces, program=program)
    plots.plot_needs(runs, folder / "needs.png")
    plots.plot_thresholds(try_out, folder / "thresholds.png")
    plots.plot_signals(runs, folder / "signals.png")


def describe_replay(summary: ReplaySummary, rows: list[ReplayedQuestion]) -> str:
    """The totals for people."""
    low, high = wilson_interval(sum(row.is_correct for row in rows), len(rows))
    lines = [
        f"{summary.num_questions} questions, {len(rows)} replays",
        f"accuracy:   {summary.accuracy:.1%} (95% interval {low:.1%} to {high:.1%}); "
        f"full budget {summary.baseline_accuracy:.1%}{_describe_difference(rows)}",
        f"net tokens: {summary.net_tokens:,} of {summary.baseline_tokens:,} "
        f"({_describe_saving(summary.net_tokens, summary.baseline_tokens)})",
        f"sequential: {summary.sequential_tokens:,} of {summary.baseline_sequential_tokens:,} "
        f"({_describe_saving(summary.sequential_tokens, summary.baseline_sequential_tokens)})",
        f"stopped early: {summary.early_stop_rate:.1%}",
    ]
    return "\n".join(lines)


def report_broken_lines(traces: OpenTraces) -> None:
    """Tell which lines were left out, and how many."""
    for broken in traces.broken_lines:
        print(f"hf-dynasor: {broken} (left out)", file=sys.stderr)
    if count := len(traces.broken_lines):
        print(
            f"hf-dynasor: {count} broken line{'s' * (count > 1)} left out, the rest was read", file=sys.stderr
        )


@contextlib.contextmanager
def open_output(path: str | None) -> Iterator[TextIO | None]:
    """A file to write, or `None` where none is asked for.

    Raises:
        InputError: It cannot be written.
    """
    if path is None:
        yield None
        return
    try:
        file = Path(path).open("w", encoding="utf-8")  # noqa: SIM115 -- closed by the `with` below
    except OSError as error:
        raise InputError(
            f"Cannot write {path}: {error.strerror}. Choose a file in a folder that exists."
        ) from None
    with file:
        yield file


def add_cap_option(parser: argparse.ArgumentParser) -> None:
    """`--cap`, for single chains."""
    parser.add_argument(
        "--cap",
        type=int,
        metavar="N",
        help="tokens that each single chain was allowed (default: read off those that were cut off)",
    )


def _add_trace_options(parser: argparse.ArgumentParser, natural: Callable[[str], int]) -> None:
    parser.add_argument("traces", nargs="+", metavar="TRACES", help="files of recorded traces, of one kind")
    parser.add_argument("--program", help="which program to replay, where the traces can serve several")
    parser.add_argument(
        "--draws",
        type=int,
        metavar="K",
        help="random orders of each question's samples (default: as recorded)",
    )
    add_cap_option(parser)
    parser.add_argument("--seed", type=natural, default=0, help="seeds the draws (default: 0)")


def _describe_difference(rows: list[ReplayedQuestion]) -> str:
    """The paired difference over questions: the draws of one question are no independent evidence."""
    before, after = average_by_question(rows)
    if len(after) < 2:
        return ""
    paired = paired_difference(before, after)
    return (
        f"; difference {paired.mean * 100:+.2f} points ({paired.low * 100:+.2f} to {paired.high * 100:+.2f})"
    )


def _describe_saving(spent: int, full: int) -> str:
    if not full:
        return "nothing to save"
    return f"{1 - spent / full:.1%} saved" if spent <= full else f"{spent / full - 1:.1%} more"
