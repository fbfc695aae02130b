"""`hf-dynasor calibrate` and `hf-dynasor drift`: policies with a promise, and whether it still fits."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from hf_dynasor.cli.replays import add_cap_option, report_broken_lines
from hf_dynasor.evaluation.calibrate import Calibration, CalibrationSettings
from hf_dynasor.evaluation.calibrate_traces import (
    ReplayOptions,
    calibrate_traces,
    check_traces,
    find_model,
)
from hf_dynasor.evaluation.drift import DriftReport
from hf_dynasor.evaluation.trace_sets import open_traces
from hf_dynasor.scheduler.calibration import METHODS
from hf_dynasor.scheduler.calibration_certificate import LOSSES, NUM_BINS, Certificate
from hf_dynasor.scheduler.policy_file import PolicyFile, load_policy

EXIT_BROKEN = 3
EXIT_SHIFTED = 4

CALIBRATE_EPILOG = """\
TRACES are runs to the full budget, as for `hf-dynasor replay`. Every setting of the policy's grid is replayed; the
one that saves most tokens among those certified is written to FILE.json. Where none can be certified the file is the
full budget itself, with the reason.

The promise: on new questions of the same kind, the risk (how often an answer that the full budget has is lost) is
below --risk, unless the calibration questions were one of the unlucky sets (--confidence 0.9: one in ten). It holds
for the same model, prompt, sampling and budget. A risk of 2% at 90% needs at least 114 questions.

examples:
  hf-dynasor calibrate traces.jsonl --risk 0.02 --confidence 0.9 --output policy.json
  hf-dynasor calibrate traces.jsonl --policy static --method bonferroni --output policy.json
  hf-dynasor calibrate boundary_model_math500_seed42.jsonl --risk 0.03 --output policy.json
  hf-dynasor calibrate traces.jsonl --policy static:entropy=0.99,detect_at=8 --policy static:entropy=0.99,detect_at=4
  hf-dynasor solve "What is 17*6+4?" --policy policy.json
  hf-dynasor solve "What is 17*6+4?" --program chain_of_thought --policy policy.json   (one made from single thoughts)

--json ends with one line: {policy: {schema, kind, name, parameters, certificate}, settings}; each setting has
{parameters, risk, p_value, level, is_certified, tokens_saved}."""

DRIFT_EPILOG = """\
TRACES are new runs to the full budget, not those of the calibration. Two questions are tested apart: is the risk
above the promised one (exact, one-sided), and do the questions look different (how often the policy stops, how much
it spends, how long full runs are)?

The exit code tells: 0 nothing found, 3 the risk is above the promised one, 4 the questions look different, 2 bad input.

examples:
  hf-dynasor drift new_traces.jsonl --policy policy.json
  hf-dynasor drift new_traces.jsonl --policy policy.json --level 0.01 --json

--json ends with one line: {num_questions, risk, realised_risk, risk_p_value, upper_bound, is_broken, is_shifted,
shifts, level}."""


def add_calibrate_options(parser: argparse.ArgumentParser, natural: Callable[[str], int]) -> None:
    """What `calibrate` takes."""
    _add_replay_options(parser, natural)
    parser.add_argument("--risk", type=float, default=0.02, help="to stay below, in (0, 1) (default: 0.02)")
    parser.add_argument(
        "--confidence", type=float, default=0.9, help="that it does, in (0, 1) (default: 0.9)"
    )
    parser.add_argument(
        "--policy",
        action="append",
        metavar="NAME|NAME:option=value",
        help="a policy with its own grid, or settings from conservative to aggressive (repeat the option)",
    )
    parser.add_argument(
        "--loss",
        choices=LOSSES,
        default="paired",
        help="paired: right at the full budget and wrong when stopped (default); accuracy: the plain drop",
    )
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="ltt",
        help="ltt: fixed sequences (default); bonferroni: each setting by itself; crc: the risk on average",
    )
    parser.add_argument("--groups", action="store_true", help="promise it within every group of questions")
    parser.add_argument(
        "--pilot",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="questions that only choose the order of tests (default: 0)",
    )
    parser.add_argument("--output", metavar="FILE.json", help="where the policy is written")
    parser.add_argument("--json", action="store_true", help="print one line of JSON only")


def add_drift_options(parser: argparse.ArgumentParser, natural: Callable[[str], int]) -> None:
    """What `drift` takes."""
    _add_replay_options(parser, natural)
    parser.add_argument("--policy", required=True, metavar="FILE.json", help="a file that `calibrate` wrote")
    parser.add_argument(
        "--level", type=float, default=0.05, help="chance of a false alarm, in (0, 1) (default: 0.05)"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON only")


def run_calibrate(arguments: argparse.Namespace) -> int:
    """Calibrate, write the file, tell what it promises."""
    settings = CalibrationSettings(
        risk=arguments.risk,
        confidence=arguments.confidence,
        loss=arguments.loss,
        method=arguments.method,
        by_group=arguments.groups,
        pilot=arguments.pilot,
        seed=arguments.seed,
    )
    traces = open_traces(arguments.traces, cap=arguments.cap)
    report_broken_lines(traces)
    calibration = calibrate_traces(
        traces, settings, policies=arguments.policy or (), options=_read_options(arguments)
    )
    if arguments.output is not None:
        calibration.policy.save(arguments.output)
    if arguments.json:
        row = {"policy": calibration.policy.to_dict(), "settings": list_settings_tested(calibration)}
        print(json.dumps(row))
    else:
        print(describe_calibration(calibration, arguments.output))
    return 2 if traces.broken_lines else 0


def run_drift(arguments: argparse.Namespace) -> int:
    """Check new traces against a policy's certificate."""
    policy = load_policy(arguments.policy)
    traces = open_traces(arguments.traces, cap=arguments.cap)
    report_broken_lines(traces)
    _warn_of_another_model(policy, find_model(traces))
    report = check_traces(traces, policy, options=_read_options(arguments), level=arguments.level)
    print(json.dumps(report.to_dict()) if arguments.json else describe_drift(report))
    if report.is_broken:
        return EXIT_BROKEN
    return EXIT_SHIFTED if report.is_shifted else 0


def list_settings_tested(calibration: Calibration) -> list[dict[str, Any]]:
    """Every setting and how it fared."""
    selection = calibration.selection
    rows = []
    for setting in selection.tested:
        outcome = selection.evidence.paths[setting.path][setting.position]
        losses = selection.evidence.compute_losses(outcome, calibration.certificate.loss)
        rows.append(
            {
                "parameters": dict(outcome.parameters),
                "risk": sum(losses) / len(losses),
                "p_value": setting.p_value,
                "level": setting.level,
                "is_certified": setting.is_certified,
                "tokens_saved": selection.evidence.compute_saving(outcome),
            }
        )
    return rows


def describe_calibration(calibration: Calibration, output: str | None) -> str:
    """The report for people."""
    certificate, policy = calibration.certificate, calibration.policy
    options = ", ".join(f"{name} = {value}" for name, value in policy.parameters.items())
    saved = certificate.tokens_saved
    lines = [
        f"policy:      {policy.name} {options}".rstrip(),
        f"promise:     {describe_promise(certificate)}",
        f"evidence:    {certificate.num_questions} questions (at least {certificate.num_needed} needed), realised risk "
        f"{certificate.realised_risk:.2%}, upper bound {certificate.upper_bound:.2%}",
        f"tests:       {certificate.num_certified} of {certificate.num_settings} settings passed "
        f"({certificate.method}, {certificate.bound})",
        f"accuracy:    {certificate.accuracy:.1%}, full budget {certificate.baseline_accuracy:.1%}",
        f"net tokens:  {saved.share:.1%} saved ({saved.low:.1%} to {saved.high:.1%}), "
        f"{certificate.early_stop_rate:.1%} ended early",
        *(
            f"group {name}: {group.num_questions} questions, realised risk {group.realised_risk:.2%}, upper bound "
            f"{group.upper_bound:.2%}"
            for name, group in certificate.groups.items()
        ),
        *(f"note:        {words}" for words in certificate.warnings),
    ]
    return "\n".join([*lines, f"written to {output}"] if output else lines)


def describe_promise(certificate: Certificate) -> str:
    """What is promised, in a sentence."""
    kind = "answers lost" if certificate.loss == "paired" else "drop of accuracy"
    if certificate.is_run_to_cap:
        return f"nothing is stopped, so nothing is lost ({kind} below {certificate.risk:.2%} was asked for)"
    if certificate.confidence is None:
        return f"{kind} at most {certificate.risk:.2%} on average over calibration sets"
    return f"{kind} below {certificate.risk:.2%}, with confidence {certificate.confidence:.0%}"


def describe_drift(report: DriftReport) -> str:
    """The check for people."""
    verdict = (
        "above the promised one" if report.is_broken else "no evidence that it is above the promised one"
    )
    lines = [
        f"{report.num_questions} new questions",
        f"risk:      {report.realised_risk:.2%} realised, {report.risk:.2%} promised: {verdict} "
        f"(p = {report.risk_p_value:.3g}); these questions alone would promise {report.upper_bound:.2%}",
        *(
            f"{name + ':':<10} {_show_shift(name, shift.before)} at calibration, {_show_shift(name, shift.after)} now "
            f"(p = {shift.p_value:.3g})"
            for name, shift in report.shifts.items()
        ),
        "the questions look different: calibrate again"
        if report.is_shifted
        else "the questions look the same",
    ]
    return "\n".join(lines)


def _show_shift(name: str, mean: float) -> str:
    """A mean in the unit that it stands for: bins of the budget's share and powers of two are told as what they hold."""
    if name == "spent":
        return f"{(mean + 0.5) / NUM_BINS:.0%} of the full budget"
    return f"about {2 ** max(0.0, mean - 0.5):,.0f} tokens" if name == "length" else f"{mean:.1%}"


def _add_replay_options(parser: argparse.ArgumentParser, natural: Callable[[str], int]) -> None:
    parser.add_argument("traces", nargs="+", metavar="TRACES", help="files of recorded traces, of one kind")
    parser.add_argument("--program", help="which program to replay, where the traces can serve several")
    parser.add_argument("--budget", type=int, metavar="N", help="full budget (default: what was recorded)")
    parser.add_argument(
        "--draws",
        type=int,
        metavar="K",
        help="random orders of each question's samples (default: as recorded)",
    )
    add_cap_option(parser)
    parser.add_argument(
        "--seed", type=natural, default=0, help="seeds draws, pilot and bootstrap (default: 0)"
    )


def _warn_of_another_model(policy: PolicyFile, model: str | None) -> None:
    promised = policy.certificate.model if policy.certificate else None
    if promised and model and promised != model:
        print(
            f"hf-dynasor: the certificate is of model {promised}, but these traces are of {model}: "
            "the promise does not cover them",
            file=sys.stderr,
        )


def _read_options(arguments: argparse.Namespace) -> ReplayOptions:
    return ReplayOptions(
        program=arguments.program, budget=arguments.budget, draws=arguments.draws, seed=arguments.seed
    )
