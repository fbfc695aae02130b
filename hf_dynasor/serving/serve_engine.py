"""The engine of a server: continuous batching where it can run the model, since requests come one by one."""

from __future__ import annotations

import logging
from typing import Any

from hf_dynasor.engine import Engine
from hf_dynasor.errors import UnsupportedError
from hf_dynasor.serving.factory import EngineName, make_engine
from hf_dynasor.serving.loading import LoadedModel

logger = logging.getLogger(__name__)


def make_serving_engine(
    loaded: LoadedModel, engine: EngineName = "auto", *, scheduler: str | None = None, **options: Any
) -> Engine:
    """An engine for requests that come and go.

    Args:
        loaded: The model.
        engine: `auto` takes continuous batching, which computes beginnings that requests share only once, and
            `generate` (after a warning) where that cannot run the model.
        scheduler: See `make_engine`.
        options: `reward` and `reward_kind`; see `make_engine`.
    """
    if engine != "auto":
        return make_engine(loaded, engine=engine, scheduler=scheduler, **options)
    try:
        return make_engine(loaded, engine="continuous", scheduler=scheduler, **options)
    except UnsupportedError as error:
        if scheduler is not None:
            raise
        logger.warning("Falling back to GenerateEngine: %s", error)
        return make_engine(loaded, engine="generate", **options)
