"""What comes before a request's head ends is bounded, over a real socket."""

from __future__ import annotations

import socket

import httpx
import pytest

from hf_dynasor.serving.http.run import choose_http
from tests.serving.http.kit import serve

MOST_SENT = 16 * 2**20
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n"


async def count_body(scope, receive, send):
    if scope["type"] != "http":
        return
    count, is_over = 0, False
    while not is_over:
        event = await receive()
        count += len(event.get("body", b""))
        is_over = not event.get("more_body")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(count).encode()})


@pytest.fixture(scope="module")
def address():
    with serve(count_body, http=choose_http(), lifespan="off") as address:
        yield httpx.URL(address)


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n", b"x-a: " + b"a" * 8000 + b"\r\n"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nx-a: ", b"a" * 8000),
        (b"GET /", b"a" * 8000),
        (CHUNKED, b"x-a: " + b"a" * 8000 + b"\r\n"),
    ],
    ids=["many headers", "one header", "address", "trailers"],
)
def test_a_head_without_end_is_cut_off(address, begin, more):
    with socket.create_connection((address.host, address.port), timeout=60) as client:
        client.sendall(begin)
        with pytest.raises(OSError, match=r"reset|pipe"):
            client.sendall(more * (MOST_SENT // len(more)))
    assert httpx.get(address).text == "0"  # others are served


def test_large_bodies_and_many_requests_of_one_connection_pass(address):
    with httpx.Client(base_url=address) as client:
        for size in (0, 3 * 2**20, 1):
            assert client.post("/", content=b"a" * size).text == str(size)
        assert client.get("/", headers={"x-a": "a" * 30_000}).text == "0"
        for _ in range(5):
            assert client.get("/", headers={"x-a": "a" * 30_000}).status_code == 200
