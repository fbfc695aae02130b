"""Attention over sequences that lie one behind the other, each over its own keys only.

One mask over all sequences, as transformers lays it for attention without a varlen kernel, computes every query
against every key of the batch. Here sequences of one query run as one padded batch, longer ones each by itself.
Keys are taken page by page where they lie in pages. Pure tensors: knows no model and no cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """Where a longer sequence's queries and keys lie.

    `places` are its keys' places, shape (keys,); `None` where keys lie in the layout's order.
    """

    queries: slice
    keys: slice
    mask: torch.Tensor
    places: torch.Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Which keys belong to which queries; the same for all layers of a step.

    Args:
        single_queries: Where the sequences of one query lie, shape (rows,); `None` if there are no others.
        single_places: Their keys, padded on the right with any key, shape (rows * longest,); pages of keys
            instead, shape (rows * most pages,), where `page_size` is above 1. `None` where somebody else attends.
        single_mask: What is added to their scores: 0 where a key counts, else minus infinity; shape
            (rows, 1, 1, longest), or whole pages.
        num_rows: Sequences of one query.
        page_size: Keys of a page.
        longer: The other sequences.
    """

    single_queries: torch.Tensor | None
    single_places: torch.Tensor | None
    single_mask: torch.Tensor | None
    num_rows: int
    page_size: int
    longer: tuple[Spans, ...]


def lay_out(
    query_ends: Sequence[int],
    key_ends: Sequence[int],
    like: torch.Tensor,
    *,
    index: torch.Tensor | None = None,
    page_size: int = 1,
    has_singles: bool = True,
) -> Layout:
    """Make the layout of a step.

    Args:
        query_ends: Cumulative number of queries, beginning with 0; sequences + 1 entries.
        key_ends: Cumulative number of keys, likewise. A sequence's last query sees all of its keys.
        like: A tensor of the queries' type and place.
        index: The place of each key, in the layout's order; `None` where keys lie in that order.
        page_size: Keys of a page, where the keys of a sequence fill pages from the first place of its first page
            on; 1 for keys that lie anywhere.
        has_singles: Whether the keys of sequences of one query are to be laid out.
    """
    page_size = page_size if index is not None else 1
    spans = list(zip(query_ends, query_ends[1:], key_ends, key_ends[1:], strict=False))
    singles = [(q0, k0, k1) for q0, q1, k0, k1 in spans if q1 - q0 == 1]
    places, mask = None, None
    if has_singles:
        places, mask = _lay_out_singles([(k0, k1) for _, k0, k1 in singles], like, index, page_size)
    queries = torch.tensor([q0 for q0, _, _ in singles], device=like.device, dtype=torch.long)
    return Layout(
        single_queries=None if len(singles) == len(spans) else queries,
        single_places=places,
        single_mask=mask,
        num_rows=len(singles),
        page_size=page_size,
        longer=tuple(
            Spans(
                queries=slice(q0, q1),
                keys=slice(k0, k1),
                mask=_make_causal_mask(q1 - q0, k1 - k0, like.device),
                places=None if index is None else index[k0:k1],
            )
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
    scaling: float | None,
    attend_singles: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Attention of every sequence over its own keys.

    Args:
        query: Shape (queries, heads, size).
        keys, values: Shape (places, key heads, size), where the number of heads is a multiple of key heads.
        layout: Which keys belong to which queries.
        scaling: Factor of the scores; `None` takes one over the root of the size.
        attend_singles: Attends for the sequences of one query, whose keys were not laid out.

    Returns:
        Shape (queries, heads, size).
    """
    if attend_singles is None:
        attend_singles = partial(_attend_singles, keys=keys, values=values, layout=layout, scaling=scaling)
    if layout.single_queries is None:
        return attend_singles(query)
    output = torch.empty_like(query)
    if layout.num_rows:
        chosen = query[layout.single_queries]
        output[layout.single_queries] = attend_singles(chosen)
    num_groups = query.shape[1] // keys.shape[1]
    for spans in layout.longer:
        mine, theirs = (
            (tensor[spans.keys] if spans.places is None else tensor.index_select(0, spans.places))
            .transpose(0, 1)
            .repeat_interleave(num_groups, dim=0)
            for tensor in (keys, values)
        )
        attended = scaled_dot_product_attention(
            query[spans.queries].transpose(0, 1), mine, theirs, attn_mask=spans.mask, scale=scaling
        )
        output[spans.queries] = attended.transpose(0, 1)
    return output


def _attend_singles(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, layout: Layout, scaling: float | None
) -> torch.Tensor:
    """All sequences of one query; the queries of a key head are taken for a sequence that sees all of its keys."""
    assert layout.single_places is not None
    num_rows, num_heads, size = query.shape
    num_keyed, page_size = keys.shape[1], layout.page_size
    shape = (num_rows, -1, num_keyed, size)
    mine, theirs = (
        _take(tensor, layout.single_places, page_size).view(shape).transpose(1, 2)
        for tensor in (keys, values)
    )
    grouped = query.reshape(num_rows, num_keyed, num_heads // num_keyed, size)
    attended = scaled_dot_product_attention(
        grouped, mine, theirs, attn_mask=layout.single_mask, scale=scaling
    )
    return attended.reshape(num_rows, num_heads, size)


def _take(tensor: torch.Tensor, places: torch.Tensor, page_size: int) -> torch.Tensor:
    if page_size == 1:
        return tensor.index_select(0, places)
    num_pages = tensor.shape[0] // page_size
    pages = tensor[: num_pages * page_size].view(num_pages, page_size * tensor.shape[1] * tensor.shape[2])
    return pages.index_select(0, places)


def _lay_out_singles(
    spans: Sequence[tuple[int, int]], like: torch.Tensor, index: torch.Tensor | None, page_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Places (or pages) and mask of the sequences of one query."""
    device = like.device
    starts = torch.tensor([k0 for k0, _ in spans], device=device, dtype=torch.long)[:, None]
    sizes = torch.tensor([k1 - k0 for k0, k1 in spans], device=device, dtype=torch.long)[:, None]
    longest = max((k1 - k0 for k0, k1 in spans), default=0)
    offsets = torch.arange(0, longest, page_size, device=device)
    keys = (starts + offsets * (offsets < sizes)).flatten()
    places = keys if index is None else index[keys]
    is_padding = torch.arange(len(offsets) * page_size, device=device) >= sizes
    mask = torch.zeros(is_padding.shape, device=device, dtype=like.dtype)
    mask.masked_fill_(is_padding, float("-inf"))
    return (places if page_size == 1 else places // page_size), mask[:, None, None, :]


def _make_causal_mask(num_queries: int, num_keys: int, device: torch.device) -> torch.Tensor:
    """Query `i` sees all keys but those of the queries after it; shape (queries, keys)."""
    return torch.ones(num_queries, num_keys, dtype=torch.bool, device=device).tril(num_keys - num_queries)
