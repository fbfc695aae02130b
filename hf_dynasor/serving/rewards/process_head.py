"""The head of a process reward model, read from its checkpoint, so that no code of the checkpoint has to run."""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors import safe_open
from transformers.utils import cached_file

from hf_dynasor.errors import ModelLoadError
from hf_dynasor.serving.loading import LOAD_ERRORS
from hf_dynasor.serving.model_source import first_line

_WEIGHTS = "model.safetensors"
_PREFIX = "score."


def read_process_head(source: str, name: str, options: dict[str, Any], dtype: Any, device: Any) -> Any:
    """A linear layer, ReLU and a second linear layer (Qwen2.5-Math-PRM), or one linear layer.

    Raises:
        ModelLoadError: The checkpoint holds no such head.
    """
    try:
        tensors = _read_tensors(source, options)
    except LOAD_ERRORS as error:
        raise ModelLoadError(f"Cannot read the head of {name!r}: {first_line(error)}") from error
    layers = [key.removesuffix(".weight") for key in sorted(tensors) if key.endswith(".weight")]
    if not 1 <= len(layers) <= 2:
        raise ModelLoadError(
            f"Expected one or two layers named {_PREFIX}* in {name!r} but found {len(layers)}."
        )
    linear = [_make_linear(tensors, layer) for layer in layers]
    head = torch.nn.Sequential(linear[0], torch.nn.ReLU(), linear[1]) if len(linear) == 2 else linear[0]
    if linear[-1].out_features != 2:
        raise ModelLoadError(
            f"The head of {name!r} has {linear[-1].out_features} classes but 2 are expected."
        )
    return head.to(device=device, dtype=None if dtype == "auto" else dtype).eval()


def _make_linear(tensors: dict[str, torch.Tensor], layer: str) -> torch.nn.Linear:
    weight, bias = tensors[f"{layer}.weight"], tensors.get(f"{layer}.bias")
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
    linear.load_state_dict({"weight": weight} | ({"bias": bias} if bias is not None else {}))
    return linear


def _read_tensors(source: str, options: dict[str, Any]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in _list_files(source, options):
        with safe_open(file, framework="pt") as weights:
            found |= {key: weights.get_tensor(key) for key in weights.keys() if key.startswith(_PREFIX)}  # noqa: SIM118
    return found


def _list_files(source: str, options: dict[str, Any]) -> list[str]:
    place = {key: options[key] for key in ("revision", "local_files_only") if key in options}
    if whole := cached_file(source, _WEIGHTS, _raise_exceptions_for_missing_entries=False, **place):
        return [str(whole)]
    index = cached_file(source, f"{_WEIGHTS}.index.json", **place)
    with open(index, encoding="utf-8") as file:
        files = json.load(file)["weight_map"]
    shards = sorted({shard for key, shard in files.items() if key.startswith(_PREFIX)})
    return [str(cached_file(source, shard, **place)) for shard in shards]
