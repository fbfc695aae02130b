"""Priority, deadline and tenant of a request over HTTP reach the scheduler, and change who runs next."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import threading
import time

import httpx
import pytest

from hf_dynasor.cli.api_keys import read_api_keys
from hf_dynasor.cli.main import main
from hf_dynasor.errors import ConfigurationError, InputError
from hf_dynasor.serving.http.app import create_app
from hf_dynasor.serving.http.job_store import Job, SqliteJobStore
from hf_dynasor.serving.http.settings import ServerSettings, Tenant
from hf_dynasor.serving.http.terms import ServingTerms, read_job_terms
from tests.serving.http.kit import serve
from tests.serving.test_program_scheduling import open_engine

MESSAGES = [{"role": "user", "content": "What is 2+3?"}]


def ask(http, route, units, *, priority=None, deadline_ms=None, key=None):
    """A request of so many units over one of the routes; its reply."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    terms = {} if priority is None else {"priority": priority}
    options = {} if deadline_ms is None else {"deadline_ms": deadline_ms}
    program = {"program": "self_consistency", "policy": "even", "budget": units}
    path, body = {
        "chat": ("chat/completions", {"messages": MESSAGES, "n": units, "max_tokens": 2, "dynasor": options}),
        "completion": ("completions", {"prompt": "2+3", "n": units, "max_tokens": 2}),
        "program": (
            "chat/completions",
            {"messages": MESSAGES, "max_tokens": 2, "dynasor": program | options},
        ),
        "job": ("programs", {"question": "What is 2+3?", "max_new_tokens": 2, **program, **options}),
        "response": ("responses", {"input": "What is 2+3?", "max_output_tokens": 2}),
    }[route]
    return http.post(f"/v1/{path}", json=body | terms, headers=headers)


@contextlib.contextmanager
def standing_server(loaded, model, policy, **settings):
    """A server whose engine, with one place, stands still until its gate is opened; the programs in starting order."""
    engine, clock = open_engine(loaded, policy, max_batch_requests=1)
    starts: list[str] = []
    engine.scheduling.on_plan = lambda now, plan: starts.extend(key.program_id for key in plan.started)
    app = create_app(engine, model, ServerSettings(**settings))
    with engine, serve(app) as address, httpx.Client(base_url=address, timeout=60) as http:
        try:
            yield engine, clock.gate, http, starts
        finally:
            clock.gate.set()


def run_orders(loaded, model, policy, route, requests, **settings):
    """Send requests (units and terms) one after another while the engine stands still; units in starting order."""
    replies = []
    with standing_server(loaded, model, policy, **settings) as (engine, gate, http, starts):
        threads = []
        for units, terms in requests:
            before = engine.num_in_flight
            send = threading.Thread(
                target=lambda units=units, terms=terms: replies.append(ask(http, route, units, **terms))
            )
            send.start()
            threads.append(send)
            wait_until(lambda before=before, units=units: engine.num_in_flight == before + units)
        gate.set()
        for thread in threads:
            thread.join(60)
        total = sum(units for units, _ in requests)
        wait_until(lambda: len(starts) == 1 + total)
    assert {reply.status_code for reply in replies} <= {200, 202}, [reply.text for reply in replies]
    assert starts[0] == "blocker"
    return [len(list(group)) for _, group in itertools.groupby(starts[1:])]


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("route", ["chat", "completion", "program", "job"])
def test_a_lower_priority_number_runs_first(loaded, model, route):
    """The requests come in the same order each time; only their priorities differ."""
    later, sooner = {"priority": 7}, {"priority": -7}
    assert run_orders(loaded, model, "app_fifo", route, [(2, {}), (3, {})]) == [2, 3]
    assert run_orders(loaded, model, "app_fifo", route, [(2, later), (3, sooner)]) == [3, 2]


def test_a_lower_priority_number_runs_first_among_responses(loaded, model):
    with standing_server(loaded, model, "app_fifo") as (engine, gate, http, starts):
        threads = []
        for place, priority in enumerate((7, -7)):
            threads.append(
                threading.Thread(target=ask, args=(http, "response", 1), kwargs={"priority": priority})
            )
            threads[-1].start()
            wait_until(lambda place=place: engine.num_in_flight == 2 + place)
        gate.set()
        for thread in threads:
            thread.join(60)
    first, second = (int(name.rpartition("-")[2], 16) for name in starts[1:])  # numbered as they came
    assert first > second


@pytest.mark.parametrize("route", ["chat", "program", "job"])
def test_the_earlier_deadline_runs_first_where_the_server_schedules_by_deadline(loaded, model, route):
    late, soon, far = {"deadline_ms": 5_000_000}, {"deadline_ms": 2_000_000}, {}
    assert run_orders(loaded, model, "deadline", route, [(2, late), (3, soon)]) == [3, 2]
    assert run_orders(loaded, model, "deadline", route, [(2, soon), (3, late)]) == [2, 3]
    assert run_orders(loaded, model, "deadline", route, [(2, far), (3, late)]) == [3, 2]


def test_under_fair_a_tenant_with_one_request_is_not_behind_another_ones_queue(loaded, model):
    tenants = {"k1": Tenant(name="many"), "k2": Tenant(name="many"), "k3": Tenant(name="few")}
    settings = {"api_keys": tuple(tenants), "tenants": tenants}
    requests = [(2, {"key": "k1"}), (3, {"key": "k2"}), (4, {"key": "k3"})]
    assert run_orders(loaded, model, "fair", "chat", requests, **settings) == [2, 4, 3]
    assert run_orders(loaded, model, "app_fifo", "chat", requests, **settings) == [2, 3, 4]


def test_a_tenants_weight_counts(loaded, model):
    """Work over weight: four units of the heavy tenant count for less than two of the light one."""
    for weight, expected in ((1.0, [2, 3, 4]), (9.0, [4, 2, 3])):
        tenants = {"k1": Tenant(name="light"), "k2": Tenant(name="heavy", weight=weight)}
        settings = {"api_keys": tuple(tenants), "tenants": tenants}
        requests = [(2, {"key": "k1"}), (3, {"key": "k1"}), (4, {"key": "k2"})]
        found = run_orders(loaded, model, "gang_sjf", "chat", requests, **settings)
        assert found == expected, weight


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("program", [{}, {"program": "self_consistency", "budget": 2}])
def test_the_answer_tells_whether_its_deadline_was_met(http, program, stream):
    for deadline_ms, met in ((1, False), (600_000, True)):
        body = {"messages": MESSAGES, "stream": stream, "dynasor": program | {"deadline_ms": deadline_ms}}
        reply = http.post("/v1/chat/completions", json=body)
        assert reply.status_code == 200, reply.text
        assert f'"deadline_met":{str(met).lower()}' in reply.text.replace(" ", "")
    plain = http.post("/v1/chat/completions", json={"messages": MESSAGES, "stream": stream}).text
    assert "deadline_met" not in plain


def test_a_jobs_result_tells_whether_its_deadline_was_met(http):
    body = {"question": "What is 2+3?", "budget": 2, "policy": "even", "deadline_ms": 600_000}
    name = http.post("/v1/programs", json=body).json()["id"]
    wait_until(lambda: http.get(f"/v1/programs/{name}").json()["status"] == "completed")
    assert http.get(f"/v1/programs/{name}").json()["result"]["deadline_met"] is True


@pytest.mark.parametrize(
    ("path", "body", "param", "code"),
    [
        ("chat/completions", {"messages": MESSAGES, "dynasor": {"deadline_ms": 0}}, "dynasor.deadline_ms", "invalid_value"),
        ("chat/completions", {"messages": MESSAGES, "dynasor": {"deadline_ms": "soon"}}, "dynasor.deadline_ms", "invalid_value"),
        ("chat/completions", {"messages": MESSAGES, "dynasor": {"deadline_ms": 10**12}}, "dynasor.deadline_ms", "invalid_value"),
        ("chat/completions", {"messages": MESSAGES, "deadline_ms": 5}, "deadline_ms", "unsupported_field"),
        ("chat/completions", {"messages": MESSAGES, "priority": "high"}, "priority", "invalid_value"),
        ("chat/completions", {"messages": MESSAGES, "priority": 2**40}, "priority", "invalid_value"),
        ("completions", {"prompt": "2", "dynasor": {"deadline_ms": 5}}, "dynasor", "unsupported_field"),
        ("responses", {"input": "2", "dynasor": {"deadline_ms": 5}}, None, None),
        ("programs", {"question": "2+3?", "deadline_ms": -1}, "deadline_ms", "invalid_value"),
        ("programs", {"question": "2+3?", "priority": 1.5}, "priority", "invalid_value"),
    ],
)  # fmt: skip
def test_terms_that_cannot_be_honoured_are_refused_by_name(http, path, body, param, code):
    reply = http.post(f"/v1/{path}", json=body)
    assert reply.status_code == 400
    error = reply.json()["error"]
    if param is not None:
        assert (error["param"], error["code"]) == (param, code)


def test_a_broken_line_of_a_batch_is_named():
    from hf_dynasor.serving.http.errors import ApiError
    from hf_dynasor.serving.http.programs_api import parse_line

    assert parse_line('{"question": "2+3?", "priority": -2, "deadline_ms": 9}', 1).priority == -2
    with pytest.raises(ApiError, match="Line 3: deadline_ms"):
        parse_line('{"question": "2+3?", "deadline_ms": 0}', 3)


def make_job(name, **fields):
    return Job(id=name, created=100, request={}, **fields)


def test_queued_jobs_are_taken_by_priority_and_then_by_age(tmp_path):
    store = SqliteJobStore(tmp_path / "jobs.sqlite")
    store.add(
        [make_job("a"), make_job("b", priority=-1), make_job("c", priority=3), make_job("d", priority=-1)]
    )
    assert [job.id for job in store.take(3)] == ["b", "d", "a"]
    store.close()


def test_a_job_keeps_its_terms_across_a_restart_and_its_deadline_goes_on(tmp_path):
    path = tmp_path / "jobs.sqlite"
    store = SqliteJobStore(path)
    store.add([make_job("a", tenant="few", priority=-4, deadline=130.0)])
    store.close()
    store = SqliteJobStore(path)
    (job,) = store.take(1)
    store.close()
    settings = ServerSettings(api_keys=("k",), tenants={"k": Tenant(name="few", weight=2.0)})
    terms = read_job_terms(job, settings, now=7.0, wall_now=110.0)
    assert terms == ServingTerms(priority=-4, tenant=Tenant(name="few", weight=2.0), deadline_at=27.0)
    assert terms.for_program(7.0).deadline_s == 20.0
    assert terms.for_program(40.0).deadline_s == pytest.approx(0.001)  # it has passed: not an error


def test_a_store_of_an_earlier_release_is_taken_up(tmp_path):
    path = tmp_path / "jobs.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(
            "CREATE TABLE jobs (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, batch TEXT, "
            "position INTEGER NOT NULL, created INTEGER NOT NULL, request TEXT NOT NULL, status TEXT NOT NULL, "
            "result TEXT, error TEXT, num_attempts INTEGER NOT NULL DEFAULT 0)"
        )
        db.execute(
            "INSERT INTO jobs (id, position, created, request, status) VALUES ('old', 0, 1, '{}', 'queued')"
        )
        db.commit()
    store = SqliteJobStore(path)
    (job,) = store.take(1)
    store.close()
    assert (job.id, job.tenant, job.priority, job.deadline) == ("old", "", 0, None)


def test_a_key_file_names_tenants_and_weights(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_DYNASOR_API_KEY", raising=False)
    path = tmp_path / "keys.txt"
    path.write_text("# keys\nalone\nfirst team 2.5\nsecond team 2.5\nthird other\n")
    found = ServerSettings(**read_api_keys(str(path)))
    assert found.api_keys == ("alone", "first", "second", "third")
    assert found.tenants == {
        "first": Tenant(name="team", weight=2.5),
        "second": Tenant(name="team", weight=2.5),
        "third": Tenant(name="other"),
    }
    assert found.find_weight("team") == 2.5
    assert found.find_weight("nobody") == 1.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("secret team heavy", r"Line 1 of .* is no key"),
        ("fine\nsecret team 0", r"Line 2 of .* is no key"),
        ("secret team 1 more", r"Line 1 of .* is no key"),
        ("a team 1\nb team 2", "two weights"),
        ("# nothing", "holds no API key"),
    ],
)
def test_a_broken_key_file_is_refused_without_showing_a_key(tmp_path, text, words):
    path = tmp_path / "keys.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        read_api_keys(str(path))
    assert "secret" not in str(caught.value)


def test_tenants_of_unknown_keys_are_refused():
    with pytest.raises(ConfigurationError, match="1 keys that are not among api_keys"):
        ServerSettings(api_keys=("a",), tenants={"b": Tenant(name="x")})
    with pytest.raises(ConfigurationError, match="above 0"):
        Tenant(name="x", weight=0.0)


@pytest.mark.parametrize("option", [["--timeout", "5"], ["--json"]])
def test_serve_takes_no_option_that_it_does_not_read(option, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["serve", *option])
    assert caught.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err


def test_the_metrics_tell_how_many_requests_of_a_program_run_together(loaded, model):
    engine, clock = open_engine(loaded, "gang", max_batch_requests=8)
    sizes = []
    engine.scheduling.on_plan = lambda now, plan: None
    with (
        engine,
        serve(create_app(engine, model)) as address,
        httpx.Client(base_url=address, timeout=60) as http,
    ):
        send = threading.Thread(target=ask, args=(http, "chat", 4))
        send.start()
        wait_until(lambda: engine.num_in_flight == 5)
        clock.turn = lambda: sizes.append(engine.scheduling.gang_size)
        clock.gate.set()
        send.join(60)
        page = http.get("/metrics").text
    assert max(sizes) == 4.0
    assert "hf_dynasor_gang_size " in page
    assert "hf_dynasor_starvation_raises 0.0" in page
