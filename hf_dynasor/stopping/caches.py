"""What can be done with a live KV cache: put it back after a probe, or share some of its rows. Knows no text."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from hf_dynasor.errors import ConfigurationError, UnsupportedError

# Exact types: layers derived from them (quantised, linear attention) keep states that a crop does not restore.
_GROWING = (DynamicLayer, DynamicSlidingWindowLayer)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveBatch:
    """A batch in the middle of its generation, seen by a probe.

    Args:
        cache: Its keys and values; `None` where generation runs without one: a probe then computes the whole
            context anew.
        pending: Ids that are not in the cache yet, shape (batch, columns); no columns are fine.
        mask: 1 for every real token of cache and pending, 0 for padding, shape (batch, length); `None` where
            nothing is padded.
    """

    cache: Any
    pending: torch.Tensor
    mask: torch.Tensor | None = None

    def __len__(self) -> int:
        return int(self.pending.shape[0])


def check_cache(cache: Any) -> None:
    """Raise unless a probe can leave no trace in this cache.

    Raises:
        UnsupportedError: Static, quantised, offloaded or recurrent caches, with what to do instead.
    """
    kinds = _list_kinds(cache)
    if not isinstance(cache, Cache) or getattr(cache, "offloading", False) or set(kinds) - set(_GROWING):
        odd = sorted({kind.__name__ for kind in kinds} - {kind.__name__ for kind in _GROWING})
        what = f"layers of {', '.join(odd)}" if odd else "offloading or an unknown layout"
        raise UnsupportedError(
            f"Got a {type(cache).__name__} with {what}: a probe cannot be taken back from it. Expected a DynamicCache "
            "with full or sliding-window attention: leave cache_implementation out of generate(), or pass "
            "recompute=True to compute the context anew for each probe (slow)."
        )


def share_rows(cache: Any, rows: torch.Tensor | None) -> Any:
    """A cache of its own with some rows of another, which never changes with it.

    Growing layers replace their tensors instead of writing into them, so all rows (`None`) are shared without
    a copy; chosen rows are copied once, theirs alone.
    """
    shared = copy.copy(cache)
    shared.layers = [copy.copy(layer) for layer in cache.layers]
    if rows is not None:
        shared.batch_select_indices(rows)
    return shared


def can_crop(cache: Any) -> bool:
    """Whether every layer keeps all its tokens, so that a crop alone undoes a probe."""
    return set(_list_kinds(cache)) <= {DynamicLayer}


def check_model(model: Any) -> None:
    """Raise `ConfigurationError` unless it is a decoder-only model that can generate."""
    config = getattr(model, "config", None)
    if config is None or not hasattr(model, "generate"):
        raise ConfigurationError(
            f"Got model = {type(model).__name__} but expected a transformers model with generate()."
        )
    if getattr(config, "is_encoder_decoder", False):
        raise ConfigurationError(
            f"Got {type(model).__name__}, an encoder-decoder, but expected a decoder-only language model such as "
            "Llama or Qwen: its chain of thought must be in the stream that is generated."
        )


def check_padding(mask: torch.Tensor | None) -> None:
    """Raise `ConfigurationError` for prompts that are padded on the right: what follows would not continue them."""
    if mask is not None and not bool(mask[:, -1].all()):
        raise ConfigurationError(
            "Got prompts padded on the right but expected padding on the left: set tokenizer.padding_side = 'left' "
            "before encoding the batch."
        )


def _list_kinds(cache: Any) -> list[type]:
    return [type(layer) for layer in getattr(cache, "layers", ())]
