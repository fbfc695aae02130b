"""`serve run examples/serve_replicas.yaml` as docs/scale.md tells it: served, updated under load, scaled by its backlog.

One Ray for all tests of this module; each goes on where the one before it ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.serving.replicas.kit import needs_ray, read_replicas, wait_for_replicas

pytestmark = [pytest.mark.slow, needs_ray, pytest.mark.timeout(900)]

EXAMPLE = Path(__file__).parents[3] / "examples" / "serve_replicas.yaml"
START_WITHIN_S = 400.0
CHANGE_WITHIN_S = 300.0


def find_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Cluster:
    """`serve run` in a folder of its own, and `serve deploy` beside it."""

    def __init__(self, folder):
        self.folder, self.port = folder, find_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.variables = os.environ | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_raylet_start_wait_time_s": "120",
            "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        }

    def write(self, **changes):
        """The example's file with another port, and other values in its sections."""
        yaml = pytest.importorskip("yaml")
        content = yaml.safe_load(EXAMPLE.read_text())
        content["http_options"]["port"] = self.port
        arguments = content["applications"][0]["args"]
        for section, values in changes.items():
            arguments[section] = {**arguments[section], **values}
        path = self.folder / "serve.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    def command(self, *words):
        return [str(Path(sys.executable).parent / "serve"), *map(str, words)]

    def deploy(self, **changes):
        subprocess.run(
            self.command("deploy", self.write(**changes)),
            cwd=self.folder,
            env=self.variables,
            check=True,
            capture_output=True,
            timeout=120,
        )

    def wait_until(self, is_so, seconds, what):
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(httpx.HTTPError, ValueError, KeyError):
                if (found := is_so()) is not None:
                    return found
            assert time.monotonic() < deadline, f"{what} within {seconds} s"
            time.sleep(0.5)

    def read_model(self):
        reply = httpx.get(f"{self.address}/v1/models", timeout=30)
        return reply.json()["data"][0]["id"] if reply.status_code == 200 else None


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("serve_run"))
    log = cluster.folder / "log.txt"
    command = cluster.command("run", cluster.write())
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=cluster.folder, env=cluster.variables, stdout=file, stderr=file
        )
    try:
        cluster.wait_until(cluster.read_model, START_WITHIN_S, f"it answers\n{log.read_text()[-3000:]}")
        yield cluster
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(90)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)


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


def test_an_update_under_load_ends_every_accepted_request_whole_or_in_one_clear_error(cluster):
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
