"""Two Ray Serve replicas of the embedded model: programs stay where they began, and survive a replica's death."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time

import httpx
import pytest

from tests.serving.replicas.kit import count_running, needs_ray, start_replicas, wait_for_replicas

pytestmark = [pytest.mark.slow, needs_ray, pytest.mark.timeout(900)]

QUESTION = "What is 17*6+4?"
END_WITHIN_S = 180.0


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with start_replicas(tmp_path_factory.mktemp("replicas")) as (process, address):
        wait_for_replicas(address, 2, 120)
        yield process, address


@pytest.fixture
def address(server):
    return server[1]


def chat(question=QUESTION, **fields):
    return {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 64, **fields}


async def ask(client, body, path="/v1/chat/completions"):
    return await client.post(path, json=body)


def test_work_is_spread_and_a_conversation_stays_where_it_began(address):
    async def run():
        async with httpx.AsyncClient(base_url=address, timeout=120) as client:
            program = {"dynasor": {"program": "self_consistency", "budget": 8}, "temperature": 1.0}
            many = await asyncio.gather(
                *(ask(client, chat(f"What is {number}*6+4?", **program)) for number in range(12))
            )
            first = await ask(client, {"model": "embedded", "input": QUESTION}, "/v1/responses")
            follow = {"input": "And 2 more?", "previous_response_id": first.json()["id"]}
            turns = [await ask(client, follow, "/v1/responses") for _ in range(3)]
            kept = await client.get(f"/v1/responses/{first.json()['id']}")
            return many, [first, *turns, kept]

    many, turns = asyncio.run(run())
    assert {reply.status_code for reply in [*many, *turns]} == {200}
    assert len({reply.headers["x-replica"] for reply in many}) == 2
    assert len({reply.headers["x-replica"] for reply in turns}) == 1
    ids = [reply.json()["id"] for reply in many]
    assert len(set(ids)) == len(ids), "names of answers repeat between replicas"


def test_every_program_runs_on_one_replica_from_its_first_event_to_its_last(address):
    with httpx.Client(base_url=address, timeout=120) as client:
        jobs = [client.post("/v1/programs", json={"question": QUESTION, "budget": 4}) for _ in range(6)]
        for job in jobs:
            name, home = job.json()["id"], job.headers["x-replica"]
            with client.stream("GET", f"/v1/programs/{name}/events") as events:
                text = "".join(events.iter_text())
                assert events.headers["x-replica"] == home
            assert "completed" in text
            assert text.count("event: running") == 1
            told = client.get(f"/v1/programs/{name}").json()
            assert (told["status"], told["num_attempts"], told["result"]["answer"]) == ("completed", 1, "106")


def test_a_client_that_leaves_ends_its_request_on_the_replica(address):
    body = chat(stream=True, ignore_eos=True, max_tokens=1500)
    with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=60) as reply:
        next(reply.iter_lines())
    deadline = time.monotonic() + 30
    while count_running(address):
        assert time.monotonic() < deadline, "it goes on"
        time.sleep(0.2)


def test_metrics_tell_of_each_replica(address):
    page = httpx.get(f"{address}/metrics", timeout=60).text
    rows = [line for line in page.splitlines() if line.startswith("hf_dynasor_num_requests_running{")]
    assert len(rows) == 2


def test_a_killed_replica_loses_no_batch_program_and_no_interactive_one_without_a_clear_error(address):
    replicas = wait_for_replicas(address, 2, 60)
    lines = [
        json.dumps({"question": f"What is {a}*7+{b}?", "budget": 6})
        for a in range(2, 12)
        for b in range(1, 5)
    ]

    async def talk(client, number):
        """A streamed answer: whole, or an error in OpenAI's shape with a status or an event of its own."""
        body = chat(f"What is {number}*3+1?", stream=True, ignore_eos=True, max_tokens=300)
        async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
            if reply.status_code != 200:
                return (await reply.aread() and reply.json()["error"]["code"]), reply.headers.get(
                    "retry-after"
                )
            events = [line[6:] async for line in reply.aiter_lines() if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        errors = [json.loads(event)["error"]["code"] for event in events[:-1] if '"error"' in event]
        return (errors or ["whole"])[0], None

    async def run():
        async with httpx.AsyncClient(base_url=address, timeout=300) as client:
            reply = await client.post("/v1/batches", content="\n".join(lines))
            assert reply.status_code == 202, reply.text
            batch = reply.json()["id"]
            talking = [asyncio.ensure_future(talk(client, number)) for number in range(16)]
            await asyncio.sleep(1.0)
            before = (await client.get(f"/v1/batches/{batch}")).json()["request_counts"]
            os.kill(sorted(replicas.items())[0][1], signal.SIGKILL)
            ends = await asyncio.gather(*talking)
            deadline = time.monotonic() + END_WITHIN_S
            while (state := (await client.get(f"/v1/batches/{batch}")).json())["status"] != "completed":
                assert time.monotonic() < deadline, state
                await asyncio.sleep(0.5)
            results = (await client.get(f"/v1/batches/{batch}/results")).text.splitlines()
            return before, ends, [json.loads(line) for line in results]

    before, ends, results = asyncio.run(run())
    assert before["completed"] < len(lines), "the load was over before the replica died"
    assert {code for code, _ in ends} <= {"whole", "unavailable"}
    assert [row["status"] for row in results] == ["completed"] * len(lines)
    assert len({row["id"] for row in results}) == len(lines)
    wait_for_replicas(address, 2, END_WITHIN_S)  # Ray has made another one


def test_a_signal_ends_everything(server):
    """The last test of this module, as it ends the server."""
    process, address = server
    replicas = wait_for_replicas(address, 2, 60)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0
    deadline = time.monotonic() + 30
    while any(_is_alive(pid) for pid in replicas.values()):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
