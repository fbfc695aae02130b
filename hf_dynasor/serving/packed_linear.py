"""Linear layers on a CPU by oneDNN, with weights that are laid out for it once.

torch multiplies float32 by MKL, which lays the weights out anew in each call and is slow on some makers' processors: for
the few rows of a decoding step oneDNN with packed weights takes a half to a third of the time, and bfloat16 gains too.
The model keeps its own weights beside the packed ones.

oneDNN compiles a kernel for each number of rows and keeps them all, some 0.3 MB each: with the numbers that a busy engine
meets that is most of a gigabyte. So rows are filled up to one of a few numbers.
"""

from __future__ import annotations

import logging
import math
import threading
import weakref
from types import MethodType
from typing import Any

import torch
from torch import nn

logger = logging.getLogger(__name__)

MAX_PACKED_BYTES = 2 * 2**30
"""Packed weights are a copy: larger models keep their own only."""

_DTYPES = (torch.float32, torch.bfloat16)
_EXACT_ROWS = 16  # numbers of rows that are not filled up
_ROWS = 16  # what the layout is chosen for; it does as well for one row and for hundreds
_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
_lock = threading.Lock()
_users: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()


class PackedLinears:
    """Has a model's linear layers multiply by packed weights until it is released.

    Several users of one model share the packing; it ends with the last. A layer whose weight is changed meanwhile
    goes back to its own. Results differ from the plain layers' by rounding only.

    Args:
        model: Any model. Other devices, types, hooked or quantised layers, and models whose packed weights would
            take more than `MAX_PACKED_BYTES` are left as they are.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model: nn.Module | None = model
        with _lock:
            if model not in _users:
                _pack(model)
            _users[model] = _users.get(model, 0) + 1

    def release(self) -> None:
        """Leave the model as it was found, unless somebody else uses it so. Safe to call twice."""
        with _lock:
            model, self._model = self._model, None
            if model is None:
                return
            _users[model] -= 1
            if not _users[model]:
                del _users[model]
                for layer in _list_layers(model):
                    if isinstance(layer.__dict__.get("forward"), _PackedForward):
                        del layer.forward


def _pack(model: nn.Module) -> None:
    layers = [layer for layer in _list_layers(model) if _can_pack(layer)]
    size = sum(layer.weight.numel() * layer.weight.element_size() for layer in layers)
    if not layers or size > MAX_PACKED_BYTES:
        return
    try:
        for group in _group_by_input(model, layers):
            _share(group)
    except RuntimeError as error:  # no such kernel on this machine
        logger.info("Linear layers are not packed: %s", error)
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _list_layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if type(module) is nn.Linear]


def _can_pack(layer: Any) -> bool:
    weight = layer.weight
    return (
        type(weight) in (nn.Parameter, torch.Tensor)
        and weight.device.type == "cpu"
        and weight.dtype in _DTYPES
        and not weight.is_inference()
        and "forward" not in layer.__dict__
        and not layer._forward_hooks
        and not layer._forward_pre_hooks
        and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _group_by_input(model: nn.Module, layers: list[Any]) -> list[list[Any]]:
    """Layers that models give the same input, one after the other, together; each other layer alone."""
    known = {id(layer) for layer in layers}
    groups, grouped = [], set()
    for parent in model.modules():
        for names in _SIBLINGS:
            group = [getattr(parent, name, None) for name in names]
            if all(id(layer) in known for layer in group) and len({_describe(layer) for layer in group}) == 1:
                groups.append(group)
                grouped |= {id(layer) for layer in group}
    return groups + [[layer] for layer in layers if id(layer) not in grouped]


def _describe(layer: Any) -> tuple[int, torch.dtype, bool]:
    return layer.in_features, layer.weight.dtype, layer.bias is None


def _share(group: list[Any]) -> None:
    """Set the forwards of layers that are multiplied together."""
    weight = torch.cat([layer.weight.detach() for layer in group])
    bias = None if group[0].bias is None else torch.cat([layer.bias.detach() for layer in group])
    product = _Product(torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS), bias, group)
    for place, layer in enumerate(group):
        layer.forward = _PackedForward(layer, product, place)


def fill_rows(num_rows: int) -> int:
    """The number of rows that so many are filled up to: eight for each doubling, so at most an eighth more."""
    grain = 1 << max(0, (num_rows - 1).bit_length() - (_EXACT_ROWS.bit_length() - 1))
    return -(-num_rows // grain) * grain


class _Product:
    """Layers that are multiplied together by the first of them that is called; the others take their part.

    What is kept is one tuple, set and read at once: with two threads in one model a layer that does not find its own
    input is told so, and multiplies by itself.
    """

    __slots__ = ("_bias", "_kept", "_multiply", "_packed", "_sizes")

    def __init__(self, packed: torch.Tensor, bias: torch.Tensor | None, group: list[Any]) -> None:
        self._packed, self._bias = packed, bias
        self._sizes = [layer.out_features for layer in group]
        self._multiply = torch.ops.mkldnn._linear_pointwise.default
        self._kept: tuple[torch.Tensor | None, Any] = (None, None)

    def take(self, rows: torch.Tensor, place: int) -> torch.Tensor | None:
        """The part of one layer; `None` where the first was given another input."""
        if len(self._sizes) == 1:
            return self._compute(rows)
        if not place:
            parts = torch.split(self._compute(rows), self._sizes, dim=-1)
        else:
            asked, parts = self._kept
            if asked is not rows:
                return None
        self._kept = (rows, parts) if place < len(self._sizes) - 1 else (None, None)
        part: torch.Tensor = parts[place]
        return part

    def _compute(self, rows: torch.Tensor) -> torch.Tensor:
        *shape, size = rows.shape
        num_rows = math.prod(shape)
        if num_missing := fill_rows(num_rows) - num_rows:
            rows = nn.functional.pad(rows.reshape(num_rows, size), (0, 0, 0, num_missing))
        product: torch.Tensor = self._multiply(rows, self._packed, self._bias, "none", [], "")
        return product[:num_rows].view(*shape, -1) if num_missing else product


class _PackedForward:
    """Stands in for the `forward` of one layer."""

    __slots__ = ("_layer_id", "_parameters", "_place", "_product", "_version", "_weight")

    def __init__(self, layer: Any, product: _Product, place: int) -> None:
        self._parameters, self._weight = layer._parameters, layer.weight
        self._version = layer.weight._version
        self._product, self._place, self._layer_id = product, place, id(layer)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy of the model is a plain one: packed weights cannot be copied."""
        return MethodType(nn.Linear.forward, memo[self._layer_id])

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """The layer's own forward where gradients are wanted, the weight has changed, or the type is another."""
        weight, bias = self._parameters["weight"], self._parameters["bias"]
        is_same = weight is self._weight and weight._version == self._version
        if is_same and rows.dtype is weight.dtype and not torch.is_grad_enabled():
            product = self._product.take(rows, self._place)
            if product is not None:
                return product
        return nn.functional.linear(rows, weight, bias)
