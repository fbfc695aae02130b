"""An engine that dies is replaced: what it held fails clearly, what comes meanwhile is told to wait, the rest is served."""

from __future__ import annotations

import threading
import time

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.errors import ConfigurationError, EngineError
from hf_dynasor.serving import make_engine
from hf_dynasor.serving.http.app import create_app
from hf_dynasor.serving.http.supervisor import MAX_DELAY_S, STABLE_S, SupervisedEngine
from tests.serving.http.kit import serve

MESSAGES = [{"role": "user", "content": "What is 17*6+4?"}]
LONG = {"messages": MESSAGES, "temperature": 2.0, "max_tokens": 1500, "ignore_eos": True}
SHORT = {"messages": MESSAGES, "temperature": 0}


def wait_until(is_true, seconds=60):
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Gate:
    """Makes engines, once it is open; kills the one that works in the midst of a step."""

    def __init__(self, loaded):
        self._loaded, self.open = loaded, threading.Event()
        self.open.set()
        self.num_made = 0

    def make(self):
        if not self.open.wait(60):
            raise RuntimeError("The gate stayed shut.")
        self.num_made += 1
        return make_engine(self._loaded, engine="continuous")

    @staticmethod
    def kill(supervised):
        def die():
            raise RuntimeError("killed by the test")

        supervised.current._paged.choose = die


@pytest.fixture
def gate(loaded):
    return Gate(loaded)


@pytest.fixture
def supervised(gate):
    engine = SupervisedEngine(gate.make, delay_s=0.05, check_interval_s=0.05)
    yield engine
    gate.open.set()
    engine.close()


@pytest.fixture
def http(supervised, model):
    with (
        serve(create_app(supervised, model)) as address,
        httpx.Client(base_url=address, timeout=60) as http,
    ):
        yield http


def send_in_thread(http, body, replies):
    thread = threading.Thread(
        target=lambda: replies.append(http.post("/v1/chat/completions", json=body)), daemon=True
    )
    thread.start()
    return thread


def test_a_death_in_mid_load_is_a_503_for_all_until_the_next_engine_serves(http, supervised, gate):
    replies = []
    threads = [send_in_thread(http, LONG | {"seed": seed}, replies) for seed in range(6)]
    job = http.post(
        "/v1/programs",
        json={"messages": MESSAGES, "budget": 8, "seed": 1, "policy": "even", "temperature": 0.7},
    ).json()
    wait_until(lambda: supervised.num_in_flight >= 6)
    gate.open.clear()
    gate.kill(supervised)
    for thread in threads:
        thread.join(60)
    assert [reply.status_code for reply in replies] == [503] * 6
    assert all("killed by the test" in reply.json()["error"]["message"] for reply in replies)
    refused = http.post("/v1/chat/completions", json=SHORT)
    assert (refused.status_code, refused.json()["error"]["type"]) == (503, "server_error")
    assert int(refused.headers["Retry-After"]) >= 1
    assert http.get("/health").status_code == http.get("/ready").status_code == 503
    gate.open.set()
    wait_until(lambda: http.get("/ready").status_code == 200)
    reply = http.post("/v1/chat/completions", json=SHORT)
    assert "106" in reply.json()["choices"][0]["message"]["content"]
    wait_until(lambda: http.get(f"/v1/programs/{job['id']}").json()["status"] not in ("queued", "running"))
    done = http.get(f"/v1/programs/{job['id']}").json()
    assert (done["status"], done["result"]["answer"]) == ("completed", "106"), done
    assert gate.num_made == 2


def test_a_stream_is_told_of_the_death_and_ends(http, supervised, gate):
    lines = []
    with http.stream("POST", "/v1/chat/completions", json=LONG | {"stream": True}) as stream:
        for line in stream.iter_lines():
            lines.append(line)
            if len(lines) == 5:
                gate.kill(supervised)
    said = [line for line in lines if line]
    assert said[-1] == "data: [DONE]"
    assert '"error"' in said[-2]
    assert "killed by the test" in said[-2]


def test_jobs_wait_for_the_next_engine_and_are_not_used_up(http, supervised, gate):
    gate.open.clear()
    gate.kill(supervised)
    http.post("/v1/chat/completions", json=SHORT)
    wait_until(lambda: http.get("/ready").status_code == 503)
    # Taken by the store all the same: a job needs an engine only once it runs.
    store_time = time.monotonic()
    assert http.post("/v1/programs", json={"question": "What is 1+1?"}).status_code == 503
    assert time.monotonic() - store_time < 60
    gate.open.set()
    wait_until(lambda: http.get("/ready").status_code == 200)
    job = http.post("/v1/programs", json={"question": "What is 1+1?", "budget": 5}).json()
    wait_until(lambda: http.get(f"/v1/programs/{job['id']}").json()["status"] == "completed")
    assert http.get(f"/v1/programs/{job['id']}").json()["num_attempts"] == 1


class FakeEngine:
    """An engine that is well or dead, as told."""

    name, abilities = "fake", frozenset()

    def __init__(self):
        self.is_dead = self.is_closed = False

    def check_health(self):
        if self.is_dead:
            raise EngineError("It is dead.")

    def close(self):
        self.is_closed = True


class Script:
    """Time that passes at once: notes each wait, and lets things happen in it."""

    def __init__(self, max_waits):
        self.waits, self._left = [], max_waits
        self.done = threading.Event()

    def wait(self, closed, seconds):
        self.waits.append(seconds)
        self._left -= 1
        if self._left < 0:
            self.done.set()
            return closed.wait(60)
        return closed.is_set()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["made", "fails", "memory"]), min_size=1, max_size=12))
def test_the_wait_doubles_with_every_failure_and_is_bounded(fates):
    """Engines that cannot be made, and ones that die at once, are tried again ever more slowly."""
    script, made = Script(4 * len(fates) + 4), []
    fates = iter(fates)

    def make():
        fate = next(fates, "fails")
        if made and fate == "fails":
            raise RuntimeError("no")
        if made and fate == "memory":
            raise MemoryError
        made.append(FakeEngine())
        made[-1].is_dead = True
        return made[-1]

    engine = SupervisedEngine(make, delay_s=1.0, check_interval_s=0.25, wait=script.wait)
    assert script.done.wait(30)
    engine.close()
    delays = [seconds for seconds in script.waits if seconds != 0.25]
    assert delays == [min(MAX_DELAY_S, 2.0**power) for power in range(len(delays))]
    assert all(one.is_closed for one in made)


def test_an_engine_that_lived_long_is_replaced_quickly_again():
    checks = round(STABLE_S / 0.25)
    script, made = Script(6 + checks), []

    def make():
        made.append(FakeEngine())
        made[-1].is_dead = len(made) < 3
        return made[-1]

    def wait(closed, seconds):
        if len(script.waits) == 4 + checks:
            made[-1].is_dead = True
        return script.wait(closed, seconds)

    engine = SupervisedEngine(make, delay_s=1.0, check_interval_s=0.25, wait=wait)
    assert script.done.wait(30)
    engine.close()
    assert [seconds for seconds in script.waits if seconds != 0.25] == [1.0, 2.0, 1.0]


def test_closing_during_a_restart_leaves_no_engine_and_no_thread():
    making, go_on, made = threading.Event(), threading.Event(), []

    def make():
        if made:
            making.set()
            assert go_on.wait(30)
        made.append(FakeEngine())
        return made[-1]

    engine = SupervisedEngine(make, delay_s=0.01, check_interval_s=0.01)
    made[0].is_dead = True
    assert making.wait(30)
    with pytest.raises(EngineError, match="being restarted"):
        engine.check_health()
    closer = threading.Thread(target=engine.close)
    closer.start()
    time.sleep(0.05)
    go_on.set()
    closer.join(30)
    assert not closer.is_alive()
    assert len(made) == 2
    assert all(one.is_closed for one in made)
    assert not [thread for thread in threading.enumerate() if thread.name == "hf_dynasor-supervisor"]
    engine.close()


def test_closing_while_it_waits_does_not_wait():
    made = []

    def make():
        made.append(FakeEngine())
        return made[-1]

    engine = SupervisedEngine(make, delay_s=3600.0, check_interval_s=0.01)
    made[0].is_dead = True
    wait_until(lambda: made[0].is_closed)
    engine.close()  # the test's own time limit would end it
    assert len(made) == 1


def test_waits_of_nothing_are_refused():
    with pytest.raises(ConfigurationError, match="above 0"):
        SupervisedEngine(FakeEngine, delay_s=0)
