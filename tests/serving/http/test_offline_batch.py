"""`hf-dynasor batch`: what has ended is never run again, the rest is, and the results are whole."""

from __future__ import annotations

import asyncio
import json

import pytest

from hf_dynasor.cli import main
from hf_dynasor.errors import InputError
from hf_dynasor.recipe import Recipe
from hf_dynasor.serving import make_engine
from hf_dynasor.serving.http.job_store import JobStatus, SqliteJobStore
from hf_dynasor.serving.http.offline import enlist, run_batch
from hf_dynasor.serving.http.programs_api import walk_batch
from hf_dynasor.serving.http.settings import ServerSettings

LINES = [
    json.dumps({"id": f"q{n}", "question": f"What is {n}+{n + 1}?", "budget": 5, "seed": 0}) for n in range(6)
]
ANSWERS = [str(2 * n + 1) for n in range(6)]


class CountingEngine:
    """The real engine; counts what was submitted, and may be told to be interrupted after so many requests."""

    def __init__(self, engine, interrupt_after=None, interrupt=lambda: None):
        self._engine, self._after, self._interrupt = engine, interrupt_after, interrupt
        self.programs = []

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def submit(self, requests, sink):
        self.programs += [request.key.program_id for request in requests]
        self._engine.submit(requests, sink)


@pytest.fixture(scope="module")
def own_engine(loaded):
    engine = make_engine(loaded, engine="continuous")
    yield engine
    engine.close()


@pytest.fixture
def settings():
    return ServerSettings(max_programs=1, recipe=Recipe())


async def run_until(num_ended, batch, engine, model, settings, store):
    """Run a batch and cut it off once so many programs have ended."""

    def watch(ended, _):
        if ended >= num_ended:
            task.cancel()

    task = asyncio.ensure_future(run_batch(batch, engine, model, settings, store, on_progress=watch))
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_batch_that_was_cut_off_goes_on_where_it_was(own_engine, model, settings, tmp_path):
    path = tmp_path / "jobs.sqlite"
    store = SqliteJobStore(path)
    batch = enlist(LINES, model, settings, store, created=1)
    asyncio.run(run_until(2, batch, own_engine, model, settings, store))
    store = SqliteJobStore(path)
    ended = {job.id for job in walk_batch(store, batch) if job.status is JobStatus.COMPLETED}
    assert 2 <= len(ended) < 6
    assert enlist(LINES, model, settings, store, created=2) == batch
    engine = CountingEngine(own_engine)
    jobs = asyncio.run(run_batch(batch, engine, model, settings, store))
    assert [job.result["answer"] for job in jobs] == ANSWERS
    assert [job.request["id"] for job in jobs] == [f"q{n}" for n in range(6)]
    assert not any(job_id in program for job_id in ended for program in engine.programs)


def test_another_file_model_or_option_is_another_batch(model, settings):
    store = SqliteJobStore()
    first = enlist(LINES, model, settings, store, created=1)
    other = ServerSettings(recipe=Recipe(budget=7))
    assert len({first, *(enlist(x, model, y, store, created=1) for x, y in [(LINES[1:], settings), (LINES, other)])}) == 3  # fmt: skip
    store.close()


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([LINES[0], '{"question": 5}'], "Line 2"),
        ([LINES[0], "{"], "Line 2"),
        (["", " "], "no line"),
        (['{"question": "What is 1+1?", "model": "other"}'], "other"),
    ],
)
def test_a_broken_line_is_named_and_nothing_is_kept(model, settings, lines, words):
    store = SqliteJobStore()
    with pytest.raises(InputError, match=words):
        enlist(lines, model, settings, store, created=1)
    assert store.list_jobs() == []
    store.close()


def test_the_command_writes_every_result_in_order_and_a_second_run_needs_no_engine(
    tmp_path, capsys, monkeypatch
):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(LINES))
    assert main(["batch", str(source), str(target)]) == 0
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert [row["result"]["answer"] for row in rows] == ANSWERS
    assert [row["num_attempts"] for row in rows] == [1] * 6
    monkeypatch.setattr("hf_dynasor.serving.serve_engine.make_serving_engine", None)
    target.unlink()
    assert main(["batch", str(source), str(target), "--json"]) == 0
    assert [json.loads(line) for line in target.read_text().splitlines()] == rows
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["num_programs"], told["num_failed"]) == (6, 0)


def test_a_file_that_is_not_there_is_told(tmp_path, capsys):
    assert main(["batch", str(tmp_path / "no.jsonl"), "out.jsonl"]) == 2
    assert "no.jsonl" in capsys.readouterr().err
