"""A real server on loopback over the embedded model, and clients for it."""

from __future__ import annotations

import httpx
import pytest
from openai import OpenAI

from hf_dynasor.serving import load_model, make_engine
from hf_dynasor.serving.http.app import create_app
from hf_dynasor.serving.http.model_info import ServedModel
from tests.serving.http.kit import serve


@pytest.fixture(scope="session")
def loaded():
    return load_model("embedded")


@pytest.fixture(scope="session")
def model(loaded):
    return ServedModel(loaded, "embedded", 0)


@pytest.fixture(scope="session", params=["continuous", "generate"])
def engine(request, loaded):
    engine = make_engine(loaded, engine=request.param)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def address(engine, model):
    with serve(create_app(engine, model)) as address:
        yield address


@pytest.fixture(scope="session")
def client(address):
    with OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def http(address):
    with httpx.Client(base_url=address, timeout=60) as http:
        yield http
