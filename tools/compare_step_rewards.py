"""Compares step rewards on fresh questions: which of them tells right steps from wrong ones, and chooses well.

Run from the repository root: `python tools/compare_step_rewards.py`. The questions are none of those of the model
cards. Every reward is the package's own (`hf_dynasor.serving.rewards`), but reads a chain once for all of its steps.
Prints a table and ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from embedded_training.cards import write_step_reward_card  # noqa: E402
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
    ScalarHeadReward,
    StepInput,
    load_reward_model,
)
from hf_dynasor.serving.rewards.reader import Reading  # noqa: E402

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
    if args.write_card:
        write_step_reward_card(figures, reasoner_folder=REASONER_PATH, step_reward_folder=STEP_REWARD_PATH)
    print(json.dumps(figures))


def make_rewards() -> dict[str, RewardModel]:
    """What is compared; the first is the default."""
    default = load_reward_model("embedded", device="cpu")
    trained = load_reward_model(
        STEP_REWARD_PATH,
        device="cpu",
        dtype="float32",
        closes_turn=False,
        ending=STEP_DELIMITER,
    )
    assert isinstance(default, LikelihoodReward)
    assert isinstance(trained, ScalarHeadReward)
    default.reader = ChainReader(partial(read_logprobs, default.model), is_scalar=False)
    trained.reader = ChainReader(partial(read_scores, trained.model), is_scalar=True)
    digits = default.vary(pattern=RESULT_DIGITS)
    return {
        "least likely token": default,
        "least likely digit of a result": digits,
        "trained": trained,
        "trained times digits": ProductReward(digits, trained),
        "geometric mean of all tokens": default.vary(combination="geometric_mean"),
    }


class ChainReader:
    """Reads each chain once and every path that is its beginning with it: the models are causal, so they agree.

    It also remembers its last call, which the next reward model repeats.
    """

    def __init__(self, read: Callable[[tuple[int, ...]], Sequence[float]], *, is_scalar: bool) -> None:
        self._read, self._is_scalar = read, is_scalar
        self._last: tuple[list[tuple[int, ...]], list[Reading]] = ([], [])

    def read(self, paths: list[tuple[int, ...]]) -> list[Reading]:
        """What `PathReader` would read."""
        if self._last[0] != paths:
            ordered = sorted(set(paths), key=len, reverse=True)
            values: dict[tuple[int, ...], Sequence[float]] = {}
            for path in ordered:
                whole = next((longer for longer in values if longer[: len(path)] == path), None)
                values[path] = values[whole][: len(path)] if whole is not None else self._read(path)
            self._last = (paths, [self._make_reading(values[path]) for path in paths])
        return self._last[1]

    def _make_reading(self, values: Sequence[float]) -> Reading:
        last = (values[-1],) if self._is_scalar else ()
        return Reading(
            last=last, values=() if self._is_scalar else tuple(values), num_read=len(values), num_reused=0
        )


@torch.inference_mode()
def read_logprobs(model: Any, ids: tuple[int, ...]) -> list[float]:
    """The log-probability of every token, 0 for the first."""
    rows = torch.tensor([ids])
    logprobs = model(input_ids=rows).logits[0, :-1].float().log_softmax(dim=-1)
    return [0.0, *logprobs.gather(-1, rows[0, 1:, None])[:, 0].tolist()]


@torch.inference_mode()
def read_scores(model: Any, ids: tuple[int, ...]) -> list[float]:
    """The scalar head at every token."""
    scores: list[float] = model.score(model.model(input_ids=torch.tensor([ids])).last_hidden_state)[
        0, :, 0
    ].tolist()
    return scores


@dataclass(slots=True)
class Rated:
    """The chains of every question as one reward model rates them."""

    groups: list[list[ScoredChain]] = field(default_factory=list)

    def add(self, reward: RewardModel, problem: Problem, chains: Sequence[Chain]) -> None:
        """Rate every step of the chains, and what follows the last step, each given what came before."""
        steps = [split_chain(chain.text) for chain in chains]
        inputs = [
            StepInput.of(problem.question, parts[: end + 1]) for parts in steps for end in range(len(parts))
        ]
        ratings = reward.score([reward.encode(step) for step in inputs])
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
    (_, best), *others = chosen.items()
    return {
        "num_questions": len(problems),
        "num_chains": sum(len(group) for group in chains),
        "one_sample": asdict(mean_share([sum(group) / len(group) for group in flags])),
        "majority": asdict(wilson(votes)),
        "one_of_them_right": asdict(wilson([any(group) for group in flags])),
        "rewards": {
            name: measure_step_reward(row.groups)
            | {
                "chain_pairs_within_question": order_within_questions(row.groups),
                "result_pairs": order_results(chains, row.groups),
            }
            for name, row in rated.items()
        },
        "best_of_8_gain_of_default_over": {name: asdict(paired_difference(f, best)) for name, f in others},
        "best_of_8_gain_of_default_over_majority": asdict(paired_difference(votes, best)),
    }


def order_within_questions(groups: Sequence[Sequence[ScoredChain]]) -> float:
    """The share of (right, wrong) pairs of chains of one question that are in order: what choosing rests on.

    A reward that only knows which questions, or which lengths of chains, are hard is at 0.5 here.
    """
    total = ordered = 0.0
    for group in groups:
        right = [chain.value for chain in group if chain.is_right]
        wrong = [chain.value for chain in group if not chain.is_right]
        total += len(right) * len(wrong)
        ordered += sum((a > b) + 0.5 * (a == b) for a in right for b in wrong)
    return ordered / total


def order_results(chains: Sequence[Sequence[Chain]], groups: Sequence[Sequence[ScoredChain]]) -> float:
    """The share of pairs in order that differ in nothing but a step's result: same question, same text before it.

    0.5 means that a reward cannot tell a right digit from a wrong one.
    """
    total = ordered = 0.0
    for texts, group in zip(chains, groups, strict=True):
        steps = [chain.text.split(STEP_DELIMITER) for chain in texts]
        for (mine, right), (theirs, wrong) in itertools.permutations(zip(steps, group, strict=True), 2):
            for index, (a, b) in enumerate(zip(right.labels, wrong.labels, strict=False)):
                is_pair = a and not b and mine[:index] == theirs[:index]
                if is_pair and mine[index].split("=")[0] == theirs[index].split("=")[0]:
                    difference = right.scores[index] - wrong.scores[index]
                    total += 1
                    ordered += (difference > 0) + 0.5 * (difference == 0)
    return ordered / total


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
        f"{figures['auroc_pairs_within_level']:.3f} ({levels}), chains within a question "
        f"{figures['chain_pairs_within_question']:.3f}, results {figures['result_pairs']:.3f}, best of 8 {100 * best['value']:.1f} "
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
    parser.add_argument(
        "--write-card", action="store_true", help="write evaluation.json and README.md beside the step reward"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
