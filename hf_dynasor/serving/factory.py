"""Makes the engine that fits a model, from a name, a path, a pipeline or a loaded model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal, TypeAlias

from hf_dynasor.engine import Engine
from hf_dynasor.errors import UnsupportedError, name_unknown
from hf_dynasor.serving.continuous_engine import ContinuousBatchingEngine
from hf_dynasor.serving.generate_engine import GenerateEngine
from hf_dynasor.serving.loading import LoadedModel, from_pipeline, load_model
from hf_dynasor.serving.model_source import EMBEDDED_NAME

logger = logging.getLogger(__name__)

EngineName: TypeAlias = Literal["auto", "continuous", "generate"]


def make_engine(
    model: str | Path | LoadedModel | Any = EMBEDDED_NAME,
    *,
    engine: EngineName = "auto",
    dtype: str = "auto",
    device: str = "auto",
    **options: Any,
) -> Engine:
    """Make a local engine.

    Args:
        model: A hub name, a folder, a `.gguf` file, `"embedded"`, a `LoadedModel`, or a user's own
            `pipeline("text-generation", ...)`.
        engine: `generate` or `continuous`. `auto` takes `generate` on a CPU, where it is up to 1.4 times as fast
            on samples of one question (`benchmarks/engine_speed.py`), and `continuous` on CUDA; where that cannot
            run the model, `generate` after a warning that says why. Ask for `continuous` where requests continue
            each other's text (trees, probes): it computes a shared beginning once.
        dtype, device: For models that are still to be loaded; see `load_model`.
        options: Passed on to the engine's class.

    Raises:
        ModelLoadError: The model cannot be loaded.
        UnsupportedError: The engine that was asked for cannot run the model.
        ConfigurationError: An unknown engine, dtype or device.
    """
    if engine not in ("auto", "continuous", "generate"):
        raise name_unknown("engine", engine, ["auto", "continuous", "generate"])
    loaded = _load(model, dtype, device)
    if engine == "continuous":
        return ContinuousBatchingEngine(loaded, **options)
    if engine == "auto" and loaded.model.device.type == "cuda":
        try:
            return ContinuousBatchingEngine(loaded, **options)
        except UnsupportedError as error:
            logger.warning("Falling back to GenerateEngine: %s", error)
    return GenerateEngine(loaded, **options)


def _load(model: Any, dtype: str, device: str) -> LoadedModel:
    if isinstance(model, LoadedModel):
        return model
    if isinstance(model, (str, Path)):
        return load_model(model, dtype=dtype, device=device)
    return from_pipeline(model)
