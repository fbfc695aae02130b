"""Load and faults against `hf-dynasor serve`: clients that hang up, send rubbish, never read; at the end SIGTERM.

Every well-formed request must get exactly one complete answer or a clean error, and afterwards the server must be as
it was after a round of warm-up: nothing in flight, no page in use, no more file handles, threads or (within a bound)
memory.

    python benchmarks/serve_faults.py                     # 1,000 requests from 100 clients
    python benchmarks/serve_faults.py --minutes 30        # the same mixture, again and again
    python benchmarks/serve_faults.py --requests 200 --clients 20

Prints one line of JSON last; exit code 1 where anything was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from served import Server

from hf_dynasor.serving.http.job_store import JobStatus, SqliteJobStore

SHARE_GONE, SHARE_MALFORMED, SHARE_DEAF = 0.10, 0.05, 0.01
MAX_RSS_GROWTH = 64 * 2**20
"""Bytes from the end of the warm-up on, however many requests follow: what allocators keep of a busy time differs by
some tens of MiB. The warm-up is a whole round, in which the cache's pages are first written and kernels compiled."""
MAX_HANDLES = 4
TIMEOUT_S = 300.0


@dataclass
class Outcome:
    """What came of many requests."""

    kinds: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, kind: str, fault: str | None = None) -> None:
        self.kinds[kind] += 1
        if fault is not None:
            self.faults.append(fault)


def make_body(random_: random.Random, number: int) -> tuple[str, dict[str, Any]]:
    """A well-formed request: its path and body."""
    question = f"What is {random_.randint(2, 99)}+{random_.randint(2, 99)}?"
    messages = [{"role": "user", "content": question}]
    sampling = {"temperature": random_.choice([0, 0.7, 1.5]), "max_tokens": random_.randint(1, 64)}
    stream = {"stream": True} if random_.random() < 0.5 else {}
    kind = number % 5
    if kind == 0:
        n = 2 if sampling["temperature"] else 1
        return "/v1/chat/completions", {"messages": messages, "n": n, "seed": number} | sampling | stream
    if kind == 1:
        return "/v1/completions", {"prompt": question, "stop": ["\n\n"]} | sampling | stream
    if kind == 2:
        program = {"program": "self_consistency", "budget": random_.randint(1, 8)}
        return "/v1/chat/completions", {"messages": messages, "dynasor": program} | stream
    if kind == 3:  # a long prompt, so that some hang up while it is read
        return "/v1/completions", {"prompt": "1+1=2 " * random_.randint(1, 80)} | sampling | stream
    return "/v1/programs", {"question": question, "budget": random_.randint(1, 8)}


def make_rubbish(random_: random.Random) -> tuple[str, bytes]:
    """Something that no server can honour."""
    return random_.choice(
        [
            ("/v1/chat/completions", b"{"),
            ("/v1/chat/completions", b'{"messages": 5}'),
            ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": "x"}], "no_such": 1}'),
            ("/v1/completions", b'{"prompt": "x", "max_tokens": -1}'),
            ("/v1/completions", b"\xff\x00" * 50),
            ("/v1/programs", b'{"question": ""}'),
        ]
    )


async def run_load(address: str, *, num_requests: int, num_clients: int, seed: int) -> Outcome:
    """Send the mixture; what came of it."""
    outcome, begin = Outcome(), time.monotonic()
    numbers = iter(range(num_requests))
    limits = httpx.Limits(max_connections=num_clients)
    async with httpx.AsyncClient(base_url=address, timeout=TIMEOUT_S, limits=limits) as client:

        async def work() -> None:
            for number in numbers:
                await _send_one(client, address, random.Random(seed * 1_000_003 + number), number, outcome)

        await asyncio.gather(*(work() for _ in range(num_clients)))
    outcome.seconds = time.monotonic() - begin
    return outcome


async def _send_one(
    client: httpx.AsyncClient, address: str, random_: random.Random, number: int, outcome: Outcome
) -> None:
    fate = random_.random()
    path, body = make_body(random_, number)
    if fate < SHARE_MALFORMED:
        await _send_rubbish(client, random_, outcome)
    elif fate < SHARE_MALFORMED + SHARE_DEAF:
        await _send_deaf(address, random_, outcome)
    elif fate < SHARE_MALFORMED + SHARE_DEAF + SHARE_GONE:
        try:
            await asyncio.wait_for(_send(client, path, body, number), random_.uniform(0.001, 1.0))
            outcome.add("answered before it hung up")
        except asyncio.TimeoutError:
            outcome.add("hung up")
        except httpx.HTTPError as error:
            outcome.add("broken", f"{number} {path}: {error!r}")
    else:
        try:
            kind, fault = await _send(client, path, body, number)
        except httpx.HTTPError as error:
            kind, fault = "broken", f"{number} {path}: {error!r}"
        outcome.add(kind, fault)


async def _send_rubbish(client: httpx.AsyncClient, random_: random.Random, outcome: Outcome) -> None:
    path, content = make_rubbish(random_)
    reply = await client.post(path, content=content)
    is_clean = 400 <= reply.status_code < 500 and "message" in reply.json().get("error", {})
    outcome.add(
        "malformed", None if is_clean else f"malformed {path}: {reply.status_code} {reply.text[:200]}"
    )


async def _send_deaf(address: str, random_: random.Random, outcome: Outcome) -> None:
    """Ask for a stream and never read a byte of it."""
    host, port = address.removeprefix("http://").rsplit(":", 1)
    _, writer = await asyncio.open_connection(host, int(port), limit=1)
    body = json.dumps({"prompt": "1+1=", "max_tokens": 400, "ignore_eos": True, "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()
    await asyncio.sleep(random_.uniform(0.1, 2.0))
    writer.close()
    outcome.add("never read")


async def _send(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], number: int
) -> tuple[str, str | None]:
    """Send a well-formed request; what it was and what is wrong with its answer, if anything."""
    headers = {"X-Request-Id": f"request-{number // 2}"}  # every id comes twice
    async with client.stream("POST", path, json=body, headers=headers) as reply:
        text = (await reply.aread()).decode()
    place = f"{number} {path}: {reply.status_code} {text[-200:]!r}"
    if reply.headers.get("x-request-id") != headers["X-Request-Id"]:
        return "broken", f"wrong request id, {place}"
    if reply.status_code in (429, 503):
        is_clean = "retry-after" in reply.headers and "message" in json.loads(text).get("error", {})
        return "refused for now", None if is_clean else f"unclean refusal, {place}"
    if path == "/v1/programs" and reply.status_code == 202:
        return await _follow(client, json.loads(text)["id"])
    if reply.status_code != 200:
        return "broken", f"unexpected status, {place}"
    fault = check_stream(text, body) if body.get("stream") else check_whole(text, body)
    return "answered", None if fault is None else f"{fault}, {place}"


async def _follow(client: httpx.AsyncClient, job_id: str) -> tuple[str, str | None]:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        row = (await client.get(f"/v1/programs/{job_id}")).json()
        if row["status"] not in ("queued", "running"):
            fault = None if row["status"] == "completed" else f"program {job_id}: {row}"
            return "program ended", fault
        await asyncio.sleep(0.2)
    return "broken", f"program {job_id} did not end"


def check_whole(text: str, body: dict[str, Any]) -> str | None:
    """What is wrong with a whole answer, if anything."""
    choices = json.loads(text)["choices"]
    if len(choices) != body.get("n", 1):
        return f"{len(choices)} choices"
    return None if all(choice["finish_reason"] for choice in choices) else "a choice without its end"


def check_stream(text: str, body: dict[str, Any]) -> str | None:
    """What is wrong with a stream, if anything: each choice ends once, then the stream, once."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    if lines.count("[DONE]") != 1 or lines[-1] != "[DONE]":
        return "a stream without its end"
    rows = [json.loads(line) for line in lines[:-1]]
    if errors := [row["error"] for row in rows if "error" in row]:
        return f"an error in the stream: {errors}"
    ends = Counter(c["index"] for row in rows for c in row.get("choices", []) if c.get("finish_reason"))
    return None if ends == Counter(range(body.get("n", 1))) else f"choices ended {dict(ends)} times"


def find_leaks(before: dict[str, float], after: dict[str, float]) -> list[str]:
    """What the server did not give back."""
    bounds = {"running": 0, "cache": 0, "threads": 2, "handles": MAX_HANDLES, "rss": MAX_RSS_GROWTH}
    rows = [
        (name, before[name], after[name])
        for name, most in bounds.items()
        if after[name] - before[name] > most
    ]
    return [f"{name} grew from {old:g} to {new:g}" for name, old, new in rows]


async def end_in_the_midst(server: Server, num_running: int) -> tuple[list[str], list[str]]:
    """SIGTERM while requests run: what was wrong with their answers or the exit, and programs that were asked for."""
    body = {"prompt": "1+1=", "max_tokens": 400, "ignore_eos": True, "stream": True, "seed": 1}
    async with httpx.AsyncClient(base_url=server.address, timeout=TIMEOUT_S) as client:
        tasks = [asyncio.ensure_future(_send(client, "/v1/completions", body, n)) for n in range(num_running)]
        while (await client.get("/load")).json()["num_running"] < num_running:
            await asyncio.sleep(0.01)
            if all(task.done() for task in tasks):
                break
        jobs = [
            (await client.post("/v1/programs", json={"question": f"What is {n}+1?"})).json()["id"]
            for n in range(8)
        ]
        code = await asyncio.to_thread(server.end)
        replies = await asyncio.gather(*tasks, return_exceptions=True)
    faults = [f"at the end: {reply}" for reply in replies if reply != ("answered", None)]
    return faults + ([f"exit code {code}: {server.read_log()}"] if code else []), jobs


def find_lost(store: Path, jobs: list[str]) -> list[str]:
    """Programs that the store does not hold, or calls running although nobody runs them."""
    kept = SqliteJobStore(store)
    found = {name: kept.get(name) for name in jobs}
    kept.close()
    fine = (JobStatus.QUEUED, JobStatus.COMPLETED)
    return [f"program {name}: {job}" for name, job in found.items() if job is None or job.status not in fine]


def main() -> int:
    """Run; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=0.0, help="go on for so long (soak)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        row = run(arguments, Path(folder) / "jobs.sqlite")
    print(json.dumps(row))
    return 1 if row["faults"] or row["leaks"] else 0


def run(arguments: argparse.Namespace, store: Path) -> dict[str, Any]:
    """Warm up, load, measure, end."""
    server = Server("--job-store", str(store))
    started = server.settle()
    size = {"num_requests": arguments.requests, "num_clients": arguments.clients}
    asyncio.run(run_load(server.address, **size, seed=arguments.seed - 1))
    before = server.settle()
    print(f"warmed up: {before}", file=sys.stderr)
    total, rounds, end = Outcome(), [before], time.monotonic() + 60 * arguments.minutes
    seed = arguments.seed
    while True:
        outcome = asyncio.run(run_load(server.address, **size, seed=seed))
        total.kinds += outcome.kinds
        total.faults += outcome.faults
        total.seconds += outcome.seconds
        rounds.append(server.settle())
        seed += 1
        print(f"{dict(outcome.kinds)} in {outcome.seconds:.0f} s; {rounds[-1]}", file=sys.stderr)
        if time.monotonic() >= end:
            break
    faults, jobs = asyncio.run(end_in_the_midst(server, 8))
    growth = rounds[-1]["rss"] - before["rss"]
    return {
        "benchmark": "serve_faults",
        "requests": sum(total.kinds.values()),
        "clients": arguments.clients,
        "kinds": dict(sorted(total.kinds.items())),
        "seconds": round(total.seconds, 1),
        "rounds": len(rounds) - 1,
        "started": started,
        "before": before,
        "after": rounds[-1],
        "rss_mib_after_rounds": [round(held["rss"] / 2**20) for held in rounds],
        "rss_mib_per_1000_requests": round(growth / 2**20 / sum(total.kinds.values()) * 1000, 1),
        "leaks": find_leaks(before, rounds[-1]),
        "faults": (total.faults + faults + find_lost(store, jobs))[:20],
    }


if __name__ == "__main__":
    sys.exit(main())
