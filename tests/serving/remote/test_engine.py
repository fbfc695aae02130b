"""The remote engine over a scripted server: the protocol of engines, and what it owes to a server."""

from __future__ import annotations

import asyncio
import logging
import time

import httpx
import pytest

from hf_dynasor.core import (
    Chat,
    FinishReason,
    Message,
    Prompt,
    RequestKey,
    SamplingParams,
    Score,
    TokenIds,
)
from hf_dynasor.engine import Ability
from hf_dynasor.errors import ConfigurationError, EngineError, UnsupportedError
from hf_dynasor.program_plan import ProgramPlan, ProgramTerms
from hf_dynasor.serving.remote import DIALECTS, RetryPolicy
from tests.serving.kit import Collector, ask, complete
from tests.serving.remote.kit import ScriptedServer, break_off, drip, encode, piece, usage

WHOLE = encode(
    piece("2+3", token_ids=[1, 2]), piece("=5", token_ids=[3], finish="stop", stop_reason=None), usage(4, 3)
)
CHAT = Prompt.chat("What is 2+3?")


def serve(reply=WHOLE, **options):
    return ScriptedServer(reply if callable(reply) else lambda body, request: reply, **options)


def test_an_answer_arrives_whole_with_the_servers_own_account():
    with serve().open() as engine:
        (done,) = complete(engine, ask([1, 2, 3, 4]))
    assert (done.text, done.token_ids, done.finish_reason) == ("2+3=5", (1, 2, 3), FinishReason.EOS)
    assert (done.usage.prompt, done.usage.sampled) == (4, 3)
    assert engine.is_counted_by_server


def test_probe_tokens_are_counted_as_such():
    with serve().open() as engine:
        (done,) = complete(engine, ask([1], probe=True))
    assert (done.usage.probe, done.usage.sampled) == (3, 0)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_deltas_join_to_the_text_however_the_stream_is_cut(size):
    server, collector = serve(lambda body, request: drip(WHOLE, size=size)), Collector()
    with server.open() as engine:
        request = ask([1], stream=True)
        engine.submit([request], collector)
        done = collector.wait(1)[request.key]
    assert "".join(delta.text for delta in collector.deltas[request.key]) == done.text == "2+3=5"
    assert sum((delta.token_ids for delta in collector.deltas[request.key]), ()) == done.token_ids


def test_cancelling_closes_the_stream_and_counts_what_came():
    async def forever():
        while True:
            yield encode(piece("x", token_ids=[7]), done=False)
            await asyncio.sleep(0.005)

    server, collector = serve(lambda body, request: forever()), Collector()
    with server.open() as engine:
        request = ask([1], stream=True)
        engine.submit([request], collector)
        collector.take()
        assert server.num_open == 1
        engine.cancel([request.key])
        done = collector.wait(1)[request.key]
        assert done.finish_reason is FinishReason.CANCELLED
        assert done.usage.sampled == len(done.token_ids) >= 1
        assert server.num_open == 0
        assert len(complete_nothing(engine)) == 0


def complete_nothing(engine):
    collector = Collector()
    engine.submit([], collector)
    return collector.completions


def test_a_request_that_waits_is_cancelled_without_ever_being_sent():
    async def hang():
        yield b": wait\n\n"
        await asyncio.sleep(60)

    server, collector = serve(lambda body, request: hang()), Collector()
    with server.open(max_in_flight=1) as engine:
        requests = [ask([1], f"r{number}") for number in range(3)]
        engine.submit(requests, collector)
        engine.cancel([request.key for request in requests[1:]])
        assert {key.request_id for key in collector.wait(2)} == {"r1", "r2"}
        assert len(server.bodies) <= 1
    assert collector.wait(3)[requests[0].key].finish_reason is FinishReason.CANCELLED


def test_never_more_are_in_flight_than_allowed_and_all_are_answered():
    server = serve(lambda body, request: drip(WHOLE, size=20, pause_s=0.002))
    with server.open(max_in_flight=3) as engine:
        done = complete(engine, *(ask([1], f"r{number}") for number in range(20)))
        assert engine.worker.most_in_flight == 3
    assert server.most_open <= 3
    assert [item.text for item in done] == ["2+3=5"] * 20
    assert engine.num_sent == 20


def test_too_many_waiting_requests_are_refused_and_none_of_them_taken():
    with serve().open(max_waiting=2) as engine:
        with pytest.raises(EngineError, match="takes at most 2"):
            engine.submit([ask([1], f"r{number}") for number in range(3)], Collector())
        assert engine.num_in_flight == 0


def test_a_broken_stream_is_sent_again_and_what_was_thrown_away_is_counted():
    replies = iter([lambda: break_off(encode(piece("2+", token_ids=[1]), done=False)), lambda: drip(WHOLE)])
    server = serve(lambda body, request: next(replies)())
    with server.open() as engine:
        (done,) = complete(engine, ask([1]))
    assert done.text == "2+3=5"
    assert done.usage.sampled == 3 + 1
    assert (engine.num_sent, engine.num_retries) == (2, 1)
    names = [headers["x-request-id"] for headers in server.headers]
    assert len(set(names)) == 2  # a repeated name hangs some servers


def test_an_answer_whose_connection_breaks_after_its_last_word_is_not_asked_for_again():
    for tail in (b"", b'data: {"choices": [], "usa'):
        finished = encode(piece("5", token_ids=[1], finish="stop"), done=False) + tail
        server = serve(lambda body, request, data=finished: break_off(data))
        with server.open() as engine:
            (done,) = complete(engine, ask([1]))
        assert done.text == "5"
        assert len(server.bodies) == 1


def test_a_stream_that_breaks_goes_on_where_it_was_told_since_it_has_a_seed():
    replies = iter([lambda: break_off(encode(piece("2+", token_ids=[1]), done=False)), lambda: drip(WHOLE)])
    server, collector = serve(lambda body, request: next(replies)()), Collector()
    with server.open() as engine:
        request = ask([1], stream=True, temperature=1.0)
        engine.submit([request], collector)
        assert collector.wait(1)[request.key].text == "2+3=5"
    assert "".join(delta.text for delta in collector.deltas[request.key]) == "2+3=5"
    first, second = server.bodies
    assert first == second
    assert first["seed"] >= 0


def test_a_stream_that_would_contradict_what_was_told_fails_with_one_clear_error():
    replies = iter([lambda: break_off(encode(piece("7", token_ids=[1]), done=False)), lambda: drip(WHOLE)])
    server, collector = serve(lambda body, request: next(replies)()), Collector()
    with server.open() as engine:
        request = ask([1], stream=True)
        engine.submit([request], collector)
        done = collector.wait(1)[request.key]
    assert done.finish_reason is FinishReason.FAILED
    assert "differently" in done.error
    assert len(server.bodies) == 2


@pytest.mark.parametrize("status", [429, 500, 503])
def test_retries_end_and_the_error_tells_how_often(status):
    server = serve(lambda body, request: httpx.Response(status, json={"error": {"message": "busy"}}))
    with server.open(retries=RetryPolicy(max_attempts=3, base_s=0.001)) as engine:
        (done,) = complete(engine, ask([1]))
        engine.check_health()  # it answers: the server is not lost
    assert done.finish_reason is FinishReason.FAILED
    assert "busy" in done.error
    assert "3 attempts" in done.error
    assert len(server.bodies) == 3


def test_retry_after_beyond_the_budget_gives_up_at_once():
    reply = httpx.Response(429, headers={"Retry-After": "3600"}, json={"error": {"message": "tomorrow"}})
    server = serve(lambda body, request: reply)
    with server.open() as engine:
        (done,) = complete(engine, ask([1]))
    assert "tomorrow" in done.error
    assert len(server.bodies) == 1


def test_retry_after_is_waited_for():
    replies = iter([httpx.Response(429, headers={"Retry-After": "0.3"}), WHOLE])
    server = serve(lambda body, request: next(replies))
    with server.open() as engine:
        begin = time.monotonic()
        complete(engine, ask([1]))
        assert time.monotonic() - begin >= 0.3


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_what_cannot_work_later_is_sent_once(status):
    server = serve(lambda body, request: httpx.Response(status, json={"detail": [{"msg": "no such thing"}]}))
    with server.open() as engine:
        (done,) = complete(engine, ask([1]))
    assert "no such thing" in done.error
    assert str(status) in done.error
    assert len(server.bodies) == 1


def test_an_error_inside_a_stream_is_an_error():
    data = encode(piece("2", token_ids=[1]), {"error": {"message": "out of memory", "code": 400}}, done=False)
    with serve(data).open() as engine:
        (done,) = complete(engine, ask([1]))
    assert done.finish_reason is FinishReason.FAILED
    assert "out of memory" in done.error


def test_a_lost_server_ends_everything_with_the_same_cause():
    def refuse(body, request):
        raise httpx.ConnectError("connection refused")

    server = serve(refuse)
    with server.open() as engine:
        done = complete(engine, *(ask([1], f"r{number}") for number in range(4)))
        with pytest.raises(EngineError, match="does not answer"):
            engine.check_health()
        with pytest.raises(EngineError, match="does not answer"):
            engine.submit([ask([1])], Collector())
    assert {item.finish_reason for item in done} == {FinishReason.FAILED}
    assert len(server.bodies) <= 4 * 6


def test_a_page_of_html_in_place_of_an_answer_is_named_as_such():
    reply = httpx.Response(200, headers={"content-type": "text/html"}, text="<!DOCTYPE html><html></html>")
    with serve(lambda body, request: reply).open() as engine:
        (done,) = complete(engine, ask([1]))
    assert "a page of HTML" in done.error


def test_an_answer_in_one_piece_is_taken_from_a_server_that_does_not_stream():
    row = {"choices": [{"text": "5", "finish_reason": "length"}], "usage": {"completion_tokens": 2}}
    with serve(lambda body, request: httpx.Response(200, json=row)).open() as engine:
        (done,) = complete(engine, ask([1]))
    assert (done.text, done.finish_reason, done.usage.sampled) == ("5", FinishReason.LENGTH, 2)


def test_without_an_account_tokens_are_counted_and_said_so(caplog):
    data = encode(piece("2+"), piece("3", finish="stop"))
    with caplog.at_level(logging.WARNING), serve(data).open() as engine:
        (done,) = complete(engine, ask("What is 2+3?"))
    assert done.usage.sampled == 2 + 1  # two pieces, and the token that ended the turn
    assert not engine.is_counted_by_server
    assert "counted here" in caplog.text


def test_a_program_s_priority_is_passed_on_in_vllms_sense():
    server = serve()
    with server.open() as engine:
        engine.note_program("p", ProgramPlan(kind="k", terms=ProgramTerms(priority=3)))
        complete(engine, ask([1]), ask([1], program="other"))
        engine.note_end("p")
        complete(engine, ask([1], "later"))
    assert [body.get("priority") for body in server.bodies] == [-3, None, None]


def test_waiting_requests_go_in_the_order_of_the_policy():
    server = serve(lambda body, request: drip(WHOLE, size=50, pause_s=0.01))
    with server.open(max_in_flight=1, scheduler="sjf") as engine:
        engine.note_program("long", ProgramPlan(kind="k", planned_units=50))
        engine.note_program("short", ProgramPlan(kind="k", planned_units=1))
        collector = Collector()
        engine.submit([ask([9], f"r{n}", program="long") for n in range(3)], collector)
        engine.submit([ask([5], "r", program="short")], collector)
        collector.wait(4)
    sent = [body["prompt"] for body in server.bodies]
    assert sent.index([5]) <= 1


def test_the_key_is_shown_to_the_server_and_to_nobody_else(caplog, monkeypatch):
    monkeypatch.setenv("HF_DYNASOR_BACKEND_API_KEY", "s3cret")
    server = serve(lambda body, request: httpx.Response(401, json={"error": {"message": "bad key"}}))
    with caplog.at_level(logging.DEBUG), server.open() as engine:
        (done,) = complete(engine, ask([1]))
        shown = f"{engine.name} {engine.address!r} {vars(engine)!r} {done!r}"
    assert server.headers[0]["authorization"] == "Bearer s3cret"
    assert "s3cret" not in shown + caplog.text
    assert "HF_DYNASOR_BACKEND_API_KEY" in done.error


def test_closing_ends_everything_as_cancelled_and_twice_is_once():
    async def hang():
        yield b": wait\n\n"
        await asyncio.sleep(60)

    server, collector = serve(lambda body, request: hang()), Collector()
    engine = server.open()
    engine.submit([ask([1], f"r{number}") for number in range(5)], collector)
    engine.close()
    engine.close()
    assert {item.finish_reason for item in collector.wait(5).values()} == {FinishReason.CANCELLED}
    assert server.num_open == 0
    assert not engine.worker.thread.is_alive()
    with pytest.raises(EngineError, match="closed"):
        engine.submit([ask([1])], Collector())


def test_a_key_in_flight_is_refused():
    with serve(lambda body, request: drip(WHOLE, pause_s=0.01)).open() as engine:
        collector = Collector()
        engine.submit([ask([1])], collector)
        with pytest.raises(ConfigurationError, match="in flight"):
            engine.submit([ask([1])], collector)
        collector.wait(1)


def test_what_the_server_has_not_is_refused_by_name():
    server = serve(models=[{"id": "m", "owned_by": "x"}])
    with server.open(dialect="transformers") as engine:
        assert Ability.SEEDS not in engine.abilities
        for request, words in (
            (ask("x", temperature=1.0, seed=3), "per-request seeds"),
            (ask("x", logprobs=True), "log-probabilities"),
            (ask("x", presence_penalty=1.0), "presence_penalty"),
            (ask([1]), "token ids"),
        ):
            with pytest.raises(UnsupportedError, match=words):
                engine.submit([request], Collector())
        score = Score(key=RequestKey(program_id="p", request_id="s"), prompt=CHAT + "step")
        with pytest.raises(UnsupportedError, match="reward scores"):
            engine.submit([score], Collector())


def test_a_prompt_that_cannot_fit_is_refused_before_it_is_sent():
    server = serve(models=[{"id": "m", "owned_by": "vllm", "max_model_len": 10}])
    with server.open() as engine:
        with pytest.raises(ConfigurationError, match="takes at most 10"):
            engine.submit([ask([1] * 5, max_new_tokens=6)], Collector())
        complete(engine, ask([1] * 5, max_new_tokens=5))


def test_a_longer_prompt_begins_with_the_shorter_one_over_the_wire():
    """Encoded by the server, each segment once."""

    def reply(body, request):
        if request.url.path == "/tokenize":
            text = body.get("prompt") or "".join(turn["content"] for turn in body["messages"])
            return httpx.Response(200, json={"tokens": list(text.encode())})
        return WHOLE

    server = serve(reply, routes=("/tokenize", "/v1/completions"))
    with server.open(tokenizer="auto") as engine:
        short = CHAT + TokenIds(ids=(500,))
        complete(engine, ask(short, "a"))
        complete(engine, ask(short + " so", "b"))
        complete(engine, ask(short + " so", "c"))
    prompts = [body["prompt"] for body in server.bodies if body["_path"] == "/v1/completions"]
    assert prompts[1][: len(prompts[0])] == prompts[0]
    assert prompts[1] == prompts[2]
    assert [body["_path"] for body in server.bodies].count("/tokenize") == 2


def test_requests_that_arrive_together_have_their_prompt_encoded_once():
    def reply(body, request):
        if request.url.path == "/tokenize":
            return httpx.Response(200, json={"tokens": [1, 2]})
        return WHOLE

    server = serve(reply, routes=("/tokenize", "/v1/completions"))
    with server.open(tokenizer="auto") as engine:
        complete(engine, *(ask(CHAT, f"r{number}") for number in range(8)))
    assert [body["_path"] for body in server.bodies].count("/tokenize") == 1


def test_a_conversation_goes_as_one_where_no_tokenizer_is_at_hand():
    server = serve(encode({"choices": [{"delta": {"content": "5"}, "finish_reason": "stop"}]}, usage()))
    turns = (Message(role="system", content="s"), Message(role="user", content="q"))
    with server.open() as engine:
        chat = Prompt((Chat(messages=turns, enable_thinking=False),))
        first, second = complete(engine, ask(chat, "a"), ask(chat + "The answer", "b"))
    assert first.text == second.text == "5"
    begun = next(body for body in server.bodies if len(body["messages"]) == 3)
    assert begun["_path"] == "/v1/chat/completions"
    assert begun["messages"][2] == {"role": "assistant", "content": "The answer"}
    assert begun["continue_final_message"] is True
    assert begun["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_every_dialect_sends_neutral_values_so_that_no_default_acts_in_their_place(name):
    server = serve(models=[{"id": "m"}])
    with server.open(dialect=name) as engine:
        complete(engine, ask("x", temperature=0.5))
    (body,) = server.bodies
    shown = body | __import__("json").loads(body.get("generation_config", "{}"))
    assert shown["temperature"] == 0.5
    assert shown["top_p"] == 1.0
    assert body["stream"] is True
    if "top_k" in DIALECTS[name].fields:
        assert shown["top_k"] in (-1, 0)


def test_stop_strings_are_found_here_where_the_server_does_not_heed_them():
    async def forever():
        while True:
            yield encode(piece("4} "), done=False)
            await asyncio.sleep(0.005)

    server = serve(lambda body, request: forever(), models=[{"id": "m"}])
    with server.open(dialect="transformers") as engine:
        (done,) = complete(engine, ask("x", stop=("}",)))
        assert (done.text, done.finish_reason) == ("4", FinishReason.STOP)
        assert "stop" not in server.bodies[0]
        assert server.num_open == 0


def test_the_end_of_a_turn_is_no_stop_string_where_the_server_never_heard_of_any():
    server = serve(encode(piece("4", finish="stop")), models=[{"id": "m"}])
    with server.open(dialect="transformers") as engine:
        (done,) = complete(engine, ask("x", stop=("}",)))
    assert (done.text, done.finish_reason) == ("4", FinishReason.EOS)


def test_an_answer_without_an_account_that_was_cut_at_its_limit_has_that_many_tokens():
    with serve(encode(piece("a b c"), piece(finish="length"))).open() as engine:
        (done,) = complete(engine, ask("x", max_new_tokens=9))
    assert done.usage.sampled == 9


@pytest.mark.parametrize(
    ("told", "stop", "expected"),
    [
        ({"stop_reason": None}, ("}",), FinishReason.EOS),
        ({"stop_reason": "}"}, ("}",), FinishReason.STOP),
        ({"matched_stop": 2}, ("}",), FinishReason.EOS),
        ({}, (), FinishReason.EOS),
        ({}, ("}",), FinishReason.STOP),
    ],
)
def test_the_end_of_a_turn_is_told_from_a_stop_string(told, stop, expected):
    with serve(encode(piece("4", finish="stop", **told), usage())).open() as engine:
        (done,) = complete(engine, ask("x", stop=stop))
    assert done.finish_reason is expected


def test_logprobs_come_with_the_place_of_each_token_though_the_server_tells_no_ids():
    logprobs = {"tokens": ["2+", "3"], "token_logprobs": [-0.5, -1.0]}
    data = encode(piece("2+3", logprobs=logprobs, finish="stop"), usage(3, 2))
    with serve(data, models=[{"id": "m"}]).open(dialect="sglang") as engine:
        (done,) = complete(engine, ask("x", logprobs=True))
    assert (done.logprobs, done.offsets, done.token_ids) == ((-0.5, -1.0), (0, 2), ())


def test_a_server_that_leaves_logprobs_out_is_an_error_not_a_certainty():
    with serve().open() as engine:
        (done,) = complete(engine, ask([1], logprobs=True))
    assert done.finish_reason is FinishReason.FAILED
    assert "log-probabilities" in done.error


def test_further_likely_tokens_are_refused():
    with serve().open() as engine, pytest.raises(UnsupportedError, match="num_top_logprobs"):
        engine.submit([ask([1], logprobs=True, num_top_logprobs=3)], Collector())


def test_a_forgotten_engine_ends_its_thread():
    engine = serve().open()
    thread = engine.worker.thread
    del engine
    __import__("gc").collect()
    thread.join(10)
    assert not thread.is_alive()


def test_sampling_params_of_every_kind_reach_a_server_that_has_them():
    server = serve()
    sampling = SamplingParams(
        max_new_tokens=7,
        temperature=0.5,
        top_k=3,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=0.2,
        frequency_penalty=0.3,
        logit_bias=((5, -1.0),),
        stop=("a",),
        stop_token_ids=(9,),
        ignore_eos=True,
        min_new_tokens=2,
        seed=11,
    )
    names = {name: getattr(sampling, name) for name in sampling.__dataclass_fields__}
    with server.open() as engine:
        complete(engine, ask([1], **names))
    (body,) = server.bodies
    expected = {
        "max_tokens": 7, "temperature": 0.5, "top_k": 3, "min_p": 0.1, "repetition_penalty": 1.1,
        "presence_penalty": 0.2, "frequency_penalty": 0.3, "logit_bias": {"5": -1.0}, "stop": ["a"],
        "stop_token_ids": [9], "ignore_eos": True, "min_tokens": 2, "seed": 11, "return_token_ids": True,
    }  # fmt: skip
    assert {name: body[name] for name in expected} == expected
