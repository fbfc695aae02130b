"""A request moves the counters that it should, and no other."""

from __future__ import annotations

import threading
import time

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from hf_dynasor.serving.http.app import create_app
from hf_dynasor.serving.http.settings import ServerSettings
from tests.serving.http.kit import serve

MESSAGES = [{"role": "user", "content": "What is 17*6+4?"}]


@pytest.fixture
def fresh(engine, model):
    """A server of its own, whose counters begin at 0."""
    settings = ServerSettings(max_body_bytes=10_000)
    with serve(create_app(engine, model, settings)) as address, httpx.Client(base_url=address) as http:
        http.timeout = 60
        yield http


def read(http):
    families = text_string_to_metric_families(http.get("/metrics").text)
    return {
        (sample.name.removeprefix("hf_dynasor_"), *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_created"))
    }


def chat(http, **options):
    return http.post("/v1/chat/completions", json={"messages": MESSAGES, "temperature": 0} | options)


def test_a_good_request_counts_its_tokens_times_and_reason(fresh):
    before = read(fresh)
    usage = chat(fresh, max_tokens=6).json()["usage"]
    after = read(fresh)
    assert after["prompt_tokens_total",] - before["prompt_tokens_total",] == usage["prompt_tokens"]
    assert after["generation_tokens_total",] - before["generation_tokens_total",] == 6
    assert after["request_success_total", "length"] == 1
    assert ("request_success_total", "stop") not in after
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds"):
        assert after[f"{name}_count",] == 1
    assert after["request_generation_tokens_sum",] == 6
    assert after["num_requests_running",] == after["num_requests_waiting",] == 0


def test_a_stream_times_every_token(fresh):
    chat(fresh, max_tokens=6, stream=True, ignore_eos=True)
    after = read(fresh)
    assert after["time_to_first_token_seconds_count",] == 1
    assert after["inter_token_latency_seconds_count",] >= 2


def test_a_program_counts_its_stop_and_what_it_saved(fresh):
    options = {"program": "self_consistency", "budget": 10}
    reply = chat(fresh, temperature=0.7, seed=3, dynasor=options).json()
    after = read(fresh)
    assert after["program_latency_seconds_count", "self_consistency"] == 1
    assert after["program_stops_total", "self_consistency", reply["dynasor"]["stop_reason"]] == 1
    assert after["program_units_sum", "self_consistency"] == reply["dynasor"]["units_spent"]
    assert after["saved_tokens_total",] == reply["usage"]["dynasor"]["saved_tokens"]
    assert after["certaindex_at_stop_sum", "entropy"] == pytest.approx(
        reply["dynasor"]["certaindex"]["entropy"]
    )


def test_a_refused_request_generates_nothing(fresh):
    assert chat(fresh, temperature=-1).status_code == 400
    assert fresh.post("/v1/chat/completions", content=b"x" * 10_001).status_code == 413
    after = read(fresh)
    assert after["generation_tokens_total",] == 0
    assert after["e2e_request_latency_seconds_count",] == 0


def wait_for_load(http, **expected):
    deadline = time.monotonic() + 30
    while not expected.items() <= (load := http.get("/load").json()).items():
        assert time.monotonic() < deadline, load
        time.sleep(0.02)


def test_a_full_queue_refuses_whole_answers_and_streams_alike_and_is_counted(engine, model):
    settings = ServerSettings(max_running=1, max_waiting=1)
    body = {"messages": MESSAGES, "temperature": 2.0, "max_tokens": 1500, "ignore_eos": True, "stream": True}
    with serve(create_app(engine, model, settings)) as address, httpx.Client(base_url=address) as http:
        with http.stream("POST", "/v1/chat/completions", json=body) as running:
            assert running.status_code == 200
            waiting = threading.Thread(
                target=http.post, args=("/v1/chat/completions",), kwargs={"json": body, "timeout": 60}
            )
            body["max_tokens"] = 2
            waiting.start()
            wait_for_load(http, num_running=1, num_waiting=1)
            for path, more in (
                ("chat/completions", {}),
                ("chat/completions", {"stream": False}),
                ("chat/completions", {"temperature": 1, "dynasor": {"budget": 2}, "ignore_eos": None}),
            ):
                refused = http.post(f"/v1/{path}", json=body | more)
                assert refused.status_code == 429, refused.text
                assert int(refused.headers["retry-after"]) >= 1
            refused = http.post("/v1/completions", json={"prompt": "1+1=", "stream": True})
            assert refused.status_code == 429
            refused = http.post("/v1/responses", json={"input": "1+1=", "stream": True})
            assert refused.status_code == 429
        waiting.join(30)
        wait_for_load(http, num_running=0, num_waiting=0)
        after = read(http)
    assert after["admission_rejections_total", "rate_limit_exceeded"] == 5
    assert after["request_success_total", "length"] == 1
    assert after["request_failure_total", "cancelled"] == 1
