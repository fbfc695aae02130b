"""Log-probabilities of a prompt's own tokens, for echoed prompts and log-likelihood evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hf_dynasor.core import TopLogprobs
from hf_dynasor.serving.loading import LoadedModel

_MAX_LOGITS = 2**25  # of one forward over several prompts; a longer prompt is read alone
_MAX_FLOAT_LOGITS = 2**24  # that are turned into log-probabilities at once


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLogprobs:
    """What a model thinks of a prompt.

    Args:
        logprobs: Natural-log probability of each token given those before it; `None` for the first.
        top_logprobs: The likeliest tokens at each place; `None` for the first.
    """

    logprobs: tuple[float | None, ...]
    top_logprobs: tuple[TopLogprobs | None, ...]


def split_prompts(lengths: Sequence[int], vocabulary_size: int) -> list[list[int]]:
    """Which prompts are read together: like with like, so that little is padded, within `_MAX_LOGITS` logits.

    Args:
        lengths: Tokens of each prompt.
        vocabulary_size: Logits of each token.
    """
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        most = max(1, _MAX_LOGITS // (lengths[place] * vocabulary_size))
        if batches and len(batches[-1]) < most:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches


@torch.inference_mode()
def read_prompt_logprobs(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]], *, num_top: int = 0
) -> list[PromptLogprobs]:
    """Read prompts in one forward, teacher-forced.

    Prompts are padded on the right, where no token of theirs looks.

    Args:
        loaded: The model.
        prompts: Each at least one id.
        num_top: How many of the likeliest tokens to list at each place.

    Raises:
        UnsupportedError: The model is split over processes.
    """
    loaded.check_whole("Reading a prompt for its log-probabilities")
    longest = max(map(len, prompts))
    rows = [[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts]
    ids = torch.tensor(rows, device=loaded.input_device)
    logits = loaded.model(input_ids=ids, use_cache=False).logits
    return [_read_row(logits[row, : len(p) - 1], p, num_top) for row, p in enumerate(prompts)]


def _read_row(logits: torch.Tensor, prompt_ids: Sequence[int], num_top: int) -> PromptLogprobs:
    """One prompt's numbers from the logits before each of its tokens, shape (tokens - 1, vocabulary)."""
    chosen: list[float | None] = [None]
    top: list[TopLogprobs | None] = [None]
    targets = torch.tensor(list(prompt_ids[1:]), device=logits.device, dtype=torch.long)
    size = max(1, _MAX_FLOAT_LOGITS // logits.shape[-1])
    for start in range(0, logits.shape[0], size):
        scores = torch.log_softmax(logits[start : start + size].float(), dim=-1)
        chosen += scores.gather(1, targets[start : start + size, None])[:, 0].tolist()
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
