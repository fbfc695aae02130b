"""One model over two processes of the CPU: the same output, no hang when a process dies, nothing left behind."""

from __future__ import annotations

import asyncio
import signal

import httpx
import pytest

from hf_dynasor.serving import ContinuousBatchingEngine, load_model
from hf_dynasor.serving.http.app import create_app
from hf_dynasor.serving.http.model_info import ServedModel
from tests.serving.http.kit import serve
from tests.serving.shards.kit import ACCELERATE, start_group

END_WITHIN_S = 30.0
"""The bound on a group's end after a process of it died."""

QUESTIONS = [f"What is {a}*6+{b}?" for a, b in ((17, 4), (3, 9), (25, 1), (8, 8), (11, 2), (40, 7))]


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    with start_group(tmp_path_factory.mktemp("group")) as group:
        yield group


def chat(question, **fields):
    return {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 64, **fields}


async def ask_all(address):
    """Greedy answers to all questions at once, while other requests are given up in mid-stream."""

    async def ask(client, question):
        reply = await client.post("/v1/chat/completions", json=chat(question, return_token_ids=True))
        assert reply.status_code == 200, reply.text
        return reply.json()["choices"][0]["token_ids"]

    async def give_up(client, question):
        body = chat(question, stream=True, temperature=1.0, ignore_eos=True, max_tokens=512)
        async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
            async for _ in reply.aiter_lines():
                return

    async with httpx.AsyncClient(base_url=address, timeout=120) as client:
        leaving = [give_up(client, question) for question in QUESTIONS[:3]]
        answers = await asyncio.gather(*(ask(client, question) for question in QUESTIONS), *leaving)
        solved = await client.post(
            "/v1/chat/completions",
            json=chat(
                QUESTIONS[0], temperature=1.0, seed=1, dynasor={"program": "self_consistency", "budget": 6}
            ),
        )
        load = (await client.get("/load")).json()
    return answers[: len(QUESTIONS)], solved.json()["choices"][0]["message"]["content"], load


def test_two_processes_say_what_one_says(group):
    whole = load_model("embedded", device="cpu")
    with (
        ContinuousBatchingEngine(whole) as engine,
        serve(create_app(engine, ServedModel(whole, "embedded", 0))) as address,
    ):
        ids, solution, _ = asyncio.run(ask_all(address))
    split_ids, split_solution, load = asyncio.run(ask_all(group.address))
    assert split_ids == ids
    assert split_solution == solution
    assert "106" in solution
    assert load["num_running"] == load["num_waiting"] == 0, "a request that was given up goes on"


def test_what_one_process_would_run_alone_is_refused(group):
    body = {"prompt": "1+1=", "echo": True, "logprobs": 1, "max_tokens": 0}
    reply = httpx.post(f"{group.address}/v1/completions", json=body, timeout=60)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "unsupported"), reply.text
    assert "split over 2" in reply.json()["error"]["message"]


def test_a_killed_process_ends_the_group_with_a_clear_error_and_no_orphan(group):
    """The last test of this module, as it ends the server."""
    body = chat(QUESTIONS[0], stream=True, ignore_eos=True, max_tokens=1500)
    with httpx.stream("POST", f"{group.address}/v1/chat/completions", json=body, timeout=60) as reply:
        lines = reply.iter_lines()
        next(lines)
        group.kill(rank=1)
        told = [line for line in lines if '"error"' in line]
    assert group.wait_until_gone(END_WITHIN_S) < END_WITHIN_S
    assert len(told) == 1
    assert "shard group" in told[0]
    assert group.launcher.returncode != 0
    assert "hf-dynasor: error: The server ended with its shard group" in group.log.read_text()


@pytest.mark.slow
def test_accelerate_launch_starts_the_group_too(tmp_path):
    with start_group(tmp_path, launch=ACCELERATE) as group:
        reply = httpx.post(f"{group.address}/v1/chat/completions", json=chat(QUESTIONS[0]), timeout=60)
        assert "106" in reply.json()["choices"][0]["message"]["content"]
        group.launcher.send_signal(signal.SIGTERM)
        group.wait_until_gone(END_WITHIN_S)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_an_idle_group_ends_when_a_process_is_killed(tmp_path, rank):
    with start_group(tmp_path) as group:
        group.kill(rank)
        group.wait_until_gone(END_WITHIN_S)
        assert group.launcher.returncode != 0


@pytest.mark.slow
def test_nothing_outlives_a_launcher_that_is_killed(tmp_path):
    with start_group(tmp_path) as group:
        group.launcher.kill()
        group.wait_until_gone(END_WITHIN_S)


@pytest.mark.slow
def test_a_signal_to_the_launcher_ends_the_group_after_what_runs(tmp_path):
    with start_group(tmp_path) as group:
        body = chat(QUESTIONS[0], stream=True, ignore_eos=True, max_tokens=300)
        with httpx.stream("POST", f"{group.address}/v1/chat/completions", json=body, timeout=60) as reply:
            lines = reply.iter_lines()
            next(lines)
            group.launcher.send_signal(signal.SIGTERM)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        group.wait_until_gone(END_WITHIN_S)
