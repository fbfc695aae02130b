"""Jobs are taken once, end once, and survive the process."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.errors import InputError
from hf_dynasor.serving.http.job_store import Job, JobStatus, SqliteJobStore


def job(name, **more):
    return Job(**{"id": name, "created": 1, "request": {"question": name}} | more)


@pytest.fixture
def store(tmp_path):
    store = SqliteJobStore(tmp_path / "jobs.sqlite")
    yield store
    store.close()


def test_jobs_are_taken_in_order_and_once(store):
    store.add([job(name) for name in "abc"])
    assert [item.id for item in store.take(2)] == ["a", "b"]
    assert [item.id for item in store.take(2)] == ["c"]
    assert store.take(2) == []
    assert store.get("a").status is JobStatus.RUNNING
    assert store.get("a").num_attempts == 1


def test_a_job_ends_once(store):
    store.add([job("a")])
    store.take(1)
    assert store.finish("a", JobStatus.COMPLETED, result={"answer": "4"})
    assert not store.finish("a", JobStatus.CANCELLED)
    assert not store.requeue("a")
    assert (store.get("a").status, store.get("a").result) == (JobStatus.COMPLETED, {"answer": "4"})


def test_names_are_unique_and_all_or_none_is_kept(store):
    store.add([job("a")])
    with pytest.raises(InputError, match="already"):
        store.add([job("b"), job("a")])
    assert store.get("b") is None


def test_what_was_running_when_the_process_died_is_queued_again(tmp_path):
    path = tmp_path / "jobs.sqlite"
    first = SqliteJobStore(path)
    first.add([job("done"), job("half"), job("waiting")])
    first.take(2)
    first.finish("done", JobStatus.COMPLETED, result={})
    second = SqliteJobStore(path)  # the first never closed, as after a crash
    assert second.recover() == 1
    assert [item.id for item in second.take(9)] == ["half", "waiting"]
    assert second.get("half").num_attempts == 2
    first.close()
    second.close()


def test_batches_are_listed_by_position_and_page_by_page(store):
    store.add([job(f"b{place}", batch="x", position=place) for place in range(5)] + [job("alone")])
    assert [item.id for item in store.list_jobs(batch="x", limit=2)] == ["b0", "b1"]
    assert [item.id for item in store.list_jobs(batch="x", limit=9, after="b1")] == ["b2", "b3", "b4"]
    assert [item.id for item in store.list_jobs(limit=2)] == ["alone", "b4"]
    assert [item.id for item in store.list_jobs(limit=2, after="b4")] == ["b3", "b2"]


def test_only_ended_jobs_without_a_batch_are_forgotten_the_oldest_first(store):
    store.add([job(name) for name in "abcd"] + [job("x", batch="y")])
    for name in "abcx":
        store.finish(name, JobStatus.CANCELLED)
    assert store.forget(1) == 2
    assert {item.id for item in store.list_jobs()} == {"c", "d", "x"}


def test_a_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database, " * 100)
    with pytest.raises(InputError, match=r"notes\.txt"):
        SqliteJobStore(path)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["add", "take", "finish", "requeue", "recover"]), max_size=30))
def test_no_job_is_lost_or_doubled_whatever_happens(steps):
    store = SqliteJobStore()
    added, ended = 0, set()
    for step in steps:
        running = [item.id for item in store.list_jobs(limit=99) if item.status is JobStatus.RUNNING]
        if step == "add":
            store.add([job(f"j{added}")])
            added += 1
        elif step == "take":
            assert not {item.id for item in store.take(1)} & ended
        elif step == "finish" and running:
            assert store.finish(running[0], JobStatus.COMPLETED, result={})
            ended.add(running[0])
        elif step == "requeue" and running:
            store.requeue(running[0])
        elif step == "recover":
            store.recover()
    jobs = store.list_jobs(limit=99)
    assert len(jobs) == len({item.id for item in jobs}) == added
    assert {item.id for item in jobs if item.status is JobStatus.COMPLETED} == ended
    store.close()
