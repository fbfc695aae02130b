"""A real server on loopback over the embedded model, and clients for it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
import uvicorn
from openai import OpenAI

from hf_dynasor.serving import load_model, make_engine
from hf_dynasor.serving.http.app import create_app
from hf_dynasor.serving.http.model_info import ServedModel


@contextlib.contextmanager
def serve(app) -> Iterator[str]:
    """Run an app on a free port of loopback; its address."""
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=5)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(15)
        assert not thread.is_alive()


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
