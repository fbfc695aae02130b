"""Jobs shared by processes: each is run by one, none is lost with a process, none ends twice."""

from __future__ import annotations

import multiprocessing

import pytest

from hf_dynasor.errors import ConfigurationError
from hf_dynasor.serving.http.job_store import Job, JobStatus
from hf_dynasor.serving.replicas.shared_store import SharedJobStore


class Hand:
    """A clock that is moved by hand."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def hand():
    return Hand()


@pytest.fixture
def make_store(tmp_path, hand):
    stores = []

    def make(owner):
        stores.append(SharedJobStore(tmp_path / "jobs.sqlite", owner, wall_time=hand, beats=False))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


def make_jobs(count, batch="batch"):
    return [
        Job(id=f"{batch}-{number}", batch=batch, position=number, created=0, request={})
        for number in range(count)
    ]


def test_a_job_is_taken_by_one_process_only(make_store):
    first, second = make_store("a"), make_store("b")
    first.add(make_jobs(10))
    taken = [first.take(4), second.take(4), first.take(4), second.take(4)]
    names = [job.id for jobs in taken for job in jobs]
    assert sorted(names) == sorted(set(names)) == sorted(job.id for job in make_jobs(10))
    assert [len(jobs) for jobs in taken] == [4, 4, 2, 0]
    assert {job.num_attempts for jobs in taken for job in jobs} == {1}


def test_a_single_program_stays_with_who_took_it_in(make_store, hand):
    first, second = make_store("a"), make_store("b")
    first.add([Job(id="p", created=0, request={})])
    assert second.take(5) == []
    assert second.find_owner("p") == "a"
    hand.now += 11  # the first says nothing any more
    assert [job.id for job in second.take(5)] == ["p"]
    assert first.find_owner("p") is None or first.find_owner("p") == "b"


def test_the_jobs_of_a_dead_process_go_back_and_only_those(make_store, hand):
    first, second = make_store("a"), make_store("b")
    first.add(make_jobs(4))
    dead, live = first.take(2), second.take(2)
    assert second.recover() == 0
    hand.now += 6
    assert second.beat() == 0
    hand.now += 6  # 12 s since the first was heard of, 6 since the second
    assert second.beat() == 2
    assert [job.id for job in second.take(9)] == [job.id for job in dead]
    assert second.find_owner(live[0].id) == "b"


def test_a_process_that_was_given_up_ends_nothing_twice(make_store, hand):
    first, second = make_store("a"), make_store("b")
    first.add(make_jobs(1))
    (job,) = first.take(1)
    hand.now += 11
    second.beat()
    assert [again.num_attempts for again in second.take(1)] == [2]
    assert not first.requeue(job.id), "it is the second's now"
    assert second.finish(job.id, JobStatus.COMPLETED, result={"by": "b"})
    assert not first.finish(job.id, JobStatus.COMPLETED, result={"by": "a"})
    assert first.get(job.id).result == {"by": "b"}


def test_a_process_that_leaves_gives_its_jobs_back_at_once(make_store):
    first, second = make_store("a"), make_store("b")
    first.add(make_jobs(1))
    (job,) = first.take(1)
    assert first.requeue(job.id)
    assert [each.id for each in second.take(1)] == [job.id]


def _work(path, owner):
    store = SharedJobStore(path, owner)
    done = []
    while jobs := store.take(3):
        for job in jobs:
            assert store.finish(job.id, JobStatus.COMPLETED, result={"by": owner})
            done.append(job.id)
    store.close()
    return done


def test_processes_share_a_file_without_losing_or_repeating(tmp_path):
    path = str(tmp_path / "jobs.sqlite")
    store = SharedJobStore(path, "main")
    store.add(make_jobs(60))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        done = pool.starmap(_work, [(path, "a"), (path, "b")])
    names = [name for each in done for name in each]
    assert sorted(names) == sorted(job.id for job in make_jobs(60))
    assert store.count("batch") == {JobStatus.COMPLETED: 60}
    store.close()


def test_it_needs_a_file():
    with pytest.raises(ConfigurationError, match="expected a file"):
        SharedJobStore(":memory:", "a")
