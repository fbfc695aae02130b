"""The ingress over replicas that are played here: where requests go, what a lost replica means, who is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import json

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from hf_dynasor.errors import ConfigurationError
from hf_dynasor.serving.replicas.account import Account
from hf_dynasor.serving.replicas.asgi_stream import stream_messages
from hf_dynasor.serving.replicas.hints import find_answer_id, read_hint
from hf_dynasor.serving.replicas.ingress import MAX_TRIES, Ingress
from hf_dynasor.serving.replicas.metrics import merge_metrics
from hf_dynasor.serving.replicas.scaling import count_replicas


class Lost(Exception):
    """The replica died."""


class Played:
    """Replicas by name that answer through an app, until one is told to die."""

    def __init__(self, app, names="ab", owners=None):
        self.app, self.names, self.owners = app, list(names), owners or {}
        self.account = Account()
        self.calls, self.cancelled = [], []
        self.dies_after = {}

    def call(self, hint, scope, body):
        name = self.account.choose(hint, self.names)
        self.calls.append((name, scope["path"]))
        return PlayedStream(self, name, hint, scope, body)


class PlayedStream:
    def __init__(self, played, name, hint, scope, body):
        self.name, self.played = name, played
        self.messages = self._run(hint, scope, body)

    def __aiter__(self):
        return self.messages

    def cancel(self):
        self.played.cancelled.append(self.name)
        self.closing = asyncio.ensure_future(self.messages.aclose())

    async def _run(self, hint, scope, body):
        played, left = self.played, self.played.dies_after.get(self.name, 10**9)
        owner = None if hint.replica else played.owners.get(scope["path"])
        owner = None if owner == self.name else owner
        if left == 0:
            raise Lost("killed")
        yield {"type": "hf_dynasor.replica", "replica": self.name, "pid": 1, "owner": owner}
        if owner:
            return
        async with contextlib.aclosing(stream_messages(played.app, scope, body)) as messages:
            async for message in messages:
                left -= 1
                if left <= 0:
                    raise Lost("killed")
                yield message


async def say(request):
    body = await request.body()
    return JSONResponse({"id": "resp_00ff", "size": len(body), "usage": {"completion_tokens": 7}})


async def stream(request):
    async def events():
        for number in range(20):
            yield f'data: {{"id": "chatcmpl-1f", "n": {number}}}\n\n'
        yield "data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


APP = Starlette(
    routes=[
        Route("/v1/chat/completions", stream, methods=["POST"]),
        Route("/v1/completions", say, methods=["POST"]),
        Route("/v1/responses", say, methods=["POST"]),
        Route("/v1/responses/{name}", say),
        Route("/v1/programs/{name}/events", say),
        Route("/load", say),
    ]
)


@pytest.fixture
def played():
    return Played(APP)


def talk(played, *requests, max_body_bytes=1000):
    """Requests one after the other through the ingress."""
    ingress = Ingress(played.call, played.account, max_body_bytes=max_body_bytes, lost=(Lost,))

    async def app(scope, receive, send):
        from starlette.requests import Request

        await (await ingress.answer(Request(scope, receive)))(scope, receive, send)

    async def run():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://replicas") as client:
            return [await client.request(method, path, **options) for method, path, options in requests]

    return asyncio.run(run())


def post(path, **body):
    return ("POST", path, {"json": body})


def test_an_answer_comes_through_whole_and_names_its_replica(played):
    (reply,) = talk(played, post("/v1/completions", prompt="x" * 50))
    assert reply.json()["size"] == len(json.dumps({"prompt": "x" * 50}, separators=(",", ":")))
    assert reply.headers["x-replica"] in "ab"
    assert sum(row["num_programs"] for row in played.account.describe()) == 0, "it is over"


def test_what_continues_an_answer_goes_to_who_gave_it(played):
    first, *others = talk(
        played,
        post("/v1/responses", input="a"),
        *(post("/v1/responses", input="b", previous_response_id="resp_00ff") for _ in range(3)),
        *(("GET", "/v1/responses/resp_00ff", {}) for _ in range(3)),
    )
    assert {reply.headers["x-replica"] for reply in others} == {first.headers["x-replica"]}


def test_a_request_that_was_not_answered_goes_to_another_replica(played):
    played.dies_after = {"a": 0}
    replies = talk(played, *(post("/v1/completions", prompt="x") for _ in range(3)))
    assert {(reply.status_code, reply.headers["x-replica"]) for reply in replies} == {(200, "b")}
    assert "a" in [name for name, _ in played.calls], "it was never asked"


def test_what_may_not_be_sent_twice_is_a_clear_503(played):
    played.dies_after = {"a": 0, "b": 0}
    taken, asked = talk(played, post("/v1/responses", input="x"), post("/v1/completions", prompt="x"))
    assert [each.status_code for each in (taken, asked)] == [503, 503]
    assert taken.json()["error"]["code"] == "unavailable"
    assert taken.headers["retry-after"] == "1"
    paths = [path for _, path in played.calls]
    assert (paths.count("/v1/responses"), paths.count("/v1/completions")) == (1, MAX_TRIES)


def test_a_stream_that_loses_its_replica_ends_in_an_error_event(played):
    played.dies_after = {"a": 6, "b": 6}
    (reply,) = talk(played, post("/v1/chat/completions", messages=[]))
    events = [line[6:] for line in reply.text.splitlines() if line.startswith("data: ")]
    assert json.loads(events[-2])["error"]["code"] == "unavailable"
    assert events[-1] == "[DONE]"
    assert [json.loads(event)["n"] for event in events[:-2]] == list(range(4))


def test_the_events_of_a_program_come_from_who_runs_it():
    played = Played(APP, owners={"/v1/programs/p/events": "b"})
    (reply,) = talk(played, ("GET", "/v1/programs/p/events", {}))
    assert reply.headers["x-replica"] == "b"
    assert [name for name, _ in played.calls][-1] == "b"


def test_a_large_body_is_refused_before_any_replica_sees_it(played):
    (reply,) = talk(played, ("POST", "/v1/completions", {"content": b"x" * 1001}))
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")
    assert played.calls == []


def test_every_replica_tells_its_load(played):
    (reply,) = talk(played, ("GET", "/replicas", {}))
    assert [row["replica"] for row in reply.json()["replicas"]] == ["a", "b"]


def test_an_app_hears_that_its_client_left():
    heard = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await receive()
        heard.append((await receive())["type"])

    async def run():
        messages = stream_messages(app, {"type": "http"}, b"")
        assert (await anext(messages))["status"] == 200
        await messages.aclose()

    asyncio.run(run())
    assert heard == ["http.disconnect"]


def test_an_app_that_fails_before_it_answers_fails_here():
    async def app(scope, receive, send):
        raise ValueError("broken")

    async def run():
        async for _ in stream_messages(app, {"type": "http"}, b""):
            pass

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(run())


def hint(path="/v1/chat/completions", headers=None, **body):
    return read_hint("k", 0, "POST", path, headers or {}, json.dumps(body).encode())


def test_work_is_what_a_request_may_generate():
    program = {"program": "self_consistency", "budget": 4}
    assert hint(max_tokens=100, n=3).routed.planned_tokens == 300
    assert hint(max_tokens=100, dynasor=program).routed.planned_tokens == 400
    assert hint(dynasor=program).routed.kind == "program self_consistency"
    assert hint("/v1/programs", question="q", budget=8, max_new_tokens=10).routed.planned_tokens == 80


def test_turns_of_a_conversation_begin_alike_and_sessions_whatever_their_text():
    system, user = {"role": "system", "content": "s"}, {"role": "user", "content": "q"}
    first = hint(messages=[system, user])
    later = hint(
        messages=[system, user, {"role": "assistant", "content": "a"}, {"role": "user", "content": "r"}]
    )
    other = hint(messages=[system, {"role": "user", "content": "other"}])
    assert first.routed.prefix == later.routed.prefix != other.routed.prefix
    sessions = [hint(headers={"x-session-id": "s"}, messages=[each]).routed.prefix for each in (system, user)]
    assert sessions[0] == sessions[1]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b'{"messages": 3, "n": "x", "max_tokens": true}', b"\xff"]
)
def test_rubbish_is_somebody_elses_to_refuse(body):
    assert read_hint("k", 0, "POST", "/v1/chat/completions", {}, body).routed.prefix is None


def test_ids_of_answers_are_found_where_they_stand():
    assert find_answer_id(b'{"id":"chatcmpl-1f","x":1}') == "chatcmpl-1f"
    assert find_answer_id(b'event: response.created\ndata: {"response": {"id": "resp_0a"}}') == "resp_0a"
    assert find_answer_id(b"nothing") is None
    assert hint("/v1/chat/completions/control", id="chatcmpl-1f").known_id == "chatcmpl-1f"


def test_the_backlog_is_what_each_has_and_the_queue_once():
    assert count_replicas({"a": 64.0, "b": 0.0}, {"a": 32.0, "b": 32.0}, per_replica=32) == 3


def test_histograms_of_replicas_stand_side_by_side():
    page = '# TYPE h histogram\nh_bucket{le="1.0"} 2.0\nh_bucket{le="+Inf"} 2.0\nh_sum 1.0\nh_count 2.0\n'
    merged = merge_metrics({"a": page, "b": page})
    assert merged.count("# TYPE h histogram") == 1
    assert 'h_bucket{le="1.0",replica="a"} 2.0' in merged
    assert 'h_count{replica="b"} 2.0' in merged


def test_an_unknown_routing_policy_is_refused():
    with pytest.raises(ConfigurationError, match="Known: least_cost"):
        Account("nearest")
