"""The command line `hf-dynasor`: parses, hands over to `commands`, and turns errors into one clear line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from hf_dynasor.cli import batches, calibrations, chat, commands, replays, report, serve, simulations
from hf_dynasor.cli.options import add_model_options, add_program_options, non_negative, positive, seconds
from hf_dynasor.errors import EngineError, HFDynasorError

EXIT_ENGINE = 1
EXIT_INTERRUPTED = 130

_DESCRIPTION = """\
Adaptive test-time compute for Hugging Face models. A reasoning program (self-consistency) samples chains of
thought, measures how certain its answer already is (its certaindex), and stops paying for more once it is."""

_SOLVE_EPILOG = """\
examples:
  hf-dynasor solve "What is 17*6+4?"
  hf-dynasor solve "What is 12*34?" --budget 40 --threshold entropy=0.9 --detect-at 8
  hf-dynasor solve "What is 2+2?" --model Qwen/Qwen3-0.6B --policy even --budget 5
  hf-dynasor solve "What is 2+2?" --model ./SmolLM2.Q4_1.gguf --json

--json ends with one line: {answer, certaindex, grants, stop_reason, usage, seconds}. In usage, net_tokens is
everything generated or forced for the program: sampled + forced + probe + reward, cancelled paths included."""

_EVAL_EPILOG = """\
FILE.jsonl holds one {"question": ..., "answer": ...} a line ("id" is optional, other fields are left alone).
A broken line is reported with its number, the rest is done, and the exit code is 2.

examples:
  hf-dynasor questions --num 100 --seed 1 > questions.jsonl
  hf-dynasor eval questions.jsonl --policy static
  hf-dynasor eval questions.jsonl --policy even --json
  hf-dynasor eval gsm8k.jsonl --model Qwen/Qwen3-0.6B --budget 10 --limit 50 --output results.jsonl
  hf-dynasor eval questions.jsonl --trace traces.jsonl

--json ends with one line: {num_questions, accuracy, accuracy_interval, net_tokens, sequential_tokens,
early_stop_rate, usage, seconds}; tokens are totals over all questions, the interval is Wilson's at 95%, and
sequential tokens count the longest chain that had to wait for each other (waves add up, samples do not)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0, 2 for bad input, 1 where an engine died."""
    arguments = build_parser().parse_args(argv)
    arguments.argv = list(sys.argv[1:] if argv is None else argv)
    if arguments.command is None:
        build_parser().print_help()
        return 0
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        return int(arguments.run(arguments))
    except HFDynasorError as error:
        print(f"hf-dynasor: error: {error}", file=sys.stderr)
        return EXIT_ENGINE if isinstance(error, EngineError) else commands.EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("hf-dynasor: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`| head`): nothing to report, and nothing more may be written at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    from hf_dynasor import __version__

    parser = argparse.ArgumentParser(prog="hf-dynasor", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"hf-dynasor {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_solve(subparsers)
    _add_eval(subparsers)
    _add_questions(subparsers)
    _add_replay(subparsers)
    _add_calibrate(subparsers)
    _add_drift(subparsers)
    _add_serve(subparsers)
    _add_chat(subparsers)
    _add_batch(subparsers)
    _add_simulate(subparsers)
    _add_report(subparsers)
    return parser


def _add_serve(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(
        subparsers, "serve", "serve a model over HTTP, OpenAI's API and programs", serve.EPILOG
    )
    serve.add_serve_options(parser)


def _add_chat(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(subparsers, "chat", "ask questions in the terminal, one after another", chat.EPILOG)
    chat.add_chat_options(parser)


def _add_batch(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(
        subparsers, "batch", "run a file of programs, resumable after a crash", batches.EPILOG
    )
    batches.add_batch_options(parser)


def _add_solve(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(subparsers, "solve", "answer one question", _SOLVE_EPILOG)
    parser.add_argument("question", help="the question, in quotes")
    add_model_options(parser)
    add_program_options(parser)
    parser.set_defaults(run=commands.run_solve)


def _add_eval(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(
        subparsers, "eval", "solve a file of questions and report accuracy and tokens", _EVAL_EPILOG
    )
    parser.add_argument(
        "file", metavar="FILE.jsonl", help="questions with their answers, one JSON object a line"
    )
    parser.add_argument("--limit", type=positive, help="take only the first N questions")
    parser.add_argument("--max-active", type=positive, default=16, help="questions in flight (default: 16)")
    parser.add_argument("--output", metavar="ROWS.jsonl", help="write one line for each question as it ends")
    parser.add_argument(
        "--trace",
        metavar="TRACES.jsonl",
        help="record every completion at the full budget (policy even), for `hf-dynasor replay`",
    )
    add_model_options(parser)
    add_program_options(parser)
    parser.set_defaults(run=commands.run_eval)


def _add_questions(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    epilog = "The questions are kept out of the embedded reasoner's training. Levels run from 1 (easy) to 8 (impossible)."
    parser = _add_command(
        subparsers, "questions", "print test questions made for the embedded reasoner", epilog
    )
    parser.add_argument("--num", type=positive, default=100, help="how many (default: 100)")
    parser.add_argument(
        "--seed", type=non_negative, default=0, help="another seed, other questions (default: 0)"
    )
    parser.add_argument("--levels", type=positive, nargs="+", help="difficulties to mix (default: all)")
    parser.set_defaults(run=commands.run_questions)


def _add_replay(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(
        subparsers, "replay", "try a policy on recorded traces, without a model", replays.REPLAY_EPILOG
    )
    replays.add_replay_options(parser, non_negative)
    parser.set_defaults(run=replays.run_replay)
    parser = _add_command(
        subparsers, "sweep", "try several policies and budgets on recorded traces", replays.SWEEP_EPILOG
    )
    replays.add_sweep_options(parser, non_negative, positive)
    parser.set_defaults(run=replays.run_sweep)


def _add_calibrate(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(
        subparsers, "calibrate", "choose a policy under a promised risk", calibrations.CALIBRATE_EPILOG
    )
    calibrations.add_calibrate_options(parser, non_negative)
    parser.set_defaults(run=calibrations.run_calibrate)


def _add_drift(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(
        subparsers, "drift", "check new traces against a policy's promise", calibrations.DRIFT_EPILOG
    )
    calibrations.add_drift_options(parser, non_negative)
    parser.set_defaults(run=calibrations.run_drift)


def _add_simulate(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(
        subparsers, "simulate", "serve recorded programs under a virtual clock", simulations.SIMULATE_EPILOG
    )
    simulations.add_simulate_options(parser, positive, seconds)
    parser.set_defaults(run=simulations.run_simulate)


def _add_report(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(
        subparsers, "report", "accuracy against tokens of runs, as a page and a table", report.EPILOG
    )
    report.add_report_options(parser, positive)


def _add_command(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str, epilog: str
) -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    return subparsers.add_parser(name, help=summary, description=summary, epilog=epilog, formatter_class=raw)
