"""Attention over sequences that lie one behind the other, each over its own keys only.

One mask over all sequences, as transformers lays it for attention without a varlen kernel, computes every query
against every key of the batch. Here sequences of one query run as one padded batch, longer ones each by itself.
Pure tensors: knows no model and no cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """Where a longer sequence's queries and keys lie."""

    queries: slice
    keys: slice
    mask: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Which keys belong to which queries; the same for all layers of a step.

    Args:
        single_queries: Where the sequences of one query lie, shape (rows,).
        single_keys: Their keys, padded on the right with any key, shape (rows * longest,).
        single_mask: Which of them count, shape (rows, 1, 1, longest).
        longer: The other sequences.
    """

    single_queries: torch.Tensor
    single_keys: torch.Tensor
    single_mask: torch.Tensor
    longer: tuple[Spans, ...]


def lay_out(query_ends: Sequence[int], key_ends: Sequence[int], device: torch.device) -> Layout:
    """Make the layout of a step.

    Args:
        query_ends: Cumulative number of queries, beginning with 0; sequences + 1 entries.
        key_ends: Cumulative number of keys, likewise. A sequence's last query sees all of its keys.
        device: Where the tensors are.
    """
    spans = list(zip(query_ends, query_ends[1:], key_ends, key_ends[1:], strict=False))
    singles = [(q0, k0, k1) for q0, q1, k0, k1 in spans if q1 - q0 == 1]
    starts = torch.tensor([k0 for _, k0, _ in singles], device=device, dtype=torch.long)
    sizes = torch.tensor([k1 - k0 for _, k0, k1 in singles], device=device, dtype=torch.long)
    offsets = torch.arange(max((k1 - k0 for _, k0, k1 in singles), default=0), device=device)
    is_key = offsets < sizes[:, None]
    return Layout(
        single_queries=torch.tensor([q0 for q0, _, _ in singles], device=device, dtype=torch.long),
        single_keys=(starts[:, None] + offsets * is_key).flatten(),
        single_mask=is_key[:, None, None, :],
        longer=tuple(
            Spans(queries=slice(q0, q1), keys=slice(k0, k1), mask=_make_causal_mask(q1 - q0, k1 - k0, device))
            for q0, q1, k0, k1 in spans
            if q1 - q0 > 1
        ),
    )


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    layout: Layout,
    *,
    index: torch.Tensor | None,
    scaling: float | None,
) -> torch.Tensor:
    """Attention of every sequence over its own keys.

    Args:
        query: Shape (queries, heads, size).
        keys, values: Shape (places, key heads, size), where the number of heads is a multiple of key heads.
        layout: Which keys belong to which queries.
        index: The place of each key, in the layout's order; `None` where keys lie in that order.
        scaling: Factor of the scores; `None` takes one over the root of the size.

    Returns:
        Shape (queries, heads, size).
    """
    num_heads, size = query.shape[1:]
    num_groups = num_heads // keys.shape[1]
    output = torch.empty_like(query)
    if num_rows := len(layout.single_queries):
        places = layout.single_keys if index is None else index[layout.single_keys]
        shape = (num_rows, -1, keys.shape[1], size)
        mine, theirs = (
            tensor.index_select(0, places).view(shape).transpose(1, 2) for tensor in (keys, values)
        )
        grouped = query[layout.single_queries].view(num_rows, keys.shape[1], num_groups, size)
        attended = scaled_dot_product_attention(
            grouped, mine, theirs, attn_mask=layout.single_mask, scale=scaling
        )
        output[layout.single_queries] = attended.reshape(num_rows, num_heads, size)
    for spans in layout.longer:
        chosen = spans.keys if index is None else index[spans.keys]
        mine, theirs = (
            tensor[chosen].transpose(0, 1).repeat_interleave(num_groups, dim=0) for tensor in (keys, values)
        )
        attended = scaled_dot_product_attention(
            query[spans.queries].transpose(0, 1), mine, theirs, attn_mask=spans.mask, scale=scaling
        )
        output[spans.queries] = attended.transpose(0, 1)
    return output


def _make_causal_mask(num_queries: int, num_keys: int, device: torch.device) -> torch.Tensor:
    """Query `i` sees all keys but those of the queries after it; shape (queries, keys)."""
    return torch.ones(num_queries, num_keys, dtype=torch.bool, device=device).tril(num_keys - num_queries)
