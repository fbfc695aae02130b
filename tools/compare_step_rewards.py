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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from embedded_training.evaluation import measure_step_reward  # noqa: E402
from embedded_training.metrics import Share, majority, mean_share, wilson  # noqa: E402
from embedded_training.sampling import Chain, Reasoner, sample_for_problems  # noqa: E402
from embedded_training.step_scores import ScoredChain, best_of, label_steps  # noqa: E402

from hf_dynasor.certaindex.likelihood import RESULT_DIGITS  # noqa: E402
from hf_dynasor.embedded import REASONER_PATH, STEP_REWARD_PATH  # noqa: E402
from hf_dynasor.embedded.problems import Problem, generate_problems  # noqa: E402
from hf_dynasor.embedded.steps import line  # noqa: E402
from hf_dynasor.embedded.traces import STEP_DELIMITER  # noqa: E402
from hf_dynasor.serving import load_model  # noqa: E402
from hf_dynasor.serving.rewards import (  # noqa: E402
    LikelihoodReward,
    ProductReward,
    RewardModel,
    StepInput,
    load_reward_model,
)

CARD_QUESTIONS = 500  # of seed 0, on which the model cards were measured
Groups = list[list[ScoredChain]]


def main() -> None:
    """Samples, rates, prints."""
    args = _parse_args()
    torch.set_num_threads(args.num_threads)
    problems = draw_fresh_problems(args.num_problems, seed=args.seed)
    chains = _sample(args, problems)
    rewards = make_rewards()
    figures: dict[str, Any] = {
        "num_questions": len(problems),
        "seed": args.seed,
        "chains_per_question": args.num_samples,
        "one_sample": asdict(
            mean_share(
                [_share([c.answer == p.answer for c in g]) for p, g in zip(problems, chains, strict=True)]
            )
        ),
        "vote": asdict(
            wilson(
                [majority([c.answer for c in g]) == p.answer for p, g in zip(problems, chains, strict=True)]
            )
        ),
        "one_right": asdict(
            wilson([any(c.answer == p.answer for c in g) for p, g in zip(problems, chains, strict=True)])
        ),
        "rewards": {},
        "environment": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "device": "cpu",
        },
    }
    chosen: dict[str, list[bool]] = {}
    for name, reward in rewards.items():
        begin = time.process_time()
        groups, num_read, num_reused = rate_chains(reward, problems, chains)
        figures["rewards"][name] = measure_step_reward(groups) | {
            "normaliser": reward.normaliser,
            "tokens_read": num_read,
            "tokens_reused": num_reused,
            "cpu_seconds": round(time.process_time() - begin, 1),
        }
        chosen[name] = best_of(groups)
        print(format_row(name, figures["rewards"][name]), flush=True)
    first = next(iter(rewards))
    figures["best_of_8_gain_of_first"] = {
        name: asdict(_paired(chosen[first], flags)) for name, flags in chosen.items() if name != first
    }
    if args.output:
        args.output.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


def draw_fresh_problems(num_problems: int, *, seed: int) -> list[Problem]:
    """Test questions whose arithmetic is not among those of the model cards."""
    used = {_arithmetic(problem) for problem in generate_problems(CARD_QUESTIONS, seed=0, split="test")}
    drawn = generate_problems(num_problems, seed=seed, split="test")
    return [problem for problem in drawn if _arithmetic(problem) not in used]


def make_rewards() -> dict[str, RewardModel]:
    """What is compared; the first is the default."""
    reasoner = load_model(device="cpu")
    digits = LikelihoodReward(reasoner, pattern=RESULT_DIGITS)
    trained = load_reward_model(
        STEP_REWARD_PATH, device="cpu", dtype="float32", closes_turn=False, ending=STEP_DELIMITER
    )
    return {
        "least likely token": load_reward_model("embedded", device="cpu"),
        "least likely digit of a result": digits,
        "trained": trained,
        "trained times digits": ProductReward(digits, trained),
        "geometric mean of all tokens": LikelihoodReward(reasoner, combination="geometric_mean"),
    }


def rate_chains(
    reward: RewardModel, problems: Sequence[Problem], chains: Sequence[Sequence[Chain]]
) -> tuple[Groups, int, int]:
    """Rate every step of every chain, and what follows the last step, each given what came before.

    Returns:
        The scored chains of each question, tokens read, tokens reused.
    """
    groups: Groups = []
    num_read = num_reused = 0
    for problem, group in zip(problems, chains, strict=True):
        steps = [split_chain(chain.text) for chain in group]
        inputs = [
            reward.encode(StepInput.of(problem.question, parts[: end + 1]))
            for parts in steps
            for end in range(len(parts))
        ]
        ratings = iter(reward.score(inputs))
        scored: list[ScoredChain] = []
        for chain, parts in zip(group, steps, strict=True):
            own = [next(ratings) for _ in parts]
            num_read += sum(rating.num_read for rating in own)
            num_reused += sum(rating.num_reused for rating in own)
            labels = label_steps(problem, chain.text)
            scores = [rating.score for rating in own]
            scored.append(
                ScoredChain(
                    level=problem.level,
                    is_right=chain.answer == problem.answer,
                    scores=tuple(min(scores[: index + 1]) for index in range(len(labels))),
                    labels=labels,
                    final=min(scores),
                )
            )
        groups.append(scored)
    return groups, num_read, num_reused


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
        f"[{100 * best['low']:.1f}, {100 * best['high']:.1f}], {figures['tokens_read']} tokens read, "
        f"{figures['tokens_reused']} reused, {figures['cpu_seconds']} s"
    )


def _arithmetic(problem: Problem) -> str:
    return ";".join(line(step) for step in problem.steps)


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)


def _paired(first: Sequence[bool], second: Sequence[bool]) -> Share:
    """The mean gain of the first over the second, question by question, with its 95% interval."""
    gains = [float(a) - float(b) for a, b in zip(first, second, strict=True)]
    n, mean = len(gains), sum(gains) / len(gains)
    half = 1.96 * (sum((gain - mean) ** 2 for gain in gains) / max(1, n - 1) / n) ** 0.5
    return Share(value=mean, low=mean - half, high=mean + half, num_trials=n)


def _sample(args: argparse.Namespace, problems: Sequence[Problem]) -> list[list[Chain]]:
    if args.chains and args.chains.exists():
        return [[Chain(**chain) for chain in group] for group in json.loads(args.chains.read_text())]
    reasoner = Reasoner.load(REASONER_PATH)
    chains = sample_for_problems(
        reasoner, problems, num_samples=args.num_samples, temperature=1.0, seed=args.seed
    )
    if args.chains:
        args.chains.write_text(json.dumps([[asdict(chain) for chain in group] for group in chains]))
    return chains


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--num-problems", type=int, default=320)
    parser.add_argument("--num-samples", type=int, default=8)
    parser.add_argument("--seed", type=int, default=41)
    parser.add_argument("--num-threads", type=int, default=1)
    parser.add_argument("--chains", type=Path, help="file that keeps sampled chains for the next run")
    parser.add_argument("--output", type=Path, help="JSON file for every figure")
    return parser.parse_args()


if __name__ == "__main__":
    main()
