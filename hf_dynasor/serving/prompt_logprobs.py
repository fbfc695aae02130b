"""Log-probabilities of a prompt's own tokens, for echoed prompts and log-likelihood evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hf_dynasor.core import TopLogprobs
from hf_dynasor.serving.loading import LoadedModel

_MAX_LOGITS = 2**24  # logits that are held at once


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLogprobs:
    """What a model thinks of a prompt.

    Args:
        logprobs: Natural-log probability of each token given those before it; `None` for the first.
        top_logprobs: The likeliest tokens at each place; `None` for the first.
    """

    logprobs: tuple[float | None, ...]
    top_logprobs: tuple[TopLogprobs | None, ...]


@torch.inference_mode()
def read_prompt_logprobs(
    loaded: LoadedModel, prompt_ids: Sequence[int], *, num_top: int = 0
) -> PromptLogprobs:
    """Read a prompt once, teacher-forced.

    Args:
        loaded: The model.
        prompt_ids: At least one id.
        num_top: How many of the likeliest tokens to list at each place.
    """
    ids = torch.tensor([list(prompt_ids)], device=loaded.model.device)
    logits = loaded.model(input_ids=ids, use_cache=False).logits[0, :-1]
    chosen: list[float | None] = [None]
    top: list[TopLogprobs | None] = [None]
    rows = max(1, _MAX_LOGITS // logits.shape[-1])
    for start in range(0, logits.shape[0], rows):
        scores = torch.log_softmax(logits[start : start + rows].float(), dim=-1)
        targets = ids[0, 1 + start : 1 + start + rows]
        chosen += scores.gather(1, targets[:, None])[:, 0].tolist()
        top += _list_top(scores, num_top)
    return PromptLogprobs(logprobs=tuple(chosen), top_logprobs=tuple(top))


def _list_top(scores: torch.Tensor, num_top: int) -> list[TopLogprobs]:
    if not num_top:
        return [() for _ in range(scores.shape[0])]
    values, ids = torch.topk(scores, min(num_top, scores.shape[-1]), dim=-1)
    return [
        tuple(zip(row_ids, row_values, strict=True))
        for row_ids, row_values in zip(ids.tolist(), values.tolist(), strict=True)
    ]
