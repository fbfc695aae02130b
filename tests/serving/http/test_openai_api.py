"""OpenAI's own client gets what it asks for, or a clear refusal."""

from __future__ import annotations

import time

import httpx
import openai
import pytest

from hf_dynasor.core import Prompt, SamplingParams
from hf_dynasor.drivers import run
from hf_dynasor.programs import SelfConsistency
from hf_dynasor.scheduler import Even

QUESTION = "What is 17*6+4?\nPlease reason step by step, and put your final answer within \\boxed{}."
MESSAGES = [{"role": "user", "content": QUESTION}]


def chat(client, **options):
    return client.chat.completions.create(**{"model": "embedded", "messages": MESSAGES} | options)


def test_a_chat_completion_says_what_the_engine_says(client, engine):
    sampling = SamplingParams(max_new_tokens=64, temperature=0.7, seed=11)
    program = SelfConsistency(Prompt.chat(QUESTION), budget=1, sampling=sampling)
    run(program, engine, Even())
    reply = chat(client, temperature=0.7, seed=program._make_request(0).sampling.seed, max_tokens=64)
    assert reply.choices[0].message.content == program.samples[0].text
    assert reply.usage.completion_tokens == program.samples[0].num_tokens
    assert reply.choices[0].finish_reason == "stop"


def test_a_stream_joins_to_the_whole_and_ends_with_usage(client):
    whole = chat(client, temperature=0)
    chunks = list(chat(client, temperature=0, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len(chunks) > whole.usage.completion_tokens / 2  # as it comes, not all at once


def test_a_stream_ends_with_done_once_and_one_finish_reason(http):
    body = {"model": "embedded", "messages": MESSAGES, "temperature": 0, "stream": True}
    lines = [line for line in http.post("/v1/chat/completions", json=body).text.splitlines() if line]
    assert lines[-1] == "data: [DONE]"
    assert lines.count("data: [DONE]") == 1
    assert sum('"finish_reason":"stop"' in line for line in lines) == 1


def test_choices_differ_and_repeat_with_their_seed(client):
    first, again = (chat(client, n=4, seed=5, temperature=1.5, max_tokens=24) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in again.choices]
    assert len(set(texts)) > 1
    alone = chat(client, seed=5, temperature=1.5, max_tokens=24)
    assert alone.choices[0].message.content == texts[0]


def test_stop_strings_limits_and_minimum_hold(client):
    stopped = chat(client, temperature=0, stop="\n\n")
    assert stopped.choices[0].message.content == "17*6=102"
    assert stopped.choices[0].finish_reason == "stop"
    limited = chat(client, temperature=0, max_completion_tokens=3)
    assert (limited.choices[0].finish_reason, limited.usage.completion_tokens) == ("length", 3)
    longer = chat(client, temperature=0, max_tokens=40, extra_body={"min_tokens": 40, "ignore_eos": True})
    assert longer.usage.completion_tokens == 40


def test_logprobs_stand_beside_each_token(client):
    choice = chat(client, temperature=0, logprobs=True, top_logprobs=2, max_tokens=6).choices[0]
    tokens = choice.logprobs.content
    assert "".join(token.token for token in tokens) == choice.message.content
    assert all(token.top_logprobs[0].token == token.token for token in tokens)
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in tokens)


def test_completions_take_texts_ids_and_lists_and_echo_with_logprobs(client, loaded):
    ids = loaded.tokenizer.encode("What is 2+3?", add_special_tokens=False)
    by_ids = client.completions.create(model="embedded", prompt=ids, max_tokens=4, temperature=0)
    by_lists = client.completions.create(
        model="embedded", prompt=[ids, ids], max_tokens=4, temperature=0, n=1
    )
    assert {choice.text for choice in by_lists.choices} == {by_ids.choices[0].text}
    echoed = client.completions.create(
        model="embedded", prompt=ids, max_tokens=0, echo=True, logprobs=1, temperature=0
    ).choices[0]
    assert "".join(echoed.logprobs.tokens) == "What is 2+3?" == echoed.text
    assert echoed.logprobs.token_logprobs[0] is None
    assert all(value < 0 for value in echoed.logprobs.token_logprobs[1:])


def test_the_thinking_budget_and_reasoning_content(client):
    options = {
        "temperature": 0,
        "max_tokens": 256,
        "extra_body": {"chat_template_kwargs": {"enable_thinking": True}},
    }
    free = chat(client, **options)
    thought = free.choices[0].message.reasoning_content
    assert thought
    assert "think>" not in thought + free.choices[0].message.content
    assert 0 < free.usage.completion_tokens_details.reasoning_tokens < free.usage.completion_tokens
    options["extra_body"] |= {"thinking_token_budget": 8}
    short = chat(client, **options)
    assert short.usage.completion_tokens_details.reasoning_tokens <= 16
    assert free.choices[0].message.reasoning_content.startswith(short.choices[0].message.reasoning_content)
    assert short.choices[0].message.content
    assert short.usage.model_extra["dynasor"]["forced_tokens"] > 0


def test_a_running_thought_can_be_ended(http):
    body = {
        "messages": MESSAGES,
        "temperature": 0,
        "stream": True,
        "max_tokens": 200,
        "chat_template_kwargs": {"enable_thinking": True},
    }
    with http.stream("POST", "/v1/chat/completions", json=body) as stream:
        lines = stream.iter_lines()
        first = next(line for line in lines if line.startswith("data:"))
        name = first.split('"id":"')[1].split('"')[0]
        control = http.post("/v1/chat/completions/control", json={"id": name, "action": "reasoning_end"})
        assert control.status_code in (200, 404)  # 404: the thought was over already
        assert any("[DONE]" in line for line in lines)
    assert (
        http.post("/v1/chat/completions/control", json={"id": name, "action": "reasoning_end"}).status_code
        == 404
    )


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"temperature": -1}, "temperature"),
        ({"n": 0}, "n"),
        ({"n": 2, "temperature": 0}, "n"),
        ({"max_tokens": 10**6}, "max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"extra_body": {"no_such_field": 1}}, "no_such_field"),
        ({"extra_body": {"dynasor": {"saving_effort": "insane"}}}, "dynasor.saving_effort"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(client, options, param):
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, **options)
    assert caught.value.body["param"] == param
    assert caught.value.body["type"] == "invalid_request_error"


def test_an_empty_extra_body_says_nothing_and_a_full_one_is_told_where_it_belongs(http):
    body = {"messages": MESSAGES, "max_tokens": 2}
    assert http.post("/v1/chat/completions", json=body | {"extra_body": {}}).status_code == 200
    refused = http.post("/v1/chat/completions", json=body | {"extra_body": {"seed": 1}})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "extra_body"
    assert "top level" in refused.json()["error"]["message"]


def test_another_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError, match="embedded"):
        chat(client, model="gpt-4")
    assert [item.id for item in client.models.list()] == ["embedded"]
    assert client.models.retrieve("embedded").id == "embedded"


def test_a_body_that_is_not_json_is_a_clear_400(http):
    reply = http.post("/v1/chat/completions", content=b"{", headers={"content-type": "application/json"})
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "invalid_json"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_leaves_nothing_running(address, engine, stream):
    body = {"messages": MESSAGES, "stream": stream, "max_tokens": 1500, "ignore_eos": True, "n": 4}
    with httpx.Client(base_url=address, timeout=0.4) as impatient:
        if stream:
            with impatient.stream("POST", "/v1/chat/completions", json=body) as reply:
                assert reply.status_code == 200
        else:
            with pytest.raises(httpx.ReadTimeout):
                impatient.post("/v1/chat/completions", json=body)
    deadline = time.monotonic() + 10
    while engine.num_in_flight and time.monotonic() < deadline:
        time.sleep(0.05)
    assert engine.num_in_flight == 0


def test_tokens_round_trip(http):
    ids = http.post("/tokenize", json={"prompt": "What is 2+3?"}).json()["tokens"]
    assert http.post("/detokenize", json={"tokens": ids}).json()["prompt"] == "What is 2+3?"
    chat_ids = http.post("/tokenize", json={"messages": MESSAGES}).json()
    assert chat_ids["count"] == len(chat_ids["tokens"]) > 0


def test_keys_of_requests_are_the_servers_own(http):
    """A repeated request id hangs a request for good in transformers' server."""
    body = {"messages": MESSAGES, "temperature": 0, "request_id": "same", "max_tokens": 4}
    assert [http.post("/v1/chat/completions", json=body).status_code for _ in range(3)] == [200] * 3
