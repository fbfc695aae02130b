"""Finds, reads and prepares a causal language model and its tokenizer. Knows no engine.

Whatever can go wrong comes back as one clear line: `ModelLoadError` for the model, `ConfigurationError` for
an option, `MissingExtraError` for a package that a format needs.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from hf_dynasor.errors import ConfigurationError, ModelLoadError, UnsupportedError, name_unknown
from hf_dynasor.serving.layer_placement import check_device_map, find_input_device, plan_placing
from hf_dynasor.serving.left_out_settings import LEFT_OUT_SETTINGS
from hf_dynasor.serving.model_source import EMBEDDED_NAME, explain_missing, first_line, locate_model
from hf_dynasor.serving.quantization import plan_quantization

__all__ = ["DTYPES", "EMBEDDED_NAME", "LoadedModel", "from_pipeline", "load_model", "prepare"]

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# What transformers, huggingface_hub, gguf and safetensors raise for a model that cannot be read (by trying:
# no such name, offline, no weights, broken JSON, broken safetensors, broken GGUF, unknown architecture,
# weights of other shapes, a package that remote code or a quantised checkpoint needs).
LOAD_ERRORS = (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError, SafetensorError)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A causal language model that is ready to generate, with its tokenizer.

    Args:
        model: A transformers model with a language-modelling head, in eval mode.
        tokenizer: The tokenizer that belongs to it.
        name: What to call it in messages and records.
        generation_config: Where the end-of-turn token ids come from; `None` takes the model's own. Its
            sampling settings are never mixed into a request (those that would act are named in a warning).
        num_shards: Processes that each layer is split over; every forward takes all of them.
    """

    model: Any
    tokenizer: Any
    name: str
    generation_config: Any = None
    num_shards: int = 1

    @property
    def devices(self) -> tuple[str, ...]:
        """Where this process has layers of it, by name."""
        placed = getattr(self.model, "hf_device_map", None) or {"": self.model.device}
        return tuple(sorted({str(device) for device in placed.values()}))

    @property
    def input_device(self) -> torch.device:
        """Where its token ids go."""
        return find_input_device(self.model)

    def check_whole(self, user: str) -> None:
        """Raise `UnsupportedError` where a forward of this process alone would wait for the others for good.

        Args:
            user: Who would run it, to begin the sentence.
        """
        if self.num_shards > 1:
            raise UnsupportedError(
                f"{user} runs {self.name} in one process, but it is split over {self.num_shards}, which step together "
                "in continuous batching only. Leave it out, or serve a model that is not split."
            )

    @property
    def config(self) -> Any:
        """The configuration of the text model."""
        return self.model.config.get_text_config()

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """The ids that end a turn: the generation config's, else the model config's, else the tokenizer's."""
        sources = (self.generation_config or self.model.generation_config, self.config, self.tokenizer)
        for source in sources:
            ids = getattr(source, "eos_token_id", None)
            if ids is not None:
                return frozenset(ids if isinstance(ids, (list, tuple)) else [ids])
        return frozenset()

    @property
    def pad_token_id(self) -> int:
        """An id to fill places with that are masked anyway."""
        ids = (self.tokenizer.pad_token_id, *sorted(self.eos_token_ids), 0)
        return int(next(token_id for token_id in ids if token_id is not None))

    @property
    def max_context(self) -> int | None:
        """Most tokens that the model was made for, prompt and answer together; `None` where it does not say."""
        for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
            value = getattr(self.config, name, None)
            if isinstance(value, int) and value > 0:
                return value
        return None

    @property
    def kv_bytes_per_token(self) -> int:
        """Memory that one token's keys and values take over all layers; 0 for models that keep none."""
        config = self.config
        num_heads = getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", 0)
        if not num_heads:
            return 0
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * config.num_hidden_layers * num_heads * head_size * self.model.dtype.itemsize)


def load_model(
    name_or_path: str | Path = EMBEDDED_NAME,
    *,
    dtype: str | None = None,
    device: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    local_files_only: bool | None = None,
    attn_implementation: str | None = None,
    device_map: str | None = None,
    tensor_parallel: int = 1,
    quantization: str | None = None,
) -> LoadedModel:
    """Load a causal language model with its tokenizer.

    Args:
        name_or_path: A hub name, a local folder, a `.gguf` file, or `"embedded"` for the package's own reasoner.
        dtype: `float32`, `bfloat16`, `float16`. `None` or `auto` takes float32 on a CPU (equal tokens from every
            engine, and quick on every CPU; bfloat16 is up to twice as fast where the CPU has instructions for it)
            and the checkpoint's own elsewhere.
        device: A torch device such as `cpu` or `cuda:1`. `None` or `auto` takes the accelerator if there is one.
        revision: Branch, tag or commit of a hub model.
        trust_remote_code: Run code that comes with the checkpoint.
        local_files_only: Never ask the hub. `None` asks it only if it answers within a few seconds.
        attn_implementation: Passed on to transformers.
        device_map: `auto` lets accelerate spread whole layers over the accelerators, and over the host's memory where
            they do not suffice. One layer works at a time, so this is for models that are too large, not for speed.
        tensor_parallel: Processes that split each layer by transformers' plan; all of them load the model, with their
            own `device`. See `hf_dynasor.serving.shards`.
        quantization: `bnb-8bit` or `bnb-4bit` keeps the weights of linear layers in so many bits with bitsandbytes, on
            CPUs too; `dtype` is what the rest has. See docs/evaluation.md for what it costs.

    Raises:
        ModelLoadError: The model was not found, cannot be read, or is no decoder-only language model.
        ConfigurationError: An unknown dtype, device or quantization, or options that exclude each other.
        UnsupportedError: The model cannot be split so.
        MissingExtraError: A GGUF file without the `gguf` package, or quantization without bitsandbytes.
    """
    check_device_map(device_map, device, tensor_parallel)
    target = pick_device(device or "auto")
    precision = pick_dtype(dtype or "auto", target)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if revision is not None:
        options["revision"] = revision
    source, name, where = locate_model(name_or_path, local_files_only)
    options |= where
    config = _read_config(name, source, options)
    placing = plan_placing(name, config, device_map, tensor_parallel)
    bits = {"dtype": precision, "device": target, "gguf_file": where.get("gguf_file")}
    placing = plan_quantization(name, quantization, config, **bits, tensor_parallel=tensor_parallel) | placing
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except LOAD_ERRORS as error:
        raise ModelLoadError(f"Cannot load the tokenizer of {name!r}: {first_line(error)}") from error
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=precision, **options, **placing)
        if not placing:
            model.to(target)
    except LOAD_ERRORS as error:
        raise ModelLoadError(f"Cannot load model {name!r}: {first_line(error)}") from error
    return prepare(LoadedModel(model=model, tokenizer=tokenizer, name=name, num_shards=tensor_parallel))


def from_pipeline(pipe: Any) -> LoadedModel:
    """Use the model, tokenizer and generation config of a `pipeline("text-generation", ...)`.

    Settings for its calls that the pipeline was made with (`max_new_tokens=3`) are left out: every request brings
    its own. A warning names them.

    Raises:
        ModelLoadError: The pipeline is of another task, or has no tokenizer.
    """
    task = getattr(pipe, "task", None)
    if task != "text-generation":
        raise ModelLoadError(f"Got a pipeline for {task!r} but expected one for 'text-generation'.")
    if pipe.tokenizer is None:
        raise ModelLoadError("The pipeline has no tokenizer. Pass one: pipeline(..., tokenizer=...).")
    name = str(getattr(pipe.model, "name_or_path", "") or "pipeline")
    # Where transformers keeps the arguments of pipeline(...) that are meant for its calls.
    given = {**getattr(pipe, "_generate_kwargs", {}), **getattr(pipe, "_forward_params", {})}
    config = given.pop("generation_config", None) or getattr(pipe, "generation_config", None)
    given.pop("tokenizer", None)
    if given:
        logger.warning(
            "Left out of the pipeline of %s, as requests bring their own settings: %s",
            name,
            _format_settings(given),
        )
    return prepare(
        LoadedModel(model=pipe.model, tokenizer=pipe.tokenizer, name=name, generation_config=config)
    )


def prepare(loaded: LoadedModel) -> LoadedModel:
    """Put a model into eval mode, keep a copy of its generation config, and name what of it is left out."""
    if loaded.config.is_encoder_decoder:
        raise ModelLoadError(_describe_encoder_decoder(loaded.name))
    config = loaded.generation_config or loaded.model.generation_config or GenerationConfig()
    ignored = {
        name: getattr(config, name)
        for name, neutral in LEFT_OUT_SETTINGS.items()
        if getattr(config, name, None) not in (None, neutral)
    }
    if ignored:
        logger.warning(
            "Left out of %s's generation config, as SamplingParams has no such setting: %s",
            loaded.name,
            _format_settings(ignored),
        )
    loaded.model.eval()
    return replace(loaded, generation_config=copy.deepcopy(config))


def _format_settings(settings: dict[str, Any]) -> str:
    plain = (bool, int, float, str, list, tuple, dict, type(None))
    shown = {name: value if isinstance(value, plain) else type(value) for name, value in settings.items()}
    return ", ".join(f"{name}={value!r}" for name, value in sorted(shown.items()))


def _read_config(name: str, source: str, options: dict[str, Any]) -> Any:
    """The configuration of the text model of a decoder-only language model."""
    try:
        config = AutoConfig.from_pretrained(source, **options)
    except LOAD_ERRORS as error:
        raise ModelLoadError(explain_missing(name, source, error, options)) from error
    if config.get_text_config().is_encoder_decoder:
        raise ModelLoadError(_describe_encoder_decoder(name))
    return config.get_text_config()


def _describe_encoder_decoder(name: str) -> str:
    return (
        f"Model {name!r} is an encoder-decoder: expected a decoder-only language model such as Llama or Qwen."
    )


def pick_device(device: str) -> torch.device:
    """The device of that name; `auto` takes the accelerator if there is one."""
    if device == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise ConfigurationError(
            f"Got {device = } but expected 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps'."
        ) from error
    if target.type == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(f"Got {device = } but torch sees no CUDA device here. Use 'auto' or 'cpu'.")
    return target


def pick_dtype(dtype: str, device: torch.device) -> Any:
    """The dtype of that name; `auto` takes float32 on a CPU and the checkpoint's own elsewhere."""
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    if dtype not in DTYPES:
        raise name_unknown("dtype", dtype, ["auto", *DTYPES])
    return DTYPES[dtype]
