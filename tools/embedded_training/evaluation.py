"""Measures a reasoner on generated test problems and returns plain figures that JSON can hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from embedded_training.metrics import (
    Share,
    auroc,
    entropy_certaindex,
    kendall,
    majority,
    mean_share,
    pearson,
    samples_needed,
    wilson,
)
from embedded_training.sampling import Chain, Reasoner, sample_for_problems
from embedded_training.step_scores import (
    ScoredChain,
    auroc_by_level,
    auroc_over_all,
    auroc_over_pairs,
    best_of,
)
from hf_dynasor.embedded.problems import Problem
from hf_dynasor.embedded.traces import PROBES, THINK_END

Chains = Sequence[Sequence[Chain]]
Figures = dict[str, Any]

DETECT_AT = 5
BUDGET = 20
VOTES = (5, 10, 20)
BEST_OF = 8
_PROBE_TOKENS = 16
_PROBE = next(probe for probe in PROBES if probe.prompt.startswith(f"\n{THINK_END}"))


def measure_accuracy(
    problems: Sequence[Problem],
    values: Sequence[float],
    *,
    estimate: Callable[[Sequence[float]], Share] = wilson,
) -> Figures:
    """Returns the mean over problems with its 95% interval, over all and by level."""
    levels = sorted({problem.level for problem in problems})
    pairs = list(zip(problems, values, strict=True))
    return {
        "all": asdict(estimate(values)),
        "by_level": {
            str(level): asdict(estimate([value for problem, value in pairs if problem.level == level]))
            for level in levels
        },
    }


def measure_votes(problems: Sequence[Problem], chains: Chains) -> Figures:
    """Returns the accuracy of one sample (the mean over all samples of a question) and of votes."""
    means = [
        _share([chain.answer == problem.answer for chain in group])
        for problem, group in _pairs(problems, chains)
    ]
    figures = {"one_sample": measure_accuracy(problems, means, estimate=mean_share)}
    for count in VOTES:
        flags = [_vote(group[:count]) == problem.answer for problem, group in _pairs(problems, chains)]
        figures[f"vote_{count}"] = measure_accuracy(problems, flags)
    return figures


def measure_certaindex(problems: Sequence[Problem], chains: Chains) -> Figures:
    """Returns how well the entropy certaindex at five samples foretells the vote and the samples needed."""
    index = [entropy_certaindex(_answers(group[:DETECT_AT])) for group in chains]
    rights = [_vote(group[:DETECT_AT]) == problem.answer for problem, group in _pairs(problems, chains)]
    needs = [samples_needed(_answers(group), problem.answer) for problem, group in _pairs(problems, chains)]
    solved = [(value, need) for value, need in zip(index, needs, strict=True) if need is not None]
    values, counts = [value for value, _ in solved], [float(need) for _, need in solved]
    return {
        "auroc_right_vote": auroc(index, rights),
        "pearson_samples_needed": pearson(values, counts),
        "kendall_samples_needed": kendall(values, counts),
        "num_solved": len(solved),
    }


def measure_stopping(problems: Sequence[Problem], chains: Chains) -> Figures:
    """Returns tokens and accuracy of a vote of 20 that stops after five samples when they are unanimous."""
    saved = total = 0
    stopped, full_rights, early_rights = [], [], []
    for problem, group in _pairs(problems, chains):
        tokens = [chain.num_tokens for chain in group[:BUDGET]]
        is_unanimous = entropy_certaindex(_answers(group[:DETECT_AT])) > 0.7
        total += sum(tokens)
        saved += sum(tokens[DETECT_AT:]) if is_unanimous else 0
        stopped.append(is_unanimous)
        full_rights.append(_vote(group[:BUDGET]) == problem.answer)
        early_rights.append(
            full_rights[-1] if not is_unanimous else _vote(group[:DETECT_AT]) == problem.answer
        )
    return {
        "saved_token_share": saved / total,
        "stopped": measure_accuracy(problems, stopped),
        "accuracy_even": asdict(wilson(full_rights)),
        "accuracy_static": asdict(wilson(early_rights)),
        "tokens_per_sample": total / sum(len(group[:BUDGET]) for group in chains),
    }


def measure_step_reward(groups: Sequence[Sequence[ScoredChain]]) -> Figures:
    """Returns AUROC over steps and the accuracy of best-of-8 against one sample and a vote of the same eight."""
    by_level = auroc_by_level(groups)
    return {
        "auroc_all_levels": auroc_over_all(groups),
        "auroc_by_level": {str(level): value for level, value in by_level.items()},
        "auroc_pairs_within_level": auroc_over_pairs(groups),
        "auroc_mean_within_level": sum(by_level.values()) / len(by_level),
        "one_sample": asdict(mean_share([_share([chain.is_right for chain in group]) for group in groups])),
        "best_of_8": asdict(wilson(best_of(groups))),
        "num_steps": sum(len(chain.scores) for group in groups for chain in group),
        "share_right_steps": _share([label for group in groups for chain in group for label in chain.labels]),
    }


def measure_long(
    reasoner: Reasoner, problems: Sequence[Problem], *, temperature: float, seed: int
) -> Figures:
    """Returns accuracy and length of long thoughts, where they first state their answer, and probes along the way."""
    chains = sample_for_problems(
        reasoner,
        problems,
        num_samples=1,
        temperature=temperature,
        seed=seed,
        enable_thinking=True,
        max_new_tokens=700,
    )
    flags = [group[0].answer == problem.answer for problem, group in _pairs(problems, chains)]
    lengths = [group[0].num_tokens for group in chains]
    fractions = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    return {
        "temperature": temperature,
        "accuracy": measure_accuracy(problems, flags),
        "tokens": sum(lengths) / len(lengths),
        "finished": _share([group[0].answer is not None for group in chains]),
        "stated_after": _mean_stated(chains),
        "probe_accuracy": {
            str(fraction): asdict(wilson(_probe(reasoner, problems, chains, fraction)))
            for fraction in fractions
        },
    }


def _probe(reasoner: Reasoner, problems: Sequence[Problem], chains: Chains, fraction: float) -> list[bool]:
    """Cuts each thought after a share of its tokens, asks for the answer, and tells whether it is right."""
    prompts = []
    for problem, group in _pairs(problems, chains):
        thought = group[0].text.split(THINK_END)[0].rstrip("\n")
        ids = reasoner.tokenizer(thought, add_special_tokens=False)["input_ids"]
        kept = reasoner.tokenizer.decode(ids[: round(fraction * len(ids))])
        prompts.append(reasoner.render(problem.question, enable_thinking=True) + kept + _PROBE.prompt)
    replies = reasoner.sample(prompts, temperature=0.0, seed=0, max_new_tokens=_PROBE_TOKENS)
    return [
        reply.text.split("}")[0] == problem.answer for problem, reply in zip(problems, replies, strict=True)
    ]


def _mean_stated(chains: Chains) -> float:
    """Returns the mean share of a thought's characters that come before its answer is first stated."""
    shares = []
    for group in chains:
        text = group[0].text
        place = text.find("So the answer is")
        if place >= 0 and THINK_END in text:
            shares.append(place / len(text))
    return sum(shares) / len(shares) if shares else 1.0


def _pairs(problems: Sequence[Problem], chains: Chains) -> list[tuple[Problem, Sequence[Chain]]]:
    return list(zip(problems, chains, strict=True))


def _answers(group: Sequence[Chain]) -> list[str | None]:
    return [chain.answer for chain in group]


def _vote(group: Sequence[Chain]) -> str | None:
    return majority(_answers(group))


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)
