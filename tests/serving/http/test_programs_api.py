"""Programs that outlive their request: every one ends once, is told as it goes, and survives a dead server."""

from __future__ import annotations

import json
import time

import httpx
import pytest

from hf_dynasor.errors import EngineError
from hf_dynasor.serving.http.app import create_app
from hf_dynasor.serving.http.job_store import Job, JobStatus, SqliteJobStore
from hf_dynasor.serving.http.settings import ServerSettings
from hf_dynasor.serving.solver import Solver
from tests.serving.http.kit import serve

QUESTION = "What is 17*6+4?"


def wait_for(http, path, is_done, seconds=60):
    deadline = time.monotonic() + seconds
    while not is_done(row := http.get(path).json()):
        assert time.monotonic() < deadline, row
        time.sleep(0.05)
    return row


def submit(http, **body):
    reply = http.post("/v1/programs", json={"question": QUESTION, "budget": 10, "seed": 3} | body)
    assert reply.status_code == 202, reply.text
    return reply.json()


def test_a_program_is_taken_run_and_kept(http, engine):
    job = submit(http, id="mine")
    assert (job["status"], job["custom_id"]) == ("queued", "mine")
    done = wait_for(http, f"/v1/programs/{job['id']}", lambda row: row["status"] == "completed")
    expected = Solver(engine, budget=10, seed=3).solve(QUESTION)
    assert done["result"]["answer"] == expected.text == "106"
    assert done["result"]["usage"]["sampled"] == expected.usage.sampled
    assert job["id"] in [row["id"] for row in http.get("/v1/programs").json()["data"]]


def test_events_tell_every_grant_and_completion_and_can_be_taken_up_again(http):
    job = submit(http)
    events = []
    with http.stream("GET", f"/v1/programs/{job['id']}/events") as stream:
        for line in stream.iter_lines():
            if line.startswith("event: "):
                events.append(line.removeprefix("event: "))
    assert events[0] == "queued"
    assert events[-1] == "completed"
    done = http.get(f"/v1/programs/{job['id']}").json()["result"]
    assert events.count("grant") == len(done["grants"])
    assert events.count("completion") == done["units_spent"]
    later = http.get(f"/v1/programs/{job['id']}/events", headers={"Last-Event-ID": str(len(events) - 2)}).text
    assert [line for line in later.splitlines() if line.startswith("event: ")] == ["event: completed"]


def test_a_program_can_be_cancelled_and_ends_once(http, engine):
    job = submit(http, temperature=2.0, policy="even", max_new_tokens=1500, budget=16)
    cancelled = http.post(f"/v1/programs/{job['id']}/cancel").json()
    assert cancelled["status"] == "cancelled"
    assert http.post(f"/v1/programs/{job['id']}/cancel").json()["status"] == "cancelled"
    deadline = time.monotonic() + 10
    while engine.num_in_flight and time.monotonic() < deadline:
        time.sleep(0.05)
    assert engine.num_in_flight == 0


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"question": None}, "question"),
        ({"question": "  "}, "question"),
        ({"program": "guess"}, "dynasor"),
        ({"policy": "file.json"}, "dynasor.policy"),
        ({"no_such": 1}, "no_such"),
        ({"model": "other"}, "model"),
    ],
)
def test_what_cannot_run_is_not_taken(http, body, param):
    reply = http.post("/v1/programs", json={"question": QUESTION} | body)
    assert reply.status_code in (400, 404)
    assert reply.json()["error"]["param"] == param
    assert http.get("/v1/programs/nothing").status_code == 404


def test_a_batch_comes_back_line_by_line_in_order(http):
    questions = [f"What is {number}+{number + 1}?" for number in range(6)]
    lines = "\n".join(
        json.dumps({"id": str(i), "question": q, "budget": 5, "seed": 0}) for i, q in enumerate(questions)
    )
    batch = http.post("/v1/batches", content=lines).json()
    assert batch["request_counts"]["total"] == 6
    wait_for(http, f"/v1/batches/{batch['id']}", lambda row: row["status"] == "completed")
    rows = [json.loads(line) for line in http.get(f"/v1/batches/{batch['id']}/results").text.splitlines()]
    assert [row["custom_id"] for row in rows] == [str(i) for i in range(6)]
    assert [row["result"]["answer"] for row in rows] == [str(2 * i + 1) for i in range(6)]


def test_a_broken_line_of_a_batch_is_named_and_nothing_is_taken(http):
    lines = '{"question": "What is 1+1?"}\n{"question": 5}'
    reply = http.post("/v1/batches", content=lines)
    assert reply.status_code == 400
    assert "Line 2" in reply.json()["error"]["message"]
    assert http.post("/v1/batches", content="").status_code == 400


class DyingEngine:
    """The real engine, but its first few completions are deaths."""

    def __init__(self, engine, num_deaths):
        self._engine, self.num_deaths = engine, num_deaths

    def __getattr__(self, name):
        return getattr(self._engine, name)

    @property
    def name(self):
        return "dying"

    @property
    def abilities(self):
        return self._engine.abilities

    def submit(self, requests, sink):
        if self.num_deaths:
            self.num_deaths -= 1
            raise EngineError("The engine died.")
        self._engine.submit(requests, sink)

    def cancel(self, keys):
        self._engine.cancel(keys)

    def check_health(self):
        self._engine.check_health()

    def close(self):
        pass


def test_a_batch_survives_an_engine_that_dies(engine, model):
    dying = DyingEngine(engine, 2)
    with serve(create_app(dying, model)) as address, httpx.Client(base_url=address) as http:
        job = http.post("/v1/programs", json={"question": QUESTION, "budget": 5, "seed": 3}).json()
        done = wait_for(
            http, f"/v1/programs/{job['id']}", lambda row: row["status"] in ("completed", "failed")
        )
    assert (done["status"], done["num_attempts"]) == ("completed", 3)


def test_what_a_dead_server_left_is_finished_by_the_next_and_nothing_is_run_twice(engine, model, tmp_path):
    path = tmp_path / "jobs.sqlite"
    dead = SqliteJobStore(path)
    request = {"question": QUESTION, "budget": 5, "seed": 3}
    dead.add(
        [Job(id=name, batch="b", position=i, created=0, request=request) for i, name in enumerate("abc")]
    )
    dead.take(2)
    dead.finish("a", JobStatus.COMPLETED, result={"answer": "kept"})
    settings = ServerSettings(max_programs=1)
    app = create_app(engine, model, settings, store=SqliteJobStore(path))
    with serve(app) as address, httpx.Client(base_url=address) as http:
        wait_for(http, "/v1/batches/b", lambda row: row["status"] == "completed")
        rows = [json.loads(line) for line in http.get("/v1/batches/b/results").text.splitlines()]
    assert [row["result"]["answer"] for row in rows] == ["kept", "106", "106"]
    assert [row["num_attempts"] for row in rows] == [1, 2, 1]
    dead.close()
