"""langchain-openai against a running server."""

from __future__ import annotations

import openai
import pytest

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def make_chat(address):
    langchain_openai = pytest.importorskip("langchain_openai", reason="needs the extra e2e")

    def make(**options):
        return langchain_openai.ChatOpenAI(
            base_url=f"{address}/v1",
            api_key="none",
            model="embedded",
            temperature=0,
            max_retries=0,
            **options,
        )

    return make


@pytest.mark.parametrize("use_responses_api", [False, True])
def test_invoke_and_stream_say_the_same(make_chat, question, use_responses_api):
    chat = make_chat(use_responses_api=use_responses_api)
    whole = chat.invoke(question)
    streamed = "".join(chunk.text for chunk in chat.stream(question))
    assert "\\boxed{106}" in whole.text
    assert streamed == whole.text
    assert whole.usage_metadata["output_tokens"] > 0


def test_a_batch_keeps_its_order(make_chat):
    replies = make_chat().batch([f"What is {number}+1?" for number in range(4)])
    for number, reply in enumerate(replies):
        assert f"\\boxed{{{number + 1}}}" in reply.text


def test_programs_run_through_extra_body(make_chat, question):
    chat = make_chat(extra_body={"dynasor": {"program": "self_consistency", "budget": 4}}, seed=3)
    chat.temperature = 0.7
    assert "\\boxed{106}" in chat.invoke(question).text


def test_tools_are_refused_by_name(make_chat, question):
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    with pytest.raises(openai.BadRequestError, match="tools"):
        make_chat().bind_tools([add]).invoke(question)
