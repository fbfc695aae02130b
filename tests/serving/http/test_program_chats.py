"""A chat completion that names a program runs it: the answer is the message, the account is whole."""

from __future__ import annotations

import time

import httpx
import openai
import pytest

from hf_dynasor.serving.http.app import create_app
from hf_dynasor.serving.http.settings import ServerSettings
from hf_dynasor.serving.solver import Solver
from tests.serving.http.kit import serve

QUESTION = "What is 17*6+4?"
MESSAGES = [{"role": "user", "content": QUESTION}]


def ask(client, dynasor, **options):
    return client.chat.completions.create(
        **{"model": "embedded", "messages": MESSAGES, "extra_body": {"dynasor": dynasor}} | options
    )


def test_a_program_over_http_is_the_program_in_process(client, engine):
    reply = ask(client, {"program": "self_consistency", "budget": 10}, seed=3, temperature=0.7)
    expected = Solver(engine, budget=10, seed=3, temperature=0.7).solve(MESSAGES)
    said = reply.model_extra["dynasor"]
    assert said["answer"] == expected.text == "106"
    assert said["votes"] == [list(vote) for vote in expected.votes]
    assert reply.usage.completion_tokens == expected.usage.sampled
    assert "\\boxed{106}" in reply.choices[0].message.content
    saved = reply.usage.model_extra["dynasor"]["saved_tokens"]
    assert (saved > 0) == expected.is_early


def test_a_stream_of_a_program_tells_its_grants_and_ends_with_the_message(client):
    chunks = list(ask(client, {"program": "self_consistency", "budget": 8}, seed=3, stream=True))
    grants = [
        chunk.model_extra["dynasor"]["grant"]
        for chunk in chunks
        if "grant" in (chunk.model_extra.get("dynasor") or {})
    ]
    assert grants
    assert grants[-1]["total"] <= 8
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert "\\boxed{106}" in text
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].model_extra["dynasor"]["answer"] == "106"


@pytest.mark.parametrize("program", ["rebase", "mcts", "best_of_n", "beam", "chain_of_thought"])
def test_every_program_answers(client, program):
    budget = 256 if program == "chain_of_thought" else 4
    reply = ask(client, {"program": program, "budget": budget}, seed=0)
    assert reply.model_extra["dynasor"]["answer"] in reply.choices[0].message.content
    assert 0 < reply.model_extra["dynasor"]["units_spent"] <= budget


@pytest.mark.parametrize(
    ("dynasor", "options", "param"),
    [
        ({"program": "guess"}, {}, "dynasor"),
        ({"policy": "/etc/passwd"}, {}, "dynasor.policy"),
        ({"policy": "calibrated.json"}, {}, "dynasor.policy"),
        ({"budget": 4, "options": {"rule": "/etc/passwd"}}, {}, "dynasor.options.rule"),
        ({"budget": 4, "options": {"nothing_such": 1}}, {}, "dynasor"),
        ({"certaindex": {"mood": 0.5}}, {}, "dynasor.certaindex"),
        ({"certaindex": {"entropy": 1.5}}, {}, "dynasor"),
        ({"budget": 0}, {}, "dynasor.budget"),
        ({"budget": 4}, {"n": 2}, "n"),
        ({"budget": 4}, {"logprobs": True}, "logprobs"),
        ({"budget": 4}, {"temperature": 0}, "dynasor"),
    ],
)
def test_what_a_program_cannot_do_is_refused_by_name(client, dynasor, options, param):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, dynasor, **options)
    assert caught.value.body["param"] == param


def test_a_client_that_goes_away_cancels_its_program(address, engine):
    body = {
        "messages": MESSAGES,
        "temperature": 2.0,
        "max_tokens": 1500,
        "dynasor": {"budget": 16, "policy": "even"},
    }
    with httpx.Client(base_url=address, timeout=0.3) as impatient, pytest.raises(httpx.ReadTimeout):
        impatient.post("/v1/chat/completions", json=body)
    deadline = time.monotonic() + 10
    while engine.num_in_flight and time.monotonic() < deadline:
        time.sleep(0.05)
    assert engine.num_in_flight == 0


def test_a_program_that_takes_too_long_is_a_504(engine, model):
    settings = ServerSettings(request_timeout_s=0.2)
    body = {
        "messages": MESSAGES,
        "temperature": 2.0,
        "max_tokens": 1500,
        "dynasor": {"budget": 64, "policy": "even"},
    }
    with serve(create_app(engine, model, settings)) as address:
        reply = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=30)
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "timeout")
