"""What a user may get wrong: each is one clear error that names the value and the fix."""

from __future__ import annotations

import socket
import threading
from contextlib import closing, contextmanager

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse
from starlette.routing import Route

from hf_dynasor.errors import ConfigurationError, EngineError, ModelLoadError
from hf_dynasor.serving.remote import RemoteEngine, read_address
from tests.serving.http.kit import serve
from tests.serving.remote.kit import URL, ScriptedServer, open_engine


def respond(response):
    return Starlette(routes=[Route("/{path:path}", lambda request: response, methods=["GET", "POST"])])


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("ftp://host/v1", "expected an address such as"),
        ("http://", "expected an address such as"),
        ("http://host:8000", "http://host:8000/v1"),
        ("http://host:8000/v1/chat/completions", "http://host:8000/v1"),
        ("http://host:port/v1", "cannot be read"),
        ("http://host/v1?key=abc", "a query"),
    ],
)
def test_an_address_that_cannot_work_is_named_with_one_that_can(url, words):
    with pytest.raises(ConfigurationError) as caught:
        read_address(url)
    assert repr(url) in str(caught.value)
    assert words in str(caught.value)


def test_a_key_in_the_address_is_refused_and_not_repeated():
    with pytest.raises(ConfigurationError) as caught:
        read_address("http://me:s3cret@host/v1")
    assert "s3cret" not in str(caught.value)
    assert "HF_DYNASOR_BACKEND_API_KEY" in str(caught.value)


@pytest.mark.parametrize("url", ["http://host:8000/v1", "https://host/api/v1/", "http://[::1]:9/v1"])
def test_addresses_that_work(url):
    address = read_address(url, "k")
    assert address.base_url == url.rstrip("/")
    assert address.root + "/v1" == address.base_url
    assert "k" not in repr(address).replace("api_key", "")


def test_openai_s_key_is_shown_to_openai_alone(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "theirs")
    assert read_address("https://api.openai.com/v1").api_key == "theirs"
    assert read_address("http://127.0.0.1:8000/v1").api_key is None
    monkeypatch.setenv("HF_DYNASOR_BACKEND_API_KEY", "ours")
    assert read_address("https://api.openai.com/v1").api_key == "ours"


def test_a_server_that_is_down_is_named_at_once():
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(EngineError, match=rf"127.0.0.1:{port}/v1 does not answer .*Is the server running"):
        open_engine(f"http://127.0.0.1:{port}/v1")


def test_https_to_a_plain_server_says_to_write_http():
    with serve(respond(JSONResponse({"data": [{"id": "m"}]}))) as address:
        url = address.replace("http://", "https://")
        with pytest.raises(ConfigurationError, match="write http:// for https://"):
            open_engine(f"{url}/v1")


def test_http_to_a_tls_server_says_to_write_https():
    with closes_at_once() as address, pytest.raises(EngineError, match="write https:// for http://"):
        open_engine(f"{address}/v1")


@contextmanager
def closes_at_once():
    """What a TLS server does when it is spoken to in plain HTTP: it hangs up without a word of HTTP."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def hang_up():
            with closing(listener.accept()[0]) as connection:
                connection.recv(1)

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(10)


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (HTMLResponse("<!DOCTYPE html><html>hello</html>"), "a page of HTML"),
        (HTMLResponse("<html>not here</html>", 404), "There is no API at"),
        (
            JSONResponse({"error": {"message": "bad key"}}, 401),
            "refuses the API key .401.: bad key Set HF_DYNASOR_BACKEND_API_KEY",
        ),
        (RedirectResponse("https://elsewhere/"), "redirects to https://elsewhere/"),
        (JSONResponse(["what"]), "a list of models was expected"),
        (JSONResponse({"data": []}), "lists 0 models"),
    ],
    ids=["html", "404", "401", "redirect", "json", "none"],
)
def test_what_is_no_openai_compatible_api_is_told_so(response, words):
    with serve(respond(response)) as address, pytest.raises(ConfigurationError, match=words):
        open_engine(f"{address}/v1")


def test_a_server_that_is_not_ready_is_an_engine_error():
    app = respond(JSONResponse({"error": {"message": "loading"}}, 503))
    with serve(app) as address, pytest.raises(EngineError, match="loading"):
        open_engine(f"{address}/v1")


def test_a_server_that_falls_silent_while_it_is_asked_is_not_taken_for_another():
    server = ScriptedServer(lambda body, request: b"")
    look = server.look

    def hang(request):
        if request.url.path == "/openapi.json":
            raise httpx.ReadTimeout("too slow")
        return look(request)

    server.look = hang
    with pytest.raises(EngineError, match="fell silent"):
        server.open()


MODELS = [{"id": "a", "owned_by": "vllm"}, {"id": "b", "owned_by": "vllm", "root": "org/b"}]


def test_several_models_have_to_be_chosen_from_and_a_wrong_one_lists_them():
    server = ScriptedServer(lambda body, request: b"", models=MODELS)
    with pytest.raises(ConfigurationError, match=r"lists 2 models \(a, b\).*--model"):
        server.open()
    with pytest.raises(ConfigurationError, match=r"has no model 'c'. It has: a, b"):
        server.open(model="c")
    with server.open(model="org/b") as engine:
        assert engine.found.model == "b"


def test_an_unknown_dialect_lists_those_that_are():
    server = ScriptedServer(lambda body, request: b"")
    with pytest.raises(ConfigurationError, match=r"Unknown dialect 'vlm'. Known: .*vllm"):
        server.open(dialect="vlm")


def test_a_tokenizer_that_is_not_there_is_named():
    server = ScriptedServer(lambda body, request: b"")
    with pytest.raises(ModelLoadError, match="/no/such/folder"):
        server.open(tokenizer="/no/such/folder")


@pytest.mark.parametrize("option", ["max_in_flight", "max_waiting"])
def test_a_bound_below_one_is_refused(option):
    with pytest.raises(ConfigurationError, match=option):
        RemoteEngine(URL, **{option: 0})


@pytest.mark.parametrize(
    ("owner", "routes", "answers", "expected"),
    [
        ("vllm", (), {}, "vllm"),
        ("sglang", (), {}, "sglang"),
        ("llamacpp", (), {}, "llama.cpp"),
        ("hf_dynasor", (), {}, "hf_dynasor"),
        ("org", ("/load_model", "/reset"), {}, "transformers"),
        ("me", ("/extras/tokenize",), {}, "llama.cpp"),
        ("x", (), {"/info": {"max_total_tokens": 4}}, "tgi"),
        ("x", (), {"/get_model_info": {"model_path": "p"}}, "sglang"),
        ("x", (), {"/props": {"default_generation_settings": {}}}, "llama.cpp"),
        ("x", (), {}, "openai"),
    ],
)
def test_a_server_is_told_by_what_it_says_of_itself(owner, routes, answers, expected):
    server = ScriptedServer(lambda body, request: b"", models=[{"id": "m", "owned_by": owner}], routes=routes)
    look = server.look

    def answer(request):
        found = answers.get(request.url.path)
        return httpx.Response(200, json=found) if found is not None else look(request)

    server.look = answer
    with server.open() as engine:
        assert engine.found.dialect.name == expected
        assert engine.name == f"{expected}(m at server.test)"
