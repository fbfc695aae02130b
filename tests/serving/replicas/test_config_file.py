"""`serve run examples/serve_replicas.yaml` as docs/scale.md tells it: served, updated under load, scaled by its backlog.

One Ray for all tests of this module; each goes on where the one before it ended.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter

import httpx
import pytest

from tests.serving.replicas.kit import needs_ray, read_replicas, serve_config, wait_for_replicas

pytestmark = [pytest.mark.slow, needs_ray, pytest.mark.timeout(900)]

CHANGE_WITHIN_S = 300.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with serve_config(tmp_path_factory.mktemp("serve_run")) as cluster:
        yield cluster


def chat(question, **fields):
    return {"messages": [{"role": "user", "content": question}], "temperature": 0, **fields}


def test_the_example_serves_programs_and_keeps_them_in_its_file(cluster):
    wait_for_replicas(cluster.address, 2, 120)
    with httpx.Client(base_url=cluster.address, timeout=120) as client:
        reply = client.post("/v1/chat/completions", json=chat("What is 17*6+4?", max_tokens=64))
        assert "106" in reply.json()["choices"][0]["message"]["content"]
        assert reply.headers["x-replica"] in read_replicas(cluster.address)
        job = client.post("/v1/programs", json={"question": "What is 17*6+4?", "budget": 4}).json()
        told = cluster.wait_until(
            lambda: read_ended(client, job["id"]), 60, "the program of the example ends"
        )
    assert (told["status"], told["result"]["answer"]) == ("completed", "106")
    assert (cluster.folder / "jobs.sqlite").exists()


def read_ended(client, name):
    told = client.get(f"/v1/programs/{name}").json()
    return told if told["status"] not in ("queued", "running") else None


def test_an_update_under_load_ends_every_accepted_request_whole_or_in_one_clear_error(
    cluster,
):
    before = wait_for_replicas(cluster.address, 2, 120)
    lines = [
        json.dumps({"question": f"What is {a}*7+{b}?", "budget": 6}) for a in range(2, 12) for b in (1, 2)
    ]
    ends = []

    async def talk(client, number):
        body = chat(f"What is {number}*3+1?", stream=True, ignore_eos=True, max_tokens=200)
        async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
            if reply.status_code != 200:
                return (await reply.aread() and reply.json())["error"]["code"]
            events = [line[6:] async for line in reply.aiter_lines() if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        errors = [json.loads(event)["error"]["code"] for event in events[:-1] if '"error"' in event]
        assert len(errors) <= 1
        return (errors or ["whole"])[0]

    async def keep_talking(client, number, done):
        while not done.is_set():
            ends.append(await talk(client, number))

    async def run():
        async with httpx.AsyncClient(base_url=cluster.address, timeout=300) as client:
            batch = (await client.post("/v1/batches", content="\n".join(lines))).json()["id"]
            done = asyncio.Event()
            talking = [asyncio.ensure_future(keep_talking(client, number, done)) for number in range(4)]
            await asyncio.sleep(1.0)
            await asyncio.to_thread(cluster.deploy, settings={"model_name": "renewed"})
            await asyncio.to_thread(
                cluster.wait_until, lambda: are_renewed(cluster, before), CHANGE_WITHIN_S, "both are new"
            )
            done.set()
            await asyncio.gather(*talking)
            deadline = time.monotonic() + 120
            while (state := (await client.get(f"/v1/batches/{batch}")).json())["status"] != "completed":
                assert time.monotonic() < deadline, state
                await asyncio.sleep(0.5)
            return (await client.get(f"/v1/batches/{batch}/results")).text.splitlines()

    results = [json.loads(line) for line in asyncio.run(run())]
    (cluster.folder / "ends.json").write_text(json.dumps(Counter(ends)))
    assert len(ends) > 4
    assert set(ends) <= {"whole", "unavailable"}, ends
    assert ends.count("whole") > len(ends) / 2, ends
    assert [row["status"] for row in results] == ["completed"] * len(lines)
    assert len({row["id"] for row in results}) == len(lines)
    assert cluster.read_model() == "renewed"


def are_renewed(cluster, before):
    """Two replicas answer, neither of them from before; else `None`."""
    now = read_replicas(cluster.address)
    return now if len(now) == 2 and not set(now) & set(before) else None


def test_replicas_come_with_a_backlog_of_programs_and_go_after_it(cluster):
    scale = {"replicas": 1, "max_replicas": 2, "upscale_delay_s": 1.0, "downscale_delay_s": 5.0}
    cluster.deploy(scale=scale, settings={"model_name": "scaled", "max_programs": 4})
    cluster.wait_until(
        lambda: cluster.read_model() if cluster.read_model() == "scaled" else None,
        CHANGE_WITHIN_S,
        "the next application answers",
    )
    wait_for_replicas(cluster.address, 1, CHANGE_WITHIN_S)
    lines = [
        json.dumps({"question": f"What is {a}*7+{b}?", "budget": 10}) for a in range(2, 32) for b in range(10)
    ]
    with httpx.Client(base_url=cluster.address, timeout=60) as client:
        batch = client.post("/v1/batches", content="\n".join(lines)).json()["id"]
        wait_for_replicas(cluster.address, 2, CHANGE_WITHIN_S)
        cluster.wait_until(
            lambda: client.get(f"/v1/batches/{batch}").json()["status"] == "completed" or None,
            CHANGE_WITHIN_S,
            "the batch ends",
        )
        results = client.get(f"/v1/batches/{batch}/results").text.splitlines()
    assert [json.loads(row)["status"] for row in results] == ["completed"] * len(lines)
    wait_for_replicas(cluster.address, 1, CHANGE_WITHIN_S)
