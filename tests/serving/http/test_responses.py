"""OpenAI's own client gets responses: whole, streamed, continued, in the background; refusals name their field."""

from __future__ import annotations

import time

import httpx
import openai
import pytest

from hf_dynasor.serving.http.app import create_app
from hf_dynasor.serving.http.settings import ServerSettings
from tests.serving.http.kit import serve

QUESTION = "What is 17*6+4?\nPlease reason step by step, and put your final answer within \\boxed{}."


def respond(client, **options):
    return client.responses.create(**{"model": "embedded", "input": QUESTION, "temperature": 0} | options)


def test_a_response_says_what_the_chat_completion_says(client):
    reply = respond(client)
    chat = client.chat.completions.create(
        model="embedded", messages=[{"role": "user", "content": QUESTION}], temperature=0
    )
    assert reply.output_text == chat.choices[0].message.content
    assert (reply.status, reply.object, reply.model) == ("completed", "response", "embedded")
    assert reply.usage.output_tokens == chat.usage.completion_tokens
    assert reply.usage.input_tokens == chat.usage.prompt_tokens
    assert client.responses.retrieve(reply.id).output_text == reply.output_text


def test_items_instructions_and_parts_are_the_conversation(client):
    items = [
        {"role": "user", "content": "What is 2+3?"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "5", "annotations": []}]},
        {"role": "user", "content": [{"type": "input_text", "text": QUESTION}]},
    ]
    reply = respond(client, input=items, instructions="Be brief.", max_output_tokens=24)
    chat = client.chat.completions.create(
        model="embedded",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is 2+3?"},
            {"role": "assistant", "content": "5"},
            {"role": "user", "content": QUESTION},
        ],
        temperature=0,
        max_tokens=24,
    )
    assert reply.output_text == chat.choices[0].message.content
    assert reply.usage.input_tokens == chat.usage.prompt_tokens
    kept = client.responses.input_items.list(reply.id).data
    assert [item.role for item in kept] == ["user", "assistant", "user"]


def test_a_stream_has_numbered_events_that_join_to_the_whole(client):
    whole = respond(client)
    events = list(respond(client, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text == events[-1].response.output_text
    assert len(deltas) > 3
    assert events[-1].response.usage.output_tokens == whole.usage.output_tokens
    assert client.responses.retrieve(events[-1].response.id).output_text == whole.output_text


def test_the_clients_own_stream_helper_builds_the_whole(client):
    with client.responses.stream(model="embedded", input=QUESTION, temperature=0) as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    assert final.output_text == respond(client).output_text


def test_thinking_is_an_item_of_its_own_and_can_be_limited(client):
    thinking = {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}}
    whole = respond(client, **thinking)
    assert [item.type for item in whole.output] == ["reasoning", "message"]
    thought = whole.output[0].content[0].text
    assert thought
    assert 0 < whole.usage.output_tokens_details.reasoning_tokens < whole.usage.output_tokens
    events = list(respond(client, stream=True, **thinking))
    deltas = [event.delta for event in events if event.type == "response.reasoning_text.delta"]
    assert "".join(deltas) == thought
    assert [item.id for item in events[-1].response.output] == [
        event.item.id for event in events if event.type == "response.output_item.done"
    ]
    none = respond(client, reasoning={"effort": "none"})
    assert [item.type for item in none.output] == ["message"]
    again = [*({"role": "user", "content": QUESTION},), *(item.to_dict() for item in whole.output)]
    again.append({"role": "user", "content": "What is 2+3?"})
    assert respond(client, input=again, max_output_tokens=4).usage.output_tokens <= 4


def test_a_cut_answer_is_incomplete_and_says_why(client):
    reply = respond(client, max_output_tokens=3)
    assert (reply.status, reply.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert reply.usage.output_tokens == 3
    last = list(respond(client, max_output_tokens=3, stream=True))[-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text == reply.output_text


def test_a_response_continues_a_kept_one(client):
    first = respond(client, input="What is 2+3?", instructions="Be brief.", max_output_tokens=16)
    second = respond(client, input="What is 4+5?", previous_response_id=first.id, instructions="Take care.")
    chat = client.chat.completions.create(
        model="embedded",
        messages=[
            {"role": "system", "content": "Take care."},
            {"role": "user", "content": "What is 2+3?"},
            {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": "What is 4+5?"},
        ],
        temperature=0,
    )
    assert second.output_text == chat.choices[0].message.content
    assert second.previous_response_id == first.id


def test_what_is_not_kept_cannot_be_asked_for(client):
    reply = respond(client, store=False, max_output_tokens=2)
    with pytest.raises(openai.NotFoundError, match="No response"):
        client.responses.retrieve(reply.id)
    kept = respond(client, max_output_tokens=2)
    client.responses.delete(kept.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(kept.id)
    with pytest.raises(openai.NotFoundError):
        respond(client, previous_response_id=kept.id)


def wait_until_over(client, reply):
    deadline = time.monotonic() + 60
    while reply.status in ("queued", "in_progress"):
        assert time.monotonic() < deadline, reply
        time.sleep(0.05)
        reply = client.responses.retrieve(reply.id)
    return reply


def test_a_background_response_is_answered_later(client):
    reply = respond(client, background=True)
    assert reply.status == "queued"
    assert wait_until_over(client, reply).output_text == respond(client).output_text


def test_a_background_response_can_be_cancelled_and_leaves_nothing_running(client, engine):
    reply = respond(client, background=True, temperature=2.0, extra_body={"stop": "no such text"})
    cancelled = client.responses.cancel(reply.id)
    assert cancelled.status in ("cancelled", "completed")
    deadline = time.monotonic() + 10
    while engine.num_in_flight and time.monotonic() < deadline:
        time.sleep(0.05)
    assert engine.num_in_flight == 0
    waited = respond(client, max_output_tokens=2)
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(waited.id)


def test_logprobs_come_where_they_are_included(client):
    options = {"include": ["message.output_text.logprobs"], "top_logprobs": 2, "max_output_tokens": 4}
    (message,) = respond(client, **options).output
    logprobs = message.content[0].logprobs
    assert len(logprobs) == 4
    assert "".join(entry.token for entry in logprobs) == message.content[0].text
    assert all(len(entry.top_logprobs) == 2 for entry in logprobs)
    done = [event for event in respond(client, stream=True, **options) if event.type.endswith("text.done")]
    assert [entry.logprob for entry in done[0].logprobs] == [entry.logprob for entry in logprobs]


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"tools": [{"type": "function", "name": "f", "parameters": {}}]}, "tools"),
        ({"max_output_tokens": 10**6}, "max_output_tokens"),
        ({"text": {"format": {"type": "json_object"}}}, "text.format.type"),
        ({"truncation": "auto"}, "truncation"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True, "stream": True}, "background"),
        ({"background": True, "store": False}, "store"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"input": []}, "input"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
        ({"extra_body": {"dynasor": {"saving_effort": "insane"}}}, "dynasor.saving_effort"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(client, options, param):
    with pytest.raises(openai.BadRequestError) as caught:
        respond(client, **options)
    assert caught.value.body["param"].startswith(param)


def test_the_oldest_response_goes_first_and_each_key_sees_its_own(engine, model):
    settings = ServerSettings(max_responses_kept=2, api_keys=("first", "second"))
    body = {"input": QUESTION, "max_output_tokens": 2}
    mine, others = ({"Authorization": f"Bearer {key}"} for key in settings.api_keys)
    with serve(create_app(engine, model, settings)) as address, httpx.Client(base_url=address) as http:
        names = [http.post("/v1/responses", json=body, headers=mine).json()["id"] for _ in range(3)]
        found = [http.get(f"/v1/responses/{name}", headers=mine).status_code for name in names]
        assert found == [404, 200, 200]
        assert http.get(f"/v1/responses/{names[2]}", headers=others).status_code == 404
        continued = body | {"previous_response_id": names[2]}
        assert http.post("/v1/responses", json=continued, headers=others).status_code == 404
        assert http.post("/v1/responses", json=continued, headers=mine).status_code == 200
