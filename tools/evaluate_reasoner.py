"""Measures the embedded reasoner and its step rewards on generated test questions.

Run from the repository root: `python tools/evaluate_reasoner.py`. Prints a table, writes every figure to a JSON file,
and, with `--write-cards`, writes the model cards from that file's figures alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from embedded_training.cards import format_table, write_cards  # noqa: E402
from embedded_training.evaluation import (  # noqa: E402
    BEST_OF,
    BUDGET,
    Chains,
    Figures,
    measure_accuracy,
    measure_certaindex,
    measure_long,
    measure_step_reward,
    measure_stopping,
    measure_votes,
)
from embedded_training.sampling import Chain, Reasoner, sample_for_problems  # noqa: E402
from embedded_training.step_scores import LikelihoodScorer, RewardScorer, multiply_scores, score_chains  # noqa: E402

from hf_dynasor.embedded import REASONER_PATH, STEP_REWARD_PATH  # noqa: E402
from hf_dynasor.embedded.problems import Problem, generate_problems  # noqa: E402

_REWARD_TEMPERATURE = 1.0


def main() -> None:
    """Measures, prints and writes."""
    args = _parse_args()
    torch.set_num_threads(args.num_threads)
    reasoner = Reasoner.load(args.model, device=args.device)
    problems = generate_problems(args.num_problems, seed=args.seed, split="test")
    figures: Figures = {"num_problems": args.num_problems, "seed": args.seed, "levels_take_turns": True}
    figures["greedy"] = _measure_greedy(reasoner, problems)
    print(f"greedy {figures['greedy']['all']['value']:.3f}", flush=True)
    figures["sampling"] = {}
    for temperature in args.temperatures:
        chains = _sample(args, reasoner, problems, temperature)
        figures["sampling"][str(temperature)] = _measure_samples(problems, chains)
        if temperature == _REWARD_TEMPERATURE:
            figures["step_reward"] = _measure_rewards(args, reasoner, problems, chains)
    if args.num_long:
        long_problems = problems[: args.num_long]
        figures["long"] = measure_long(reasoner, long_problems, temperature=0.6, seed=args.seed)
    print(format_table(figures))
    if args.output:
        args.output.write_text(json.dumps(figures, indent=1) + "\n")
    if args.write_cards:
        write_cards(figures, reasoner_folder=args.model, step_reward_folder=args.step_reward)
    print(json.dumps(figures))


def _measure_greedy(reasoner: Reasoner, problems: Sequence[Problem]) -> Figures:
    chains = sample_for_problems(reasoner, problems, num_samples=1, temperature=0.0, seed=0)
    flags = [group[0].answer == problem.answer for problem, group in zip(problems, chains, strict=True)]
    return measure_accuracy(problems, flags)


def _sample(
    args: argparse.Namespace, reasoner: Reasoner, problems: Sequence[Problem], temperature: float
) -> Chains:
    """Returns samples, read from `--chains` where an earlier run with the same options has left them."""
    name = f"seed{args.seed}-{args.num_problems}x{args.num_samples}-T{temperature}.json"
    kept = args.chains / name if args.chains else None
    if kept and kept.exists():
        return [[Chain(**chain) for chain in group] for group in json.loads(kept.read_text())]
    chains = sample_for_problems(
        reasoner, problems, num_samples=args.num_samples, temperature=temperature, seed=args.seed
    )
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps([[asdict(chain) for chain in group] for group in chains]))
    return chains


def _measure_samples(problems: Sequence[Problem], chains: Chains) -> Figures:
    figures = measure_votes(problems, chains)
    figures["certaindex"] = measure_certaindex(problems, chains)
    figures["stopping"] = measure_stopping(problems, chains)
    return figures


def _measure_rewards(
    args: argparse.Namespace, reasoner: Reasoner, problems: Sequence[Problem], chains: Chains
) -> Figures:
    eight = [group[:BEST_OF] for group in chains]
    likely = score_chains(LikelihoodScorer(reasoner), problems, eight)
    figures = {"likelihood": measure_step_reward(likely)}
    if args.step_reward and (args.step_reward / "config.json").exists():
        reward = AutoModelForSequenceClassification.from_pretrained(args.step_reward, dtype=torch.float32)
        scorer = RewardScorer(reasoner, reward.to(args.device).eval())
        trained = score_chains(scorer, problems, eight)
        figures["trained"] = measure_step_reward(trained)
        figures["both multiplied"] = measure_step_reward(multiply_scores(likely, trained))
    return figures


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=REASONER_PATH, help="folder of the reasoner")
    parser.add_argument(
        "--step-reward", type=Path, default=STEP_REWARD_PATH, help="folder of the step reward"
    )
    parser.add_argument("--num-problems", type=int, default=500)
    parser.add_argument("--num-samples", type=int, default=BUDGET)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 0.7])
    parser.add_argument(
        "--num-long", type=int, default=200, help="test questions for long thoughts, 0 for none"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--num-threads", type=int, default=1)
    parser.add_argument("--chains", type=Path, help="folder that keeps sampled chains for the next run")
    parser.add_argument("--output", type=Path, help="JSON file for every figure")
    parser.add_argument("--write-cards", action="store_true", help="write README.md into both model folders")
    return parser.parse_args()


if __name__ == "__main__":
    main()
