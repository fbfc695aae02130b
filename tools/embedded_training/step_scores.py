"""Scores the steps of chains: by the likelihood of their result digits, and by a trained step reward model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from embedded_training.metrics import auroc
from embedded_training.sampling import Chain, Reasoner
from hf_dynasor.embedded.problems import Problem
from hf_dynasor.embedded.steps import line
from hf_dynasor.embedded.traces import STEP_DELIMITER

_STEP = re.compile(r"(\d+[-+*/]\d+=)(\d+)$")
_MIN_CLASS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredChain:
    """A chain with a score in [0, 1] for each of its steps; `labels` tell whether all is right so far."""

    level: int
    is_right: bool
    scores: tuple[float, ...]
    labels: tuple[bool, ...]
    final: float = 1.0

    @property
    def value(self) -> float:
        """The score of the whole chain: the worst of its steps' and, where the scorer gives one, of its end's."""
        return min((*self.scores, self.final)) if self.scores else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tokens:
    """A chain as token ids, and the positions of each step's result digits and of its delimiter."""

    ids: tuple[int, ...]
    results: tuple[tuple[int, ...], ...]
    ends: tuple[int, ...]


class LikelihoodScorer:
    """Score of a step: the smallest probability, over this step and those before, of a result digit."""

    def __init__(self, reasoner: Reasoner) -> None:
        self._reasoner = reasoner

    def score(self, problem: Problem, chains: Sequence[Chain]) -> list[tuple[tuple[float, ...], float]]:
        """Returns the scores of the steps and of the end of each chain."""
        rows = [_tokenize(self._reasoner, problem, chain.text) for chain in chains]
        logits, ids = _run(self._reasoner.model, self._reasoner.tokenizer, rows)
        chosen = ids[:, 1:, None].to(logits.device)
        probabilities = logits[:, :-1].float().softmax(-1).gather(-1, chosen)[..., 0].cpu()
        return [
            (_running_minimum([_smallest(probabilities[index], step) for step in row.results]), 1.0)
            for index, row in enumerate(rows)
        ]


class RewardScorer:
    """Score of a step: a sequence-classification model's probability that all is right up to the step's end."""

    def __init__(self, reasoner: Reasoner, model: PreTrainedModel) -> None:
        self._reasoner, self._model = reasoner, model

    def score(self, problem: Problem, chains: Sequence[Chain]) -> list[tuple[tuple[float, ...], float]]:
        """Returns the scores of the steps and of the end of each chain; the model is causal, so one pass gives every step's."""
        rows = [_tokenize(self._reasoner, problem, chain.text) for chain in chains]
        scores = _run_reward(self._model, self._reasoner.tokenizer, rows)
        return [
            (
                _running_minimum([scores[index, place].item() for place in row.ends]),
                scores[index, len(row.ids) - 1].item(),
            )
            for index, row in enumerate(rows)
        ]


def score_chains(
    scorer: LikelihoodScorer | RewardScorer, problems: Sequence[Problem], chains: Sequence[Sequence[Chain]]
) -> list[list[ScoredChain]]:
    """Returns the scored chains of each problem."""
    return [
        [
            ScoredChain(
                level=problem.level,
                is_right=chain.answer == problem.answer,
                scores=scores,
                labels=label_steps(problem, chain.text),
                final=final,
            )
            for chain, (scores, final) in zip(group, scorer.score(problem, group), strict=True)
        ]
        for problem, group in zip(problems, chains, strict=True)
    ]


def multiply_scores(
    first: Sequence[Sequence[ScoredChain]], second: Sequence[Sequence[ScoredChain]]
) -> list[list[ScoredChain]]:
    """Returns the same chains, each score the product of the two."""
    return [
        [
            replace(
                a,
                scores=tuple(x * y for x, y in zip(a.scores, b.scores, strict=True)),
                final=a.final * b.final,
            )
            for a, b in zip(group, other, strict=True)
        ]
        for group, other in zip(first, second, strict=True)
    ]


def label_steps(problem: Problem, text: str) -> tuple[bool, ...]:
    """Tells for each step of a chain whether it and all before it are the problem's own steps."""
    right = [line(step) for step in problem.steps]
    labels: list[bool] = []
    for index, written in enumerate(_split_steps(text)):
        is_right = index < len(right) and written == right[index]
        labels.append(is_right and (not labels or labels[-1]))
    return tuple(labels)


def auroc_by_level(groups: Sequence[Sequence[ScoredChain]]) -> dict[int, float]:
    """Returns the AUROC over steps within each level that has at least ten right and ten wrong steps."""
    found: dict[int, float] = {}
    for level in sorted({chain.level for group in groups for chain in group}):
        scores, labels = _pool(groups, level)
        value = auroc(scores, labels)
        if value is not None and min(sum(labels), len(labels) - sum(labels)) >= _MIN_CLASS:
            found[level] = value
    return found


def auroc_over_pairs(groups: Sequence[Sequence[ScoredChain]]) -> float:
    """Returns the share of (right, wrong) pairs of steps of one level that are in order, over all levels."""
    total = ordered = 0.0
    for level in {chain.level for group in groups for chain in group}:
        scores, labels = _pool(groups, level)
        num_pairs = sum(labels) * (len(labels) - sum(labels))
        total += num_pairs
        ordered += num_pairs * (auroc(scores, labels) or 0.0)
    return ordered / total


def auroc_over_all(groups: Sequence[Sequence[ScoredChain]]) -> float | None:
    """Returns the AUROC over the steps of all levels together."""
    return auroc(*_pool(groups, None))


def best_of(groups: Sequence[Sequence[ScoredChain]]) -> list[bool]:
    """Tells for each problem whether the chain with the highest value is right."""
    return [max(group, key=lambda chain: chain.value).is_right for group in groups]


def _pool(groups: Sequence[Sequence[ScoredChain]], level: int | None) -> tuple[list[float], list[bool]]:
    chains = [chain for group in groups for chain in group if level is None or chain.level == level]
    return [score for chain in chains for score in chain.scores], [
        label for chain in chains for label in chain.labels
    ]


def _split_steps(text: str) -> list[str]:
    return [part for part in text.split(STEP_DELIMITER) if _STEP.fullmatch(part)]


def _tokenize(reasoner: Reasoner, problem: Problem, text: str) -> _Tokens:
    """Returns prompt and chain as ids, the steps encoded piece by piece so that their places are known."""
    ids = list(_encode(reasoner, reasoner.render(problem.question)))
    results, ends = [], []
    for index, part in enumerate(text.split(STEP_DELIMITER)):
        if index:
            ids += _encode(reasoner, STEP_DELIMITER)
        match = _STEP.fullmatch(part)
        ids += _encode(reasoner, match[1] if match else part)
        if match:
            digits = _encode(reasoner, match[2])
            results.append(tuple(range(len(ids), len(ids) + len(digits))))
            ids += digits
            ends.append(len(ids))
    if ends and ends[-1] == len(ids):
        ids += _encode(reasoner, STEP_DELIMITER)
    return _Tokens(ids=tuple(ids), results=tuple(results), ends=tuple(ends))


def _encode(reasoner: Reasoner, text: str) -> list[int]:
    ids: list[int] = reasoner.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _pad(rows: Sequence[_Tokens], pad_id: int) -> torch.Tensor:
    """Returns ids of shape (rows, length), padded on the right, which a causal model never sees from the left."""
    length = max(len(row.ids) for row in rows)
    return torch.tensor([[*row.ids, *[pad_id] * (length - len(row.ids))] for row in rows])


@torch.inference_mode()
def _run(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[_Tokens]
) -> tuple[torch.Tensor, torch.Tensor]:
    ids = _pad(rows, tokenizer.pad_token_id)
    return model(input_ids=ids.to(model.device)).logits, ids


@torch.inference_mode()
def _run_reward(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[_Tokens]
) -> torch.Tensor:
    """Returns probabilities of shape (rows, length)."""
    ids = _pad(rows, tokenizer.pad_token_id)
    hidden = model.model(input_ids=ids.to(model.device)).last_hidden_state
    return torch.sigmoid(model.score(hidden)[..., 0].float()).cpu()


def _smallest(probabilities: torch.Tensor, places: Sequence[int]) -> float:
    """Returns the smallest probability of the tokens at these places; row i of the input foretells token i + 1."""
    return min(probabilities[place - 1].item() for place in places)


def _running_minimum(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(_accumulate_minimum(values))


def _accumulate_minimum(values: Sequence[float]) -> Iterator[float]:
    lowest = 1.0
    for value in values:
        lowest = min(lowest, value)
        yield lowest
