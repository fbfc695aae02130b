"""Streams that go wrong or are silent: an error is an event, silence is a comment, a model's name may be a path."""

from __future__ import annotations

import json
import threading
import time

import httpx
import openai
import pytest

from hf_dynasor.core import Completion, FinishReason, TokenDelta
from hf_dynasor.serving.http.app import create_app
from hf_dynasor.serving.http.model_info import ServedModel
from hf_dynasor.serving.http.settings import ServerSettings
from tests.serving.http.kit import serve

BODY = {"messages": [{"role": "user", "content": "What is 17*6+4?"}], "temperature": 0}


class WrappedEngine:
    """The real engine behind a change."""

    def __init__(self, engine):
        self._engine = engine

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def submit(self, requests, sink):
        self._engine.submit(requests, sink)


class FailingEngine(WrappedEngine):
    """Every request fails after a few pieces."""

    def submit(self, requests, sink):
        left = {request.key: 3 for request in requests}

        def pass_on(event):
            if not left[event.key]:
                return
            left[event.key] = left[event.key] - 1 if isinstance(event, TokenDelta) else 0
            if isinstance(event, TokenDelta):
                sink(event)
            if not left[event.key]:
                sink(Completion(key=event.key, finish_reason=FinishReason.FAILED, error="It broke."))
                self._engine.cancel([event.key])

        self._engine.submit(requests, pass_on)


class SlowEngine(WrappedEngine):
    """Every request begins late."""

    def submit(self, requests, sink):
        threading.Timer(2.5, self._engine.submit, (requests, sink)).start()


@pytest.fixture
def failing(engine, model):
    with serve(create_app(FailingEngine(engine), model)) as address:
        yield address


def test_an_error_in_mid_stream_is_an_event_and_the_stream_still_ends(failing):
    lines = httpx.post(f"{failing}/v1/chat/completions", json=BODY | {"stream": True}).text.splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert events[-1]["error"]["message"] == "It broke."
    assert events[-1]["error"]["code"] == "unavailable"
    assert [line for line in lines if line][-1] == "data: [DONE]"
    assert any(event["choices"][0]["delta"].get("content") for event in events[:-1])


def test_the_client_raises_it_and_a_response_says_that_it_failed(failing):
    with openai.OpenAI(base_url=f"{failing}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.APIError, match="It broke"):
            list(client.chat.completions.create(model="embedded", **BODY, stream=True))
        events = list(client.responses.create(model="embedded", input="What is 1+1?", stream=True))
        assert events[-1].type == "response.failed"
        assert events[-1].response.error.message == "It broke."
        kept = client.responses.retrieve(events[-1].response.id)
        assert (kept.status, kept.error.code) == ("failed", "server_error")
        later = client.responses.create(model="embedded", input="What is 1+1?", background=True)
        deadline = time.monotonic() + 30
        while (later := client.responses.retrieve(later.id)).status != "failed":
            assert time.monotonic() < deadline, later
        with pytest.raises(openai.InternalServerError, match="It broke"):
            client.responses.create(model="embedded", input="What is 1+1?")


@pytest.mark.parametrize("path", ["chat/completions", "completions", "responses"])
def test_silence_is_filled_with_comments(engine, model, path):
    text = {"prompt": "1+1="} if path == "completions" else {"input": "1+1=?"}
    body = (BODY if path.startswith("chat") else text) | {"stream": True, "temperature": 0}
    settings = ServerSettings(keep_alive_s=0.1)
    with serve(create_app(SlowEngine(engine), model, settings)) as address:
        reply = httpx.post(f"{address}/v1/{path}", json=body, timeout=60).text
    assert ": keep-alive\n\n" in reply
    assert "data: [DONE]" in reply or "response.completed" in reply


def test_a_model_in_a_folder_has_its_path_as_its_name(engine, loaded):
    name = "/models/my model/v1"
    with (
        serve(create_app(engine, ServedModel(loaded, name, 0))) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client,
    ):
        assert client.models.retrieve(name).id == name
        assert client.chat.completions.create(model=name, max_tokens=2, **BODY).model == name
