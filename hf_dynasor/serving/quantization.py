"""Loading a model's weights in 8 or 4 bits with bitsandbytes: what transformers is told, what cannot be."""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

import torch

from hf_dynasor.errors import ConfigurationError, MissingExtraError, name_unknown

QUANTIZATIONS = ("bnb-8bit", "bnb-4bit")

_SAID_AT_EVERY_LAYER = "inputs will be cast from"


def plan_quantization(
    name: str,
    quantization: str | None,
    config: Any,
    *,
    dtype: Any,
    device: torch.device,
    gguf_file: str | None = None,
    tensor_parallel: int = 1,
) -> dict[str, Any]:
    """Options of `from_pretrained` that load a model quantised; none where nothing is asked for.

    `bnb-8bit` is LLM.int8() (Dettmers et al., 2022), `bnb-4bit` is NF4 (Dettmers et al., 2023) calculating in `dtype`.
    Embeddings, norms and the language-modelling head stay as they are.

    Args:
        name: Of the model, for messages.
        quantization: One of `QUANTIZATIONS`, or `None`.
        config: The model's configuration.
        dtype: A torch dtype, or `"auto"` for the checkpoint's own.
        device: Where the whole model goes.
        gguf_file: The GGUF file that it is read from, if it is.
        tensor_parallel: Processes that each layer is split over.

    Raises:
        ConfigurationError: An unknown name, a checkpoint that is quantised already, or a model that is split.
        MissingExtraError: bitsandbytes is not installed (extra `quant`).
    """
    if quantization is None:
        return {}
    if quantization not in QUANTIZATIONS:
        raise name_unknown("quantization", quantization, QUANTIZATIONS)
    if gguf_file is not None or getattr(config, "quantization_config", None) is not None:
        raise ConfigurationError(
            f"Got {quantization = } for {name!r}, whose weights are stored in a form of their own already "
            f"({'a GGUF file' if gguf_file else 'its quantization_config'}). Leave it out, or name the checkpoint in "
            "full precision."
        )
    if tensor_parallel > 1:
        raise ConfigurationError(
            f"Got {quantization = } with {tensor_parallel = }: quantised layers are not split. Leave one of them out."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError(f"{quantization} needs bitsandbytes: pip install 'hf-dynasor[quant]'.")
    from transformers import BitsAndBytesConfig

    _silence_repeated_warning()
    if quantization == "bnb-8bit":
        plan = BitsAndBytesConfig(load_in_8bit=True)
    else:
        compute = (
            dtype if isinstance(dtype, torch.dtype) else getattr(config, "dtype", None) or torch.bfloat16
        )
        plan = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute
        )
    return {"quantization_config": plan, "device_map": {"": device}}


def _silence_repeated_warning() -> None:
    """bitsandbytes says at each layer of each step that LLM.int8() calculates in float16; the page says it once."""
    logger = logging.getLogger("bitsandbytes.autograd._functions")
    if not any(getattr(item, "__name__", "") == "_is_new" for item in logger.filters):
        logger.addFilter(_is_new)


def _is_new(record: logging.LogRecord) -> bool:
    return _SAID_AT_EVERY_LAYER not in record.getMessage()


__all__ = ["QUANTIZATIONS", "plan_quantization"]
