"""Attention to each request's own pages, for models that run with SDPA."""

from __future__ import annotations

import threading
import weakref
from contextlib import ExitStack
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.generation.continuous_batching import continuous_api
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from hf_dynasor.serving.packed_attention import attend, lay_out

_ATTENTION_NAME = "hf_dynasor_paged"


class PagedManager(continuous_api.ContinuousBatchingManager):  # type: ignore[misc]
    """Lets a model with SDPA attention attend to each request's own pages instead of masking all pages at once."""

    _has_borrowed = False

    def __init__(self, model: Any, *args: Any) -> None:
        with ExitStack() as undo:
            self.model, self._original_attn_impl = model, None
            undo.callback(self.give_attention_back)
            super().__init__(model, *args)
            undo.pop_all()

    def switch_to_cb_friendly_attn(self, model: Any, auto_switch_to_flash: bool = True) -> None:
        self._has_borrowed = _borrow_attention(model)
        if not self._has_borrowed:
            super().switch_to_cb_friendly_attn(model, auto_switch_to_flash)

    def give_attention_back(self) -> None:
        """Leave the model as it was found, unless another engine still needs it so. Safe to call twice."""
        with _borrowers_lock:
            has_borrowed, self._has_borrowed = self._has_borrowed, False
            original, self._original_attn_impl = self._original_attn_impl, None
            if has_borrowed:
                _return_attention(self.model)
            elif original is not None:
                self.model.set_attn_implementation(original)


_borrowers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
_borrowers_lock = threading.Lock()


def _borrow_attention(model: Any) -> bool:
    """Set our attention where SDPA is set; on other forwards it is SDPA, so other users of the model see no change."""
    with _borrowers_lock:
        if model.config._attn_implementation == "sdpa" and not _prefers_flash(model):
            model.set_attn_implementation(_ATTENTION_NAME)
        is_ours = bool(model.config._attn_implementation == _ATTENTION_NAME)
        if is_ours:
            _borrowers[model] = _borrowers.get(model, 0) + 1
        return is_ours


def _return_attention(model: Any) -> None:
    _borrowers[model] -= 1
    if not _borrowers[model]:
        del _borrowers[model]
        model.set_attn_implementation("sdpa")


def _prefers_flash(model: Any) -> bool:
    return bool(model.device.type == "cuda" and (is_flash_attn_2_available() or is_flash_attn_3_available()))


def _attend_to_pages(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    cache: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """An attention implementation; shapes are (1, heads, tokens, size) in and (1, tokens, heads, size) out."""
    if cache is None:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return output, None
    allocator = cache.layer_to_allocator[module.layer_idx]
    if module.layer_idx == min(cache.layer_to_allocator):
        ends = kwargs["cu_seq_lens_q"].tolist(), kwargs["cu_seq_lens_k"][allocator.layer_type].tolist()
        cache.hf_dynasor_layout = lay_out(*ends, query.device)
    packed, new_keys, new_values = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    keys, values = allocator._kv_token_views[module.layer_idx]
    write_index, read_index = (kwargs[name][allocator.index] for name in ("write_index", "read_index"))
    keys.index_copy_(0, write_index, new_keys)
    values.index_copy_(0, write_index, new_values)
    index = read_index if read_index.numel() else None  # nothing to read: the new keys are all there is
    if index is None:
        keys, values = new_keys, new_values
    layout = cache.hf_dynasor_layout
    return attend(packed, keys, values, layout, index=index, scaling=scaling)[None], None


AttentionInterface.register(_ATTENTION_NAME, _attend_to_pages)
AttentionMaskInterface.register(_ATTENTION_NAME, sdpa_mask)
