"""Every sequence attends to its own keys, as it would alone."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from hf_dynasor.serving.packed_attention import attend, lay_out


@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize("is_scattered", [False, True])
@pytest.mark.parametrize(
    "sizes",
    [[(1, 1)], [(1, 7), (1, 3), (1, 1)], [(5, 5), (1, 9), (3, 8)], [(4, 4), (6, 6)], [(1, 2), (2, 2)]],
)
def test_it_equals_attention_over_each_sequence_alone(
    sizes: list[tuple[int, int]], is_scattered: bool, key_heads: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    num_queries, num_keys = (sum(column) for column in zip(*sizes, strict=True))
    query = torch.randn(num_queries, 4, 8, generator=generator)
    keys, values = torch.randn(2, num_keys, key_heads, 8, generator=generator)
    index, stored_keys, stored_values = None, keys, values
    if is_scattered:
        index = torch.randperm(num_keys + 5, generator=generator)[:num_keys]
        stored_keys, stored_values = torch.zeros(2, num_keys + 5, key_heads, 8)
        stored_keys[index], stored_values[index] = keys, values
    ends = [[0], [0]]
    for size in sizes:
        for column, value in zip(ends, size, strict=True):
            column.append(column[-1] + value)
    layout = lay_out(*ends, query, index=index)
    got = attend(query, stored_keys, stored_values, layout, scaling=0.3)
    for number, (q, k) in enumerate(sizes):
        mine = slice(ends[0][number], ends[0][number] + q)
        own = slice(ends[1][number], ends[1][number] + k)
        spread = (
            tensor[own].transpose(0, 1).repeat_interleave(4 // key_heads, 0) for tensor in (keys, values)
        )
        mask = torch.arange(k)[None] <= torch.arange(q)[:, None] + k - q
        want = scaled_dot_product_attention(query[mine].transpose(0, 1), *spread, attn_mask=mask, scale=0.3)
        torch.testing.assert_close(got[mine], want.transpose(0, 1))
