"""OpenAI's Python client against a running server: what every application uses, and what it does on errors."""

from __future__ import annotations

import asyncio

import httpx
import openai
import pytest

from tests.serving.http.kit import start_server

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


def test_chat_completions_and_responses_agree_whole_and_streamed(client, question):
    messages = [{"role": "user", "content": question}]
    chat = {"model": "embedded", "messages": messages, "temperature": 0}
    whole = client.chat.completions.create(**chat).choices[0].message.content
    streamed = "".join(
        chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**chat, stream=True)
    )
    with client.chat.completions.stream(**chat) as helper:
        helped = helper.get_final_completion().choices[0].message.content
    response = client.responses.create(model="embedded", input=question, temperature=0)
    with client.responses.stream(model="embedded", input=question, temperature=0) as stream:
        response_text = stream.get_final_response().output_text
    assert whole == streamed == helped == response.output_text == response_text
    assert "\\boxed{106}" in whole


def test_completions_n_stop_and_logprobs(client):
    reply = client.completions.create(
        model="embedded",
        prompt=["1+1=", "2+2="],
        n=2,
        seed=1,
        temperature=1.0,
        max_tokens=8,
        stop=["\n"],
        logprobs=2,
    )
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    for choice in reply.choices:
        assert "\n" not in choice.text
        assert len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs) > 0


def test_tools_are_refused_by_name(client, question):
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    with pytest.raises(openai.BadRequestError, match="tools") as caught:
        client.chat.completions.create(
            model="embedded", messages=[{"role": "user", "content": question}], tools=[tool]
        )
    assert (caught.value.param, caught.value.code) == ("tools", "unsupported_field")


def test_errors_are_the_clients_own_classes(client, address):
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="embedded", prompt="x" * 20_000)
    assert client.models.retrieve("embedded").id == "embedded"


def test_a_wrong_key_is_an_authentication_error(tmp_path):
    keys = tmp_path / "keys.txt"
    keys.write_text("right\n")
    with start_server("--engine", "generate", "--api-key-file", str(keys)) as (_, address):
        wrong = openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0)
        right = openai.OpenAI(base_url=f"{address}/v1", api_key="right", max_retries=0)
        with wrong, right:
            with pytest.raises(openai.AuthenticationError):
                wrong.models.list()
            assert [model.id for model in right.models.list()] == ["embedded"]


def test_the_client_comes_again_by_itself_after_429(question):
    """A queue for one: 5 at once are refused, come again after `Retry-After`, and all are answered."""

    async def ask_all(address):
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=20) as client:
            calls = [
                client.chat.completions.create(
                    model="embedded",
                    messages=[{"role": "user", "content": question}],
                    temperature=0,
                    max_tokens=64,
                    stream=index == 0,
                )
                for index in range(5)
            ]
            replies = await asyncio.gather(*calls)
            texts = [reply.choices[0].message.content for reply in replies[1:]]
            return ["".join([c.choices[0].delta.content or "" async for c in replies[0]]), *texts]

    with start_server("--max-running", "1", "--max-waiting", "1") as (_, address):
        texts = asyncio.run(ask_all(address))
        metrics = httpx.get(f"{address}/metrics").text
    assert len(texts) == 5
    assert len(set(texts)) == 1
    refused = [
        line for line in metrics.splitlines() if line.startswith("hf_dynasor_admission_rejections_total{")
    ]
    assert float(refused[0].split()[-1]) > 0
