"""Attention to each request's own pages, for models that run with SDPA."""

from __future__ import annotations

import itertools
import threading
import weakref
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.generation.continuous_batching import continuous_api
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from hf_dynasor.serving.packed_attention import Layout, attend, lay_out
from hf_dynasor.serving.row_classes import Part, RowClasses

ROWS_SHARE, ROWS_SHARE_OF_ACCELERATOR = 1.0, 0.05
"""Most memory of kept rows beside that of pages. An accelerator's memory is full of pages, and gathers rows fast."""

_ATTENTION_NAME = "hf_dynasor_paged"


class PagedManager(continuous_api.ContinuousBatchingManager):  # type: ignore[misc]
    """Lets a model with SDPA attention attend to each request's own pages instead of masking all pages at once."""

    _has_borrowed = False

    @property
    def runs_our_attention(self) -> bool:
        """Whether the model's attention is the one of this module."""
        return self._has_borrowed

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
    write_index, read_index = (kwargs[name][allocator.index] for name in ("write_index", "read_index"))
    has_past = bool(read_index.numel())  # else the new keys are all there is
    if module.layer_idx == min(cache.layer_to_allocator):
        ends = kwargs["cu_seq_lens_q"].tolist(), kwargs["cu_seq_lens_k"][allocator.layer_type].tolist()
        cache.hf_dynasor_step = _plan_step(cache, *ends, query, read_index if has_past else None, allocator)
    step: _Step = cache.hf_dynasor_step
    packed, new_keys, new_values = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    keys, values = allocator._kv_token_views[module.layer_idx]
    keys.index_copy_(0, write_index, new_keys)
    values.index_copy_(0, write_index, new_values)
    if not has_past:
        keys, values = new_keys, new_values
    singles, attend_singles = step.layout.single_queries, None
    if step.rows is not None:
        new = (new_keys, new_values) if singles is None else (new_keys[singles], new_values[singles])
        attend_singles = partial(
            cache.hf_dynasor_arena.attend,
            module.layer_idx,
            stored=(keys, values),
            new=new,
            plan=step.rows,
            scaling=scaling,
        )
    output = attend(packed, keys, values, step.layout, scaling=scaling, attend_singles=attend_singles)
    return output[None], None


@dataclass(frozen=True, slots=True)
class _Step:
    """How a step attends: the layout, and the rows of those that decode, if they are kept."""

    layout: Layout
    rows: tuple[Part, ...] | None


def _plan_step(
    cache: Any,
    query_ends: list[int],
    key_ends: list[int],
    query: torch.Tensor,
    index: torch.Tensor | None,
    allocator: Any,
) -> _Step:
    page_size = allocator.tokens_per_page if index is not None else 1
    arena = getattr(cache, "hf_dynasor_arena", None)
    sizes = [q1 - q0 for q0, q1 in itertools.pairwise(query_ends)]
    singles = [place for place, size in enumerate(sizes) if size == 1]
    rows = None
    if arena is not None and index is not None and singles:
        rows = arena.plan(
            [cache.hf_dynasor_names[place] for place in singles],
            [key_ends[place + 1] - key_ends[place] for place in singles],
            lambda number: (
                index[key_ends[singles[number]] : key_ends[singles[number] + 1] : page_size] // page_size
            ),
            query,
        )
    layout = lay_out(query_ends, key_ends, query, index=index, page_size=page_size, has_singles=rows is None)
    return _Step(layout, rows)


def prepare_steps(processor: Any) -> None:
    """Tell the attention which requests a step runs, keep rows of those that decode, and have no mask made.

    The layout tells what a mask would, and a mask over all pages takes longer than a layer. transformers passes on a
    mask of four dimensions as it is, and this attention reads none.
    """
    inputs, cache = processor.inputs_and_outputs, processor.cache
    if len(cache.cache_allocators) == 1:
        (allocator,) = cache.cache_allocators.values()
        capacity = cache.num_blocks * allocator.tokens_per_page
        share = ROWS_SHARE if inputs.device.type == "cpu" else ROWS_SHARE_OF_ACCELERATOR
        cache.hf_dynasor_arena = RowClasses(
            page_size=allocator.tokens_per_page, max_tokens=int(capacity * share)
        )
    make_inputs = inputs.get_model_kwargs
    nothing = torch.zeros(1, 1, 1, 1, device=inputs.device)

    def make_without_mask(use_padding: bool = False) -> Any:
        cache.hf_dynasor_names = [future.state.request_id for future in inputs.requests_in_batch]
        return {**make_inputs(use_padding=use_padding), "attention_mask": nothing}

    inputs.get_model_kwargs = make_without_mask


def forget_rows(processor: Any) -> None:
    """Free the rows of requests that decoded; called between steps. Whoever goes on has them gathered again."""
    cache = processor.cache
    cache.hf_dynasor_step = None
    if (arena := getattr(cache, "hf_dynasor_arena", None)) is not None:
        arena.clear()


AttentionInterface.register(_ATTENTION_NAME, _attend_to_pages)
AttentionMaskInterface.register(_ATTENTION_NAME, sdpa_mask)
