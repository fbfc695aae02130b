"""Many clients at once, some of which hang up, send rubbish or never read: all others are answered, nothing is left."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import time
from pathlib import Path

import pytest

from hf_dynasor.serving import make_engine
from hf_dynasor.serving.http.app import create_app
from hf_dynasor.serving.http.job_store import JobStatus, SqliteJobStore
from tests.serving.http.kit import serve

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def faults():
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("serve_faults")
    sys.path.remove(str(BENCHMARKS))


def count_handles():
    return len(os.listdir("/proc/self/fd"))


def wait_until(is_true, seconds=60):
    deadline = time.monotonic() + seconds
    while not is_true() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert is_true()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts handles in /proc")
def test_every_well_formed_request_is_answered_and_nothing_is_left(faults, loaded, model):
    engine = make_engine(loaded, engine="continuous")
    app = create_app(engine, model)
    with serve(app) as address:

        def load(num_requests, seed):
            return asyncio.run(faults.run_load(address, num_requests=num_requests, num_clients=20, seed=seed))

        def count_tasks():
            return len(asyncio.all_tasks(app.state.server.pump._loop))

        load(20, 9)
        wait_until(lambda: engine.num_in_flight == 0)
        wait_until(lambda: count_tasks() <= 4)
        handles, tasks, free = count_handles(), count_tasks(), engine.count_pages().free
        outcome = load(200, 1)
        assert outcome.faults == []
        assert outcome.kinds.total() == 200
        assert {"answered", "hung up", "malformed", "never read", "program ended"} <= set(outcome.kinds)
        wait_until(lambda: engine.num_in_flight == 0)
        wait_until(lambda: engine.count_pages().free == free == engine.count_pages().total)
        wait_until(lambda: count_tasks() <= tasks)
        wait_until(lambda: count_handles() <= handles + faults.MAX_HANDLES)
        state = app.state.server
        assert (state.admission.num_running, state.admission.num_waiting, len(state.switches)) == (0, 0, 0)
    engine.close()


def test_sigterm_in_mid_load_answers_what_runs_and_keeps_what_was_asked_for(faults, tmp_path):
    store = tmp_path / "jobs.sqlite"
    server = faults.Server("--job-store", str(store))
    wrong, jobs = asyncio.run(faults.end_in_the_midst(server, 8))
    assert wrong == []
    assert faults.find_lost(store, jobs) == []
    kept = SqliteJobStore(store)
    assert {kept.get(name).status for name in jobs} <= {JobStatus.QUEUED, JobStatus.COMPLETED}
    kept.close()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('data: {"choices": [{"index": 0, "finish_reason": "stop"}]}\n\n', "without its end"),
        ("data: [DONE]\n\n", "ended"),
        (
            'data: {"choices": [{"index": 0, "finish_reason": "stop"}]}\n\n' * 2 + "data: [DONE]\n\n",
            "ended",
        ),
        ('data: {"error": {"message": "x"}}\n\ndata: [DONE]\n\n', "an error"),
    ],
)
def test_the_check_of_streams_finds_what_is_wrong(faults, text, words):
    assert words in faults.check_stream(text, {})
