"""A model's tokenizer and configuration without its weights, for a model that runs elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from hf_dynasor.errors import ModelLoadError, UnsupportedError
from hf_dynasor.serving.loading import LOAD_ERRORS, LoadedModel
from hf_dynasor.serving.model_source import explain_missing, first_line, locate_model


@dataclass(frozen=True, slots=True, kw_only=True)
class Weightless:
    """Stands in a `LoadedModel` for a model that runs on a server.

    Args:
        config: The model's configuration.
        generation_config: Where the ids that end a turn come from.
    """

    config: Any
    generation_config: Any

    @property
    def device(self) -> torch.device:
        """Nowhere."""
        return torch.device("meta")

    def modules(self) -> Iterator[Any]:
        """None."""
        return iter(())

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Nothing can be computed.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError(
            "The model runs on a backend, so nothing can be computed with it here, such as the log-probabilities of a "
            "prompt. Ask the backend itself."
        )


def load_tokenizer(source: str | Path, *, trust_remote_code: bool = False) -> LoadedModel:
    """The tokenizer and the configuration of a model.

    Args:
        source: A hub name, a local folder, a `.gguf` file, or `"embedded"`.
        trust_remote_code: Run code that comes with the checkpoint.

    Raises:
        ModelLoadError: They are not there or cannot be read.
        MissingExtraError: A GGUF file without the `gguf` package.
    """
    where, name, options = locate_model(source, None)
    options |= {"trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(where, **options)
    except LOAD_ERRORS as error:
        raise ModelLoadError(explain_missing(name, where, error, options)) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
    except LOAD_ERRORS as error:
        raise ModelLoadError(f"Cannot load the tokenizer of {name!r}: {first_line(error)}") from error
    generation = _read_generation_config(where, config, options)
    return LoadedModel(
        model=Weightless(config=config, generation_config=generation), tokenizer=tokenizer, name=name
    )


def _read_generation_config(where: str, config: Any, options: dict[str, Any]) -> GenerationConfig:
    """The folder's own, else what the configuration says."""
    known = {name: value for name, value in options.items() if name in ("local_files_only", "revision")}
    try:
        return GenerationConfig.from_pretrained(where, **known)
    except (OSError, ValueError):
        return GenerationConfig.from_model_config(config)
