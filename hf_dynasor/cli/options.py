"""Options of the command line: what they are called, what they take, and the recipe that they describe."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any, get_args

from hf_dynasor.answers import AnswerFormat
from hf_dynasor.answers.elicitation import EXIT_CLOSINGS, PROBE_SUFFIXES
from hf_dynasor.certaindex import SIGNAL_NAMES, TABLE_1, Thresholds
from hf_dynasor.cli.backends import add_backend_options
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.program import DEFAULT_INSTRUCTION
from hf_dynasor.program_options import list_options
from hf_dynasor.programs import PROGRAMS, REWARDS, SelfConsistency
from hf_dynasor.programs.chain_settings import ChainExit, ChainMode
from hf_dynasor.programs.voting import Vote
from hf_dynasor.recipe import PROMPT_FORMATS, Recipe
from hf_dynasor.scheduler import POLICIES, SCHEDULING_POLICIES


def add_model_options(parser: argparse.ArgumentParser, *, waits: bool = True) -> None:
    """Which model, and what runs it; `waits` for a command that waits for samples itself."""
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
    group.add_argument(
        "--scheduler",
        choices=sorted(SCHEDULING_POLICIES),
        help="which programs go first where they queue, with the engine 'continuous' or --backend (default: gang_sjf)",
    )
    group.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16 (default: auto)")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    group.add_argument(
        "--quantization",
        choices=("bnb-8bit", "bnb-4bit"),
        help="keep the weights in so many bits, with bitsandbytes (extra quant; CPUs too)",
    )
    if waits:
        group.add_argument(
            "--timeout", type=seconds, default=600.0, help="seconds to wait for a sample (default: 600)"
        )
    group.add_argument(
        "--reward-model",
        default="auto",
        metavar="NAME",
        help="what rates steps: hub name, local folder, 'embedded', 'likelihood' (of the model itself), or the URL of "
        "a server with /score, /classify or /pooling "
        "(default: 'embedded' with the embedded model, else none)",
    )
    group.add_argument(
        "--reward-kind",
        default="auto",
        choices=("auto", "scalar", "step_labels", "step_classes", "likelihood"),
        help="what the reward model is (default: told by its configuration)",
    )
    add_backend_options(parser, positive)


def add_program_options(parser: argparse.ArgumentParser, *, prints: bool = True) -> None:
    """Which program, policy and sampling; `prints` for a command that prints answers."""
    group = parser.add_argument_group("program")
    group.add_argument("--program", default="self_consistency", help=f"one of: {', '.join(PROGRAMS)}")
    group.add_argument(
        "--budget",
        type=int,
        help="most samples, tokens of a chain, ... for a question (default: the program's own; 20 samples)",
    )
    group.add_argument(
        "--policy",
        metavar="NAME|FILE.json",
        help=f"a file that `hf-dynasor calibrate` wrote, or one of: {', '.join(sorted(POLICIES))} "
        "(default: static; with --trace: even)",
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
    group.add_argument("--seed", type=non_negative, help="default: 0 where the engine has per-request seeds")
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
    group.add_argument("--answer-format", default="auto", help=f"one of: {', '.join(get_args(AnswerFormat))}")
    _add_vote_options(parser)
    _add_tree_options(parser)
    _add_chain_options(parser)
    if prints:
        parser.add_argument("--json", action="store_true", help="print one line of JSON only")


def _add_vote_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("votes (self_consistency)")
    group.add_argument(
        "--vote", help=f"one of: {', '.join(get_args(Vote))} (default: majority; reward asks a reward model)"
    )
    group.add_argument(
        "--stop-decided",
        action="store_true",
        default=None,
        help="give up samples, in flight too, once none of them can change the vote (also chain_consistency)",
    )


def _add_tree_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("trees (rebase, mcts, best_of_n, beam)")
    group.add_argument("--reward", help=f"how steps are rated: {', '.join(REWARDS)} (default: likelihood)")
    group.add_argument("--delimiter", help="text that ends a step (default: a blank line)")
    group.add_argument("--reward-temperature", type=float, help="rebase: of the softmax (default: 0.2)")
    group.add_argument(
        "--greedy-first", action="store_true", default=None, help="spend the first unit on a greedy path"
    )
    group.add_argument("--branching", type=positive, help="beam: width of a subtree (default: 4)")
    group.add_argument("--num-children", type=positive, help="mcts: steps drawn at a node (default: 2)")
    group.add_argument("--exploration", type=float, help="mcts: weight of the UCT bonus (default: 0.5)")
    group.add_argument("--num-parallel", type=positive, help="mcts: iterations of a batch (default: 4)")
    group.add_argument(
        "--no-rollouts",
        dest="has_rollouts",
        action="store_const",
        const=False,
        help="mcts: value a new step by its reward and follow no path to its end; paths end, and answers appear, only "
        "where the tree reaches their ends, so give it more iterations than a path has steps (default: follow them)",
    )


def _add_chain_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("chains of thought (chain_of_thought, chain_consistency)")
    group.add_argument("--mode", help=f"one of: {', '.join(get_args(ChainMode))} (default: probed)")
    group.add_argument(
        "--rule",
        help="when a cut or probed chain stops: none, mild, low, mid, high, crazy, answer_consistency or "
        "boundary_confidence (default: mid; cut: 3 equal answers)",
    )
    group.add_argument("--interval", type=positive, help="thinking tokens between two readings")
    group.add_argument(
        "--min-thinking",
        type=non_negative,
        help="guided, cut: thinking tokens before the first forced answer (default: 256; the paper's: 0)",
    )
    group.add_argument(
        "--at-steps",
        action="store_true",
        default=None,
        help="guided, cut: force answers at the end of a step only (and let a cut chain have a rule that reads there)",
    )
    group.add_argument("--suffix", help=f"what a probe asks with: {', '.join(PROBE_SUFFIXES)}, or a text")
    group.add_argument("--resume", help="guided, cut: a text forced after each answer")
    group.add_argument("--exit", help=f"after a stop: {' or '.join(get_args(ChainExit))} (default: probe)")
    group.add_argument("--closing", help=f"what closes a thought: {', '.join(EXIT_CLOSINGS)}, or a text")


_PROGRAM_OPTIONS = (
    "vote", "stop_decided", "mode", "rule", "interval", "min_thinking", "at_steps", "suffix", "resume", "exit", "closing",
    "reward", "delimiter", "greedy_first", "reward_temperature", "branching", "num_children", "exploration", "num_parallel",
    "has_rollouts",
)  # fmt: skip


def make_recipe(arguments: argparse.Namespace) -> Recipe:
    """The recipe that the options describe, checked before any model is loaded."""
    return Recipe(
        program=arguments.program,
        policy=arguments.policy or ("even" if getattr(arguments, "trace", None) else None),
        budget=arguments.budget,
        preset=arguments.preset,
        thresholds=parse_thresholds(arguments.threshold),
        detect_at=arguments.detect_at,
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        top_k=arguments.top_k,
        max_new_tokens=arguments.max_new_tokens,
        seed=arguments.seed,
        prompt_format=arguments.prompt_format,
        system=arguments.system,
        instruction=arguments.instruction,
        enable_thinking=arguments.thinking,
        answer_format=arguments.answer_format,
        program_options=_read_program_options(arguments),
    )


def _read_program_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The program's own options that were given. A tree asks the reward model that was named, if one was."""
    given = {name: value for name in _PROGRAM_OPTIONS if (value := getattr(arguments, name)) is not None}
    names_model = getattr(arguments, "reward_model", "auto") != "auto"
    if names_model and "reward" in list_options(PROGRAMS.get(arguments.program, SelfConsistency)):
        given.setdefault("reward", "model")
    return given


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


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {value} but expected at least 1")
    return value


def seconds(text: str) -> float:
    """A finite time above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"got {value} but expected seconds above 0")
    return value


def non_negative(text: str) -> int:
    """A whole number of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"got {value} but expected 0 or more")
    return value
