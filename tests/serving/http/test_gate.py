"""What every request passes: its id, its size, its key, its rate. A plain ASGI app behind it, and a clock by hand."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging

import httpx
import pytest

from hf_dynasor.errors import ConfigurationError
from hf_dynasor.serving.http.gate import BodyLimit, Gate, HeadRequests, RequestIds
from hf_dynasor.serving.http.settings import ServerSettings
from hf_dynasor.testing import VirtualClock


async def echo(scope, receive, send):
    """Says whose request it is and how long its body was."""
    size = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    body = json.dumps({"caller": scope.get("state", {}).get("caller"), "size": size}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-size", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def ask(app, method="GET", path="/v1/models", **options):
    async def call():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.request(method, path, **options)

    return asyncio.run(call())


def test_without_a_right_key_nothing_passes_but_health_and_the_page():
    gate = Gate(echo, ServerSettings(api_keys=("alpha", "beta")), VirtualClock(100.0))
    for headers in (
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer alphabet"},
        {"Authorization": "Basic alpha"},
        {"Authorization": "alpha"},
        {"Authorization": b"Bearer \xe4\xff"},
    ):
        reply = ask(gate, headers=headers)
        assert reply.status_code == 401, headers
        assert reply.json()["error"]["code"] == "invalid_api_key"
        assert reply.headers["www-authenticate"] == "Bearer"
    for path in ("/health", "/ready", "/version", "/"):
        assert ask(gate, path=path).status_code == 200
    assert ask(gate, "OPTIONS").status_code == 200
    assert ask(gate, headers={"Authorization": "bearer beta"}).json()["caller"] == "key-1"


def test_every_key_is_compared_in_constant_time(monkeypatch):
    """Also after one that matches, and through the one function that takes the same time whatever differs."""
    compared = []
    compare = hmac.compare_digest

    def note(offered, key):
        compared.append(key)
        return compare(offered, key)

    monkeypatch.setattr("hf_dynasor.serving.http.gate.hmac.compare_digest", note)
    gate = Gate(echo, ServerSettings(api_keys=("alpha", "beta", "gamma")), VirtualClock(100.0))
    assert ask(gate, headers={"Authorization": "Bearer alpha"}).status_code == 200
    assert compared == [b"alpha", b"beta", b"gamma"]


def test_a_caller_gets_its_rate_and_is_told_when_to_come_again():
    clock = VirtualClock(100.0)
    gate = Gate(echo, ServerSettings(requests_per_minute=3, api_keys=("a", "b")), clock)
    mine, others = {"Authorization": "Bearer a"}, {"Authorization": "Bearer b"}
    assert [ask(gate, headers=mine).status_code for _ in range(4)] == [200, 200, 200, 429]
    reply = ask(gate, headers=mine)
    assert reply.json()["error"]["type"] == "rate_limit_error"
    assert 1 <= int(reply.headers["retry-after"]) <= 21
    assert ask(gate, headers=others).status_code == 200
    clock.advance(20)
    assert [ask(gate, headers=mine).status_code for _ in range(2)] == [200, 429]


def test_a_key_has_so_many_requests_in_flight_and_no_more():
    async def scenario():
        is_open, entered = asyncio.Event(), asyncio.Event()

        async def slow(scope, receive, send):
            entered.set()
            await is_open.wait()
            await echo(scope, receive, send)

        gate = Gate(slow, ServerSettings(max_concurrent_per_key=1), VirtualClock(100.0))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://test") as client:
            first = asyncio.ensure_future(client.get("/v1/models"))
            await entered.wait()
            second = await client.get("/v1/models")
            is_open.set()
            return [
                (await first).status_code,
                second.status_code,
                (await client.get("/v1/models")).status_code,
            ]

    assert asyncio.run(scenario()) == [200, 429, 200]


@pytest.mark.parametrize("is_told", [True, False])
def test_bodies_are_bounded_told_or_in_chunks(is_told):
    app = BodyLimit(echo, max_bytes=10)

    async def chunks(count):
        for _ in range(count):
            yield b"12345"

    def send(count):
        return ask(app, "POST", content=b"12345" * count if is_told else chunks(count))

    assert send(2).json()["size"] == 10
    reply = send(3)
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")


def test_a_plain_request_id_is_echoed_and_logged_and_any_other_replaced(caplog):
    app = RequestIds(echo, VirtualClock(100.0))
    with caplog.at_level(logging.INFO, "hf_dynasor.access"):
        assert ask(app, headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
        for bad in ("with space", "x" * 201, ""):
            given = ask(app, headers={"X-Request-Id": bad}).headers["x-request-id"]
            assert given != bad
            assert len(given) == 32
    rows = [json.loads(record.getMessage()) for record in caplog.records]
    assert rows[0] == {
        "request_id": "mine-1",
        "method": "GET",
        "path": "/v1/models",
        "status": 200,
        "seconds": 0.0,
    }
    assert len({row["request_id"] for row in rows}) == 4


def test_head_is_get_without_the_body():
    app = HeadRequests(echo)
    whole, head = ask(app), ask(app, "HEAD")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["x-size"] == whole.headers["x-size"] == str(len(whole.content))


@pytest.mark.parametrize(
    "options",
    [
        {"max_running": 0},
        {"request_timeout_s": 0},
        {"requests_per_minute": 0},
        {"api_keys": ("",)},
        {"max_responses_kept": 0},
        {"allowed_origins": "https://a.example"},
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(options):
    (name,) = options
    with pytest.raises(ConfigurationError, match=name if name != "api_keys" else "API key"):
        ServerSettings(**options)


def test_one_text_as_keys_is_refused_since_each_of_its_letters_would_open():
    with pytest.raises(ConfigurationError, match="one text as api_keys"):
        ServerSettings(api_keys="secret")
