"""Where the layers of a model go that does not stay whole on one device: what transformers is told, what cannot be."""

from __future__ import annotations

from typing import Any

import torch

from hf_dynasor.errors import ConfigurationError, UnsupportedError, name_unknown


def check_device_map(device_map: str | None, device: str | None, tensor_parallel: int) -> None:
    """Raise `ConfigurationError` for a device map that is unknown, or beside what it decides itself."""
    if device_map is None:
        return
    if device_map != "auto":
        raise name_unknown("device map", device_map, ["auto"])
    if tensor_parallel > 1 or device not in (None, "auto"):
        raise ConfigurationError(
            f"Got {device_map = } with {device = } and {tensor_parallel = }: it chooses the devices itself. Expected "
            "one of the three."
        )


def plan_placing(name: str, config: Any, device_map: str | None, tensor_parallel: int) -> dict[str, Any]:
    """What tells transformers how to split a model; nothing for one that stays whole."""
    if tensor_parallel == 1:
        return {} if device_map is None else {"device_map": device_map}
    from transformers.distributed import DistributedConfig

    if not getattr(config, "base_model_tp_plan", None):
        raise UnsupportedError(
            f"transformers has no tensor-parallel plan for {name!r} ({config.model_type}). Use device_map='auto' "
            "(--device-map auto), which spreads whole layers over the devices of one process."
        )
    heads = {
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
    }
    for what, number in heads.items():
        if number % tensor_parallel:
            raise UnsupportedError(
                f"Got {tensor_parallel = } but {name!r} has {what}={number}: expected a divisor of it."
            )
    return {"distributed_config": DistributedConfig(tp_size=tensor_parallel, tp_plan="auto")}


def find_input_device(model: Any) -> torch.device:
    """Where token ids are handed over: the model's device, or where its first layer computes if its weights rest elsewhere.

    accelerate leaves a layer that no accelerator holds on torch's `meta` device between two forwards.
    """
    device: torch.device = model.device
    if device.type != "meta":
        return device
    hooks = (getattr(module, "_hf_hook", None) for module in model.modules())
    places = (getattr(hook, "execution_device", None) for hook in hooks)
    return next((torch.device(place) for place in places if place is not None), torch.device("cpu"))


__all__ = ["check_device_map", "find_input_device", "plan_placing"]
