"""Draws one token per row, each row by its own settings and its own random numbers.

A row consumes exactly one uniform number per token and maps it through its own cumulative distribution, so
what it draws depends on its logits and its seed, never on the rows beside it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hf_dynasor.core import SamplingParams
from hf_dynasor.errors import EngineError

_TOP_P_HEAD = 1024  # tokens among which a nucleus is looked for first


class RowSampler:
    """The sampling settings of one request, and its stream of random numbers."""

    __slots__ = ("_random", "params")

    def __init__(self, params: SamplingParams) -> None:
        self.params = params
        self._random = random.Random(params.seed) if params.seed is not None else random.Random()

    def draw_uniform(self) -> float:
        """The next number of this row, uniform in [0, 1)."""
        return self._random.random()


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One token per row, and its natural-log probability under the model where any row asked for it."""

    tokens: list[int]
    logprobs: list[float] | None


def draw_tokens(logits: torch.Tensor, samplers: Sequence[RowSampler]) -> Drawn:
    """Draw the next token of every row.

    Args:
        logits: Shape (rows, vocabulary).
        samplers: One for each row. Rows of temperature 0 take the likeliest token.

    Raises:
        EngineError: The model returned NaN.
    """
    logits = logits.float()
    best, tokens = logits.max(dim=-1)
    if bool(best.isnan().any()):
        raise EngineError("The model returned NaN logits. A wider dtype may help: --dtype float32.")
    rows = [index for index, sampler in enumerate(samplers) if sampler.params.temperature > 0]
    if rows:
        chosen = [samplers[index] for index in rows]
        picked = logits if len(rows) == len(samplers) else logits[rows]
        drawn = _draw_from(_shape_distribution(picked, chosen), chosen)
        tokens = tokens.index_copy(0, torch.tensor(rows, device=tokens.device), drawn)
    logprobs = None
    if any(sampler.params.logprobs for sampler in samplers):
        logprobs = torch.log_softmax(logits, dim=-1).gather(1, tokens[:, None])[:, 0].tolist()
    return Drawn(tokens=tokens.tolist(), logprobs=logprobs)


def _shape_distribution(logits: torch.Tensor, samplers: Sequence[RowSampler]) -> torch.Tensor:
    """Temperature, then top-k, then top-p, in transformers' order; returns probabilities (rows, vocabulary)."""
    params = [sampler.params for sampler in samplers]
    # A temperature close to 0 would overflow: subtracting the maximum first keeps every exponent at or below 0.
    shifted = logits - logits.max(dim=-1, keepdim=True).values
    scaled = shifted / _make_column([item.temperature for item in params], logits)
    if any(item.top_k is not None for item in params):
        scaled = _keep_top_k(scaled, [item.top_k for item in params])
    probs = torch.softmax(scaled, dim=-1)
    if any(item.top_p < 1 for item in params):
        probs = _keep_top_p(probs, _make_column([item.top_p for item in params], logits))
    return probs


def _keep_top_k(scores: torch.Tensor, top_k: Sequence[int | None]) -> torch.Tensor:
    size = scores.shape[-1]
    counts = torch.tensor([min(k, size) if k is not None else size for k in top_k], device=scores.device)
    largest = int(max((min(k, size) for k in top_k if k is not None), default=size))
    ranked = torch.topk(scores, largest, dim=-1).values
    thresholds = ranked.gather(1, (counts.clamp(max=largest) - 1)[:, None])
    is_dropped = (scores < thresholds) & (counts < size)[:, None]
    return scores.masked_fill(is_dropped, float("-inf"))


def _keep_top_p(probs: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Zero what lies outside the smallest set of tokens whose probability reaches `top_p`, shape (rows, 1).

    The set is almost always within the likeliest few, and sorting a whole vocabulary costs as much as a small
    model's step, so only rows where it is not are sorted.
    """
    size = probs.shape[-1]
    head = min(size, _TOP_P_HEAD)
    kept = _keep_reaching(probs, top_p, *torch.topk(probs, head, dim=-1))
    if head < size:
        is_short = (kept.sum(dim=-1) < top_p[:, 0]) & (top_p[:, 0] < 1)
        if bool(is_short.any()):
            ranked = torch.sort(probs[is_short], dim=-1, descending=True)
            kept[is_short] = _keep_reaching(probs[is_short], top_p[is_short], *ranked)
    return torch.where(top_p < 1, kept, probs)


def _keep_reaching(
    probs: torch.Tensor, top_p: torch.Tensor, ranked: torch.Tensor, order: torch.Tensor
) -> torch.Tensor:
    """Keep, in descending order, every token before which `top_p` is not reached yet; the first always stays."""
    before = ranked.cumsum(dim=-1) - ranked
    is_dropped = before >= top_p
    is_dropped[:, 0] = False
    return torch.zeros_like(probs).scatter(1, order, ranked.masked_fill(is_dropped, 0.0))


def _draw_from(probs: torch.Tensor, samplers: Sequence[RowSampler]) -> torch.Tensor:
    """Inverse-transform sampling: the first token whose cumulative probability exceeds the row's number."""
    cumulative = probs.cumsum(dim=-1, dtype=torch.float64)
    numbers = [sampler.draw_uniform() for sampler in samplers]
    targets = torch.tensor(numbers, dtype=torch.float64, device=probs.device)[:, None] * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, targets, right=True)[:, 0]
    # A target that rounds up to the total would fall off the end: the likeliest token takes it.
    return torch.where(tokens < probs.shape[-1], tokens, probs.argmax(dim=-1))


def _make_column(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]
