"""The command line `hf-dynasor`: parses, hands over to `commands`, and turns errors into one clear line."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence

from hf_dynasor.certaindex import SIGNAL_NAMES, TABLE_1, Thresholds
from hf_dynasor.errors import ConfigurationError, EngineError, HFDynasorError
from hf_dynasor.program import DEFAULT_INSTRUCTION
from hf_dynasor.programs import PROGRAMS
from hf_dynasor.recipe import PROMPT_FORMATS
from hf_dynasor.scheduler import POLICIES

EXIT_BAD_INPUT = 2
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

--json ends with one line: {num_questions, accuracy, accuracy_interval, net_tokens, sequential_tokens,
early_stop_rate, usage, seconds}; tokens are totals over all questions, the interval is Wilson's at 95%, and
sequential tokens count the longest chain that had to wait for each other (waves add up, samples do not)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0, 2 for bad input, 1 where an engine died."""
    arguments = build_parser().parse_args(argv)
    if arguments.command is None:
        build_parser().print_help()
        return 0
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        return int(arguments.run(arguments))
    except HFDynasorError as error:
        print(f"hf-dynasor: error: {error}", file=sys.stderr)
        return EXIT_ENGINE if isinstance(error, EngineError) else EXIT_BAD_INPUT
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
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_solve(commands)
    _add_eval(commands)
    _add_questions(commands)
    return parser


def _add_solve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(commands, "solve", "answer one question", _SOLVE_EPILOG)
    parser.add_argument("question", help="the question, in quotes")
    _add_model_options(parser)
    _add_program_options(parser)
    parser.set_defaults(run=_run_solve)


def _add_eval(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(
        commands, "eval", "solve a file of questions and report accuracy and tokens", _EVAL_EPILOG
    )
    parser.add_argument(
        "file", metavar="FILE.jsonl", help="questions with their answers, one JSON object a line"
    )
    parser.add_argument("--limit", type=_positive, help="take only the first N questions")
    parser.add_argument("--max-active", type=_positive, default=16, help="questions in flight (default: 16)")
    parser.add_argument("--output", metavar="ROWS.jsonl", help="write one line for each question as it ends")
    _add_model_options(parser)
    _add_program_options(parser)
    parser.set_defaults(run=_run_eval)


def _add_questions(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    epilog = "The questions are kept out of the embedded reasoner's training. Levels run from 1 (easy) to 8 (impossible)."
    parser = _add_command(
        commands, "questions", "print test questions made for the embedded reasoner", epilog
    )
    parser.add_argument("--num", type=_positive, default=100, help="how many (default: 100)")
    parser.add_argument(
        "--seed", type=_non_negative, default=0, help="another seed, other questions (default: 0)"
    )
    parser.add_argument("--levels", type=_positive, nargs="+", help="difficulties to mix (default: all)")
    parser.set_defaults(run=_run_questions)


def _add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str, epilog: str
) -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    return commands.add_parser(name, help=summary, description=summary, epilog=epilog, formatter_class=raw)


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model", default="embedded", help="hub name, local folder, FILE.gguf, or 'embedded' (default)"
    )
    group.add_argument(
        "--engine",
        default="auto",
        choices=("auto", "generate", "continuous"),
        help="what runs it (default: auto)",
    )
    group.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16 (default: auto)")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    group.add_argument(
        "--timeout", type=_seconds, default=600.0, help="seconds to wait for a sample (default: 600)"
    )


def _add_program_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("program")
    group.add_argument("--program", default="self_consistency", help=f"one of: {', '.join(PROGRAMS)}")
    group.add_argument("--budget", type=int, default=20, help="most samples for a question (default: 20)")
    group.add_argument(
        "--policy", default="static", help=f"one of: {', '.join(sorted(POLICIES))} (default: static)"
    )
    group.add_argument("--preset", help=f"static: a row of the paper's Table 1: {', '.join(TABLE_1)}")
    group.add_argument(
        "--threshold",
        action="append",
        metavar="SIGNAL=X",
        help=f"static: stop where the signal exceeds X in [0, 1); repeatable; signals: {', '.join(SIGNAL_NAMES)} "
        "(default: entropy=0.7, which means unanimity at 5 samples)",
    )
    group.add_argument(
        "--detect-at", type=int, help="static, length: samples after which to read (default: 5)"
    )
    group.add_argument(
        "--max-tokens", type=int, help="length: stop where the samples so far took more (default: 2048)"
    )
    group.add_argument("--temperature", type=float, default=0.7, help="0 is greedy (default: 0.7)")
    group.add_argument("--top-p", type=float, default=1.0, help="in (0, 1] (default: 1)")
    group.add_argument("--top-k", type=int, help="keep the k likeliest tokens (default: all)")
    group.add_argument(
        "--max-new-tokens", type=int, default=512, help="most tokens of one sample (default: 512)"
    )
    group.add_argument("--seed", type=_non_negative, help="default: 0 where the engine has per-request seeds")
    group.add_argument(
        "--prompt-format", default="chat", choices=PROMPT_FORMATS, help="plain: no chat template"
    )
    group.add_argument("--system", help="system message")
    group.add_argument(
        "--instruction", default=DEFAULT_INSTRUCTION, help='appended to a question; "" for none'
    )
    group.add_argument(
        "--thinking", action=argparse.BooleanOptionalAction, help="ask the chat template for (no) thinking"
    )
    group.add_argument("--answer-format", default="auto", help="auto, number, math, choice, yes_no or text")
    parser.add_argument("--json", action="store_true", help="print one line of JSON only")


def parse_thresholds(texts: Sequence[str] | None) -> Thresholds | None:
    """Thresholds from `SIGNAL=X` options.

    Raises:
        ConfigurationError: A signal is unknown, named twice, or a value is no number in [0, 1).
    """
    if not texts:
        return None
    values: dict[str, float] = {}
    for text in texts:
        name, is_pair, number = text.partition("=")
        if not is_pair:
            name, number = "entropy", text
        if name not in SIGNAL_NAMES:
            raise ConfigurationError(
                f"Got --threshold {text!r} but expected SIGNAL=X with one of {', '.join(SIGNAL_NAMES)}."
            )
        if name in values:
            raise ConfigurationError(f"Got two thresholds for {name}. Expected one.")
        try:
            values[name] = float(number)
        except ValueError:
            raise ConfigurationError(
                f"Got --threshold {text!r} but expected a number in [0, 1) for {name}."
            ) from None
    return Thresholds(**values)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {value} but expected at least 1")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"got {value} but expected seconds above 0")
    return value


def _non_negative(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"got {value} but expected 0 or more")
    return value


def _run_solve(arguments: argparse.Namespace) -> int:
    from hf_dynasor.cli.commands import run_solve

    return run_solve(arguments)


def _run_eval(arguments: argparse.Namespace) -> int:
    from hf_dynasor.cli.commands import run_eval

    return run_eval(arguments)


def _run_questions(arguments: argparse.Namespace) -> int:
    from hf_dynasor.cli.commands import run_questions

    return run_questions(arguments)
