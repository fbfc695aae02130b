"""What a request changes in its logits before anything is drawn: biases, penalties, endings that come too early."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch

from hf_dynasor.core import SamplingParams


class LogitShaper:
    """Changes the logits of one request, token by token.

    Args:
        params: The request's settings.
        prompt_ids: The prompt, which the repetition penalty counts too.
        eos_token_ids: The ids that end a turn.
    """

    def __init__(
        self, params: SamplingParams, prompt_ids: Sequence[int], eos_token_ids: Iterable[int]
    ) -> None:
        self._params = params
        self._seen = set(prompt_ids) if params.repetition_penalty != 1 else set()
        self._counts: Counter[int] = Counter()
        self._num_drawn = 0
        self._bias = [(i, value) for i, value in params.logit_bias]
        self._endings = sorted({*(() if params.ignore_eos else eos_token_ids), *params.stop_token_ids})

    def note(self, token_id: int) -> None:
        """Take notice of the token that was drawn."""
        self._num_drawn += 1
        if self._params.repetition_penalty != 1:
            self._seen.add(token_id)
        if self._params.presence_penalty or self._params.frequency_penalty:
            self._counts[token_id] += 1

    def shape(self, logits: torch.Tensor) -> None:
        """Change the logits of the next token in place, shape (vocabulary,)."""
        size = logits.shape[-1]
        if self._bias:
            _add(logits, [(i, value) for i, value in self._bias if i < size])
        if self._seen:
            index = torch.tensor(sorted(self._seen), device=logits.device)
            penalty = self._params.repetition_penalty
            logits[index] = torch.where(logits[index] > 0, logits[index] / penalty, logits[index] * penalty)
        if self._counts:
            presence, frequency = self._params.presence_penalty, self._params.frequency_penalty
            _add(logits, [(i, -(presence + frequency * count)) for i, count in self._counts.items()])
        if self._num_drawn < self._params.min_new_tokens:
            logits[[i for i in self._endings if i < size]] = float("-inf")


def make_shaper(
    params: SamplingParams, prompt_ids: Sequence[int], eos_token_ids: Iterable[int]
) -> LogitShaper | None:
    """A shaper for settings that need one; most do not."""
    is_needed = (
        params.repetition_penalty != 1
        or params.presence_penalty
        or params.frequency_penalty
        or params.logit_bias
        or params.min_new_tokens
    )
    return LogitShaper(params, prompt_ids, eos_token_ids) if is_needed else None


def shape_logits(logits: torch.Tensor, shapers: Sequence[LogitShaper | None]) -> torch.Tensor:
    """The logits that rows draw from, shape (rows, vocabulary); a copy where any row changes its own."""
    if not any(shapers):
        return logits
    shaped = logits.clone()
    for row, shaper in enumerate(shapers):
        if shaper is not None:
            shaper.shape(shaped[row])
    return shaped


def _add(logits: torch.Tensor, pairs: Sequence[tuple[int, float]]) -> None:
    if pairs:
        index = torch.tensor([i for i, _ in pairs], device=logits.device)
        values = torch.tensor([value for _, value in pairs], dtype=logits.dtype, device=logits.device)
        logits.index_add_(0, index, values)
