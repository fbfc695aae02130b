"""Game of 24: trees against samples with a small model trained for it, at the same net tokens.

Trains a model that writes steps and one that rates them (about 10 minutes of one core; --models keeps both), on puzzles
that are not in the test. Then samples and searches the test puzzles. A puzzle counts as *solved* where any finished path
is a solution, which anybody can check; as *chosen* where the path with the highest reward is one. What the rater reads
counts as reward tokens. Samples at the same tokens: each puzzle's chance that one of so many samples, drawn from those
that were taken, is a solution; and of rated samples that the best of so many is one. Prints a table and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from game24_models import DELIMITER, make_config, make_tokenizer, train_rater, train_writer
from game24_task import is_solution, split_puzzles
from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from hf_dynasor.engine import Engine
from hf_dynasor.evaluation import Question, evaluate, paired_difference, wilson_interval
from hf_dynasor.paths import PathRecord
from hf_dynasor.programs import ModelReward
from hf_dynasor.recipe import Recipe
from hf_dynasor.serving import make_engine
from hf_dynasor.serving.rewards import load_reward_model

MAX_ACTIVE = 32
BATCH = 64
MAX_NEW_TOKENS = 64
RATED = {"reward": ModelReward(steps="last")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What one program did on every puzzle with one budget.

    Args:
        name, budget: What was run.
        paths: For each puzzle the finished paths, in the order of the knob's units.
        tokens: Net tokens a puzzle, reward tokens among them.
        reward_tokens: Those alone.
    """

    name: str
    budget: int
    paths: list[list[Ending]]
    tokens: float
    reward_tokens: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A finished path: whether it is a solution, and its reward."""

    is_solution: bool
    reward: float


def main() -> None:
    """Train where needed, run every arm, report."""
    arguments = _parse()
    torch.set_num_threads(1)
    train, test = split_puzzles(arguments.num_test, seed=0)
    rng = random.Random(1)
    puzzles = [" ".join(map(str, rng.sample(numbers, 4))) for numbers in test]
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.models or Path(scratch)
        if not (folder / "rater").exists():
            _train(folder, train, arguments)
        with _open_engine(folder, arguments.engine) as engine:
            samples = _run("best_of_n", arguments.num_samples, {}, puzzles, engine)
            arms = [
                _run(program, budget, options, puzzles, engine)
                for program, budget, options in _plan(arguments.widths)
            ]
    rows = [_describe(arm, samples, rated=arms[-1]) for arm in (samples, *arms)]
    curve = {count: round(_mean(_expect(samples, count)), 4) for count in _powers(arguments.num_samples)}
    print(
        json.dumps(
            {"benchmark": "game24", "num_puzzles": len(puzzles), "solved_by_samples": curve, "rows": rows}
        )
    )


def _plan(widths: Sequence[int]) -> list[tuple[str, int, dict]]:
    plan = [("rebase", width, RATED | {"reward_temperature": 0.1}) for width in widths]
    plan += [("mcts", width, RATED) for width in widths]
    plan.append(("best_of_n", max(widths), RATED))
    return plan


def _train(folder: Path, puzzles: list[tuple[int, ...]], arguments: argparse.Namespace) -> None:
    """What is not in the folder yet."""
    tokenizer = make_tokenizer()
    if (folder / "writer").exists():
        writer = LlamaForCausalLM.from_pretrained(folder / "writer")
    else:
        config = make_config(tokenizer, hidden=arguments.hidden, num_layers=arguments.layers)
        writer = train_writer(puzzles, tokenizer, config, num_steps=arguments.writer_steps, batch_size=BATCH)
        _save(folder / "writer", writer, tokenizer)
    rater = train_rater(puzzles, tokenizer, writer.eval(), num_steps=arguments.rater_steps, batch_size=BATCH)
    _save(folder / "rater", rater, tokenizer)


def _save(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _open_engine(folder: Path, name: str) -> Engine:
    rater = load_reward_model(
        folder / "rater", kind="scalar", dtype="float32", device="cpu", closes_turn=False, ending=DELIMITER
    )
    return make_engine(folder / "writer", engine=name, dtype="float32", device="cpu", reward=rater)


def _run(program: str, budget: int, options: dict, puzzles: list[str], engine: Engine) -> Arm:
    recipe = Recipe(
        program=program,
        budget=budget,
        policy="even",
        temperature=1.0,
        max_new_tokens=MAX_NEW_TOKENS,
        seed=0,
        instruction="",
        program_options=options,
    )
    questions = [Question(id=puzzle, question=puzzle, answer="24") for puzzle in puzzles]
    report = evaluate(questions, recipe, engine, max_active=MAX_ACTIVE)
    assert not report.errors, report.errors[0].error
    arm = Arm(
        name=program + ("" if options else " (no rater)"),
        budget=budget,
        paths=[_read_paths(item.question.question, item.answer.paths) for item in report.results],
        tokens=report.usage.net_tokens / len(puzzles),
        reward_tokens=report.usage.reward / len(puzzles),
    )
    print(
        f"{arm.name} {budget}: {arm.tokens:.0f} tokens, {report.seconds:.0f} s", file=sys.stderr, flush=True
    )
    return arm


def _read_paths(puzzle: str, pieces: Sequence[PathRecord]) -> list[Ending]:
    by_name = {piece.request_id: piece for piece in pieces}
    found = []
    for leaf in (piece for piece in pieces if piece.is_terminal):
        texts: list[str] = []
        node: PathRecord | None = leaf
        while node is not None:
            texts.append(node.text)
            node = by_name[node.parent] if node.parent is not None else None
        found.append(Ending(is_solution=is_solution(puzzle, "".join(texts[::-1])), reward=leaf.reward or 0.0))
    return found


def _describe(arm: Arm, samples: Arm, rated: Arm) -> dict:
    """Its row, beside samples and beside rated samples that spend the same net tokens."""
    solved = [float(any(path.is_solution for path in paths)) for paths in arm.paths]
    chosen = [float(_choose(paths)) for paths in arm.paths]
    count = min(samples.budget, arm.tokens / (samples.tokens / samples.budget))
    at_equal = _expect(samples, count)
    row = {
        "program": arm.name,
        "budget": arm.budget,
        "net_tokens": round(arm.tokens, 1),
        "reward_tokens": round(arm.reward_tokens, 1),
        "solved": _share(solved),
        "chosen": _share(chosen),
        "samples_at_equal_tokens": round(count, 2),
        "solved_by_samples_at_equal_tokens": round(_mean(at_equal), 4),
    }
    if arm is not samples:
        row["points_above_samples"] = _difference(at_equal, solved)
    if arm not in (samples, rated):
        count = min(rated.budget, arm.tokens / (rated.tokens / rated.budget))
        best = _interpolate(rated, count, _chance_of_best)
        row["rated_samples_at_equal_tokens"] = round(count, 2)
        row["chosen_from_rated_samples_at_equal_tokens"] = round(_mean(best), 4)
        row["points_chosen_above_rated_samples"] = _difference(best, chosen)
    low, high = row["solved"]["interval"]
    print(
        f"{arm.name:22} {arm.budget:3}: solved {row['solved']['share']:6.1%} [{low:.1%}, {high:.1%}]  chosen "
        f"{row['chosen']['share']:6.1%}  {arm.tokens:7.1f} net tokens; samples of as many: {_mean(at_equal):6.1%}"
    )
    return row


def _choose(paths: Sequence[Ending]) -> bool:
    """Whether the path with the highest reward is a solution; of equals the first."""
    return bool(paths) and max(paths, key=lambda path: path.reward).is_solution


def _expect(samples: Arm, count: float) -> list[float]:
    """For each puzzle the chance that `count` of its samples hold a solution."""
    return _interpolate(samples, count, _chance)


def _interpolate(samples: Arm, count: float, chance: Callable[[Sequence[Ending], int], float]) -> list[float]:
    """A chance for each puzzle; between whole counts: linear."""
    low = math.floor(count)
    share = count - low
    return [
        (1 - share) * chance(paths, low) + (share * chance(paths, low + 1) if share else 0.0)
        for paths in samples.paths
    ]


def _chance_of_best(paths: Sequence[Ending], count: int) -> float:
    """The chance that the best of `count` of the paths, drawn without putting back, is a solution."""
    order = sorted(paths, key=lambda path: -path.reward)
    ways = math.comb(len(order), count)
    return sum(
        path.is_solution * math.comb(len(order) - 1 - rank, count - 1) / ways
        for rank, path in enumerate(order)
    )


def _chance(paths: Sequence[Ending], count: int) -> float:
    wrong = sum(not path.is_solution for path in paths)
    return 1 - math.comb(wrong, count) / math.comb(len(paths), count)


def _share(flags: Sequence[float]) -> dict:
    low, high = wilson_interval(round(sum(flags)), len(flags))
    return {"share": round(_mean(flags), 4), "interval": [round(low, 4), round(high, 4)]}


def _difference(before: Sequence[float], after: Sequence[float]) -> dict:
    found = paired_difference(before, after)
    return {
        "points": round(found.mean * 100, 2),
        "interval": [round(found.low * 100, 2), round(found.high * 100, 2)],
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _powers(largest: int) -> list[int]:
    return [2**power for power in range(largest.bit_length()) if 2**power <= largest]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-test", type=int, default=100, help="puzzles that are held back")
    parser.add_argument("--num-samples", type=int, default=48)
    parser.add_argument("--widths", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--writer-steps", type=int, default=600)
    parser.add_argument("--rater-steps", type=int, default=1500)
    parser.add_argument("--models", type=Path, help="folder that keeps the trained models for the next call")
    parser.add_argument("--engine", default="continuous")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
