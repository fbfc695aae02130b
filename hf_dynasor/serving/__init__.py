"""Engines over models: local ones here, remote ones and the faces beside them."""

from hf_dynasor.serving.continuous_engine import ContinuousBatchingEngine
from hf_dynasor.serving.factory import EngineName, make_engine
from hf_dynasor.serving.generate_engine import GenerateEngine
from hf_dynasor.serving.loading import LoadedModel, from_pipeline, load_model

__all__ = [
    "ContinuousBatchingEngine",
    "EngineName",
    "GenerateEngine",
    "LoadedModel",
    "from_pipeline",
    "load_model",
    "make_engine",
]
