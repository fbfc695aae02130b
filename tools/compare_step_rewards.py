"""Compares step rewards on fresh questions: which of them tells right steps from wrong ones, and chooses well.

Run from the repository root: `python tools/compare_step_rewards.py`. The questions are none of those of the model
cards. Every reward is the package's own (`hf_dynasor.serving.rewards`), so this measures what a `Score` request
returns. Prints a table and ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from embedded_training.evaluation import measure_step_reward  # noqa: E402
from embedded_training.metrics import majority, mean_share, wilson  # noqa: E402
from embedded_training.sampling import Chain, Reasoner, sample_for_problems  # noqa: E402
from embedded_training.step_scores import ScoredChain, best_of, label_steps  # noqa: E402

from hf_dynasor.certaindex.likelihood import RESULT_DIGITS  # noqa: E402
from hf_dynasor.embedded import REASONER_PATH, STEP_REWARD_PATH  # noqa: E402
from hf_dynasor.embedded.problems import Problem, generate_problems  # noqa: E402
from hf_dynasor.embedded.steps import line  # noqa: E402
from hf_dynasor.embedded.traces import STEP_DELIMITER  # noqa: E402
from hf_dynasor.evaluation.statistics import paired_difference  # noqa: E402
from hf_dynasor.serving.rewards import (  # noqa: E402
    LikelihoodReward,
    ProductReward,
    RewardModel,
    StepInput,
    load_reward_model,
)

CARD_QUESTIONS = 500  # of seed 0, on which the model cards were measured
NUM_CHAINS = 8


def main() -> None:
    """Samples, rates, prints."""
    args = _parse_args()
    torch.set_num_threads(args.num_threads)
    problems, chains = _drop_used(*_sample(args))
    rewards = make_rewards()
    rated = {name: Rated() for name in rewards}
    begin = time.process_time()
    for index, (problem, group) in enumerate(zip(problems, chains, strict=True)):
        for name, reward in rewards.items():
            rated[name].add(reward, problem, group)
        if index % 20 == 19:
            print(f"{index + 1} questions, {time.process_time() - begin:.0f} CPU seconds", flush=True)
    figures = measure(problems, chains, rated) | {"seed": args.seed}
    figures["normalisers"] = {name: reward.normaliser for name, reward in rewards.items()}
    figures["environment"] = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": "cpu",
    }
    for name, row in figures["rewards"].items():
        print(format_row(name, row))
    if args.output:
        args.output.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


def make_rewards() -> dict[str, RewardModel]:
    """What is compared; the first is the default. The likelihoods share what they read of the reasoner."""
    default = load_reward_model("embedded", device="cpu")
    assert isinstance(default, LikelihoodReward)
    digits = default.vary(pattern=RESULT_DIGITS)
    trained = load_reward_model(
        STEP_REWARD_PATH, device="cpu", dtype="float32", closes_turn=False, ending=STEP_DELIMITER
    )
    return {
        "least likely token": default,
        "least likely digit of a result": digits,
        "trained": trained,
        "trained times digits": ProductReward(digits, trained),
        "geometric mean of all tokens": default.vary(combination="geometric_mean"),
    }


@dataclass(slots=True)
class Rated:
    """The chains of every question as one reward model rates them, and what it read for that."""

    groups: list[list[ScoredChain]] = field(default_factory=list)
    num_read: int = 0
    num_reused: int = 0

    def add(self, reward: RewardModel, problem: Problem, chains: Sequence[Chain]) -> None:
        """Rate every step of the chains, and what follows the last step, each given what came before."""
        steps = [split_chain(chain.text) for chain in chains]
        inputs = [
            StepInput.of(problem.question, parts[: end + 1]) for parts in steps for end in range(len(parts))
        ]
        ratings = reward.score([reward.encode(step) for step in inputs])
        self.num_read += sum(rating.num_read for rating in ratings)
        self.num_reused += sum(rating.num_reused for rating in ratings)
        scores = iter([rating.score for rating in ratings])
        self.groups.append(
            [
                _make_scored(problem, chain, [next(scores) for _ in parts])
                for chain, parts in zip(chains, steps, strict=True)
            ]
        )


def measure(
    problems: Sequence[Problem], chains: Sequence[Sequence[Chain]], rated: dict[str, Rated]
) -> dict[str, Any]:
    """The figures of every reward, those of the chains, and the paired gains of the first reward."""
    flags = [[chain.answer == p.answer for chain in group] for p, group in zip(problems, chains, strict=True)]
    votes = [majority([c.answer for c in g]) == p.answer for p, g in zip(problems, chains, strict=True)]
    chosen = {name: best_of(row.groups) for name, row in rated.items()}
    (first, best), *others = chosen.items()
    return {
        "num_questions": len(problems),
        "num_chains": sum(len(group) for group in chains),
        "one_sample": asdict(mean_share([sum(group) / len(group) for group in flags])),
        "majority": asdict(wilson(votes)),
        "one_of_them_right": asdict(wilson([any(group) for group in flags])),
        "rewards": {name: measure_step_reward(row.groups) for name, row in rated.items()},
        "tokens_of_default": {"read": rated[first].num_read, "reused": rated[first].num_reused},
        "best_of_8_gain_of_default_over": {name: asdict(paired_difference(f, best)) for name, f in others},
        "best_of_8_gain_of_default_over_majority": asdict(paired_difference(votes, best)),
    }


def _make_scored(problem: Problem, chain: Chain, scores: Sequence[float]) -> ScoredChain:
    labels = label_steps(problem, chain.text)
    return ScoredChain(
        level=problem.level,
        is_right=chain.answer == problem.answer,
        scores=tuple(min(scores[: index + 1]) for index in range(len(labels))),
        labels=labels,
        final=min(scores),
    )


def split_chain(text: str) -> list[str]:
    """The chain's paragraphs, each with the blank line that ends it; joined they are the text."""
    parts = text.split(STEP_DELIMITER)
    return (
        [*(part + STEP_DELIMITER for part in parts[:-1]), parts[-1]]
        if parts[-1]
        else [part + STEP_DELIMITER for part in parts[:-1]]
    )


def format_row(name: str, figures: dict[str, Any]) -> str:
    """One line of the table."""
    levels = " ".join(f"{level}:{value:.3f}" for level, value in figures["auroc_by_level"].items())
    best = figures["best_of_8"]
    return (
        f"{name}: AUROC {figures['auroc_all_levels']:.3f}, pairs within a level "
        f"{figures['auroc_pairs_within_level']:.3f} ({levels}), best of 8 {100 * best['value']:.1f} "
        f"[{100 * best['low']:.1f}, {100 * best['high']:.1f}]"
    )


def _arithmetic(problem: Problem) -> str:
    return ";".join(line(step) for step in problem.steps)


def _sample(args: argparse.Namespace) -> tuple[list[Problem], list[list[Chain]]]:
    problems = generate_problems(args.num_problems, seed=args.seed, split="test")
    if args.chains and args.chains.exists():
        kept = json.loads(args.chains.read_text())
        return problems, [[Chain(**chain) for chain in group] for group in kept]
    chains = sample_for_problems(
        Reasoner.load(REASONER_PATH), problems, num_samples=NUM_CHAINS, temperature=1.0, seed=args.seed
    )
    if args.chains:
        args.chains.write_text(json.dumps([[asdict(chain) for chain in group] for group in chains]))
    return problems, chains


def _drop_used(
    problems: Sequence[Problem], chains: Sequence[list[Chain]]
) -> tuple[list[Problem], list[list[Chain]]]:
    """Leave out the questions whose arithmetic is among those of the model cards."""
    used = {_arithmetic(problem) for problem in generate_problems(CARD_QUESTIONS, seed=0, split="test")}
    pairs = [(p, g) for p, g in zip(problems, chains, strict=True) if _arithmetic(p) not in used]
    return [problem for problem, _ in pairs], [group for _, group in pairs]


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--num-problems", type=int, default=320)
    parser.add_argument("--seed", type=int, default=41)
    parser.add_argument("--num-threads", type=int, default=1)
    parser.add_argument("--chains", type=Path, help="file that keeps sampled chains for the next run")
    parser.add_argument("--output", type=Path, help="JSON file for every figure")
    return parser.parse_args()


if __name__ == "__main__":
    main()
