"""Packed linear layers give what plain ones give, and leave a model as they found it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from hf_dynasor.serving.packed_linear import PackedLinears, fill_rows


class Block(nn.Module):
    """Layers named as a transformer's."""

    def __init__(self, *, bias: bool = False) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(32, size, bias=bias) for size in (32, 16, 16))
        self.gate_proj, self.up_proj = (nn.Linear(32, 48, bias=bias) for _ in range(2))
        self.down_proj = nn.Linear(48, 32, bias=bias)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Something of all layers."""
        mixed = self.q_proj(rows) + torch.cat([self.k_proj(rows), self.v_proj(rows)], dim=-1)
        return self.down_proj(self.gate_proj(mixed) * self.up_proj(mixed))


def _is_packed(model: nn.Module) -> bool:
    return any("forward" in module.__dict__ for module in model.modules())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [1, 3, 70])
def test_they_differ_from_plain_ones_by_rounding_only(bias: bool, dtype: torch.dtype, num_rows: int) -> None:
    torch.manual_seed(0)
    model, rows = Block(bias=bias).to(dtype), torch.randn(1, num_rows, 32, dtype=dtype)
    with torch.no_grad():
        want = model(rows)
        linears = PackedLinears(model)
        assert _is_packed(model)
        got = model(rows)
        linears.release()
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance)
    assert not _is_packed(model)


def test_the_last_of_several_users_gives_the_model_back() -> None:
    model = Block()
    first, second = PackedLinears(model), PackedLinears(model)
    first.release()
    first.release()
    assert _is_packed(model)
    second.release()
    assert not _is_packed(model)


def test_a_changed_weight_counts_at_once_and_gradients_flow() -> None:
    model, rows = Block(), torch.randn(2, 32)
    linears = PackedLinears(model)
    with torch.no_grad():
        model.k_proj.weight.mul_(3)
        model.down_proj.weight = nn.Parameter(model.down_proj.weight * 2)
        plain = copy.deepcopy(model)
        torch.testing.assert_close(model(rows), plain(rows))
    model(rows).sum().backward()
    assert model.q_proj.weight.grad is not None
    linears.release()


def test_rows_are_filled_up_to_few_numbers_and_by_an_eighth_at_most() -> None:
    filled = {num_rows: fill_rows(num_rows) for num_rows in range(513)}
    assert all(num_rows <= number <= num_rows * 9 / 8 for num_rows, number in filled.items())
    assert all(fill_rows(number) == number for number in filled.values())
    assert all(filled[num_rows] == num_rows for num_rows in range(17))
    assert len(set(filled.values())) < 64


@pytest.mark.parametrize("shape", [(17,), (1, 33), (3, 11), (2, 3, 7), (0,)])
def test_filled_rows_are_not_seen(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, rows = Block(bias=True), torch.randn(*shape, 32)
    with torch.no_grad():
        want = model(rows)
        packed = PackedLinears(model)
        got = model(rows)
    packed.release()
    assert got.shape == want.shape
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
