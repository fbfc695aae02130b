"""Traces of a real server on loopback, kept in memory: who stands under whom, and whose trace it is."""

from __future__ import annotations

import subprocess
import sys
import time

import httpx
import pytest

from hf_dynasor.errors import MissingExtraError
from hf_dynasor.serving import make_engine
from hf_dynasor.serving.http.app import create_app
from hf_dynasor.serving.http.tracing_setup import is_wanted, open_tracer
from tests.serving.http.kit import serve

pytest.importorskip("opentelemetry.sdk", reason="needs the extra otel")

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
QUESTION = {"messages": [{"role": "user", "content": "What is 12+30?"}], "max_tokens": 40, "seed": 1}


@pytest.fixture(scope="module")
def spans():
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    return InMemorySpanExporter()


@pytest.fixture(scope="module")
def traced(loaded, model, spans):
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    from hf_dynasor.serving.http.tracing import Tracer

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    with (
        make_engine(loaded, engine="continuous") as engine,
        serve(create_app(engine, model, tracer=Tracer(provider))) as address,
        httpx.Client(base_url=address, timeout=60) as http,
    ):
        yield http
    provider.shutdown()


def _ask(http, spans, **fields):
    """Send a chat completion; the spans of its trace once the request's own has ended, by name."""
    spans.clear()
    reply = http.post("/v1/chat/completions", json=QUESTION | fields, headers={"traceparent": CALLER})
    deadline = time.monotonic() + 10
    while not any(span.name.startswith("POST") for span in spans.get_finished_spans()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return reply, spans.get_finished_spans()


def _parents(finished):
    names = {span.context.span_id: span.name for span in finished}
    return {(span.name, names.get(span.parent.span_id, "caller")) for span in finished}


@pytest.mark.parametrize("stream", [False, True])
def test_a_completion_is_a_request_over_an_engine_request_in_the_callers_trace(traced, spans, stream) -> None:
    reply, finished = _ask(traced, spans, stream=stream)
    assert reply.status_code == 200
    request = "POST /v1/chat/completions"
    assert _parents(finished) == {(request, "caller"), ("engine generate", request)}
    assert {f"{span.context.trace_id:032x}" for span in finished} == {CALLER.split("-")[1]}
    by_name = {span.name: span for span in finished}
    assert by_name[request].attributes["http.response.status_code"] == 200
    assert by_name[request].attributes["hf_dynasor.request_id"] == reply.headers["x-request-id"]
    assert by_name["engine generate"].attributes["gen_ai.usage.output_tokens"] > 0


def test_a_program_stands_between_with_its_grants_and_each_sample_under_a_grant(traced, spans) -> None:
    reply, finished = _ask(traced, spans, dynasor={"program": "self_consistency", "budget": 10})
    assert reply.status_code == 200
    request, program = "POST /v1/chat/completions", "program self_consistency"
    assert _parents(finished) == {
        (request, "caller"), (program, request), ("grant", program), ("engine generate", "grant"),
    }  # fmt: skip
    told = reply.json()["dynasor"]
    grants = [span for span in finished if span.name == "grant"]
    assert sum(span.attributes["hf_dynasor.units"] for span in grants) == told["units_spent"]
    assert sum(span.name == "engine generate" for span in finished) == told["units_spent"]
    (ended,) = (span for span in finished if span.name == program)
    assert ended.attributes["hf_dynasor.stop_reason"] == told["stop_reason"]
    assert all(span.end_time >= span.start_time for span in finished)


def test_a_refused_request_has_its_span_and_nothing_under_it(traced, spans) -> None:
    reply, finished = _ask(traced, spans, tools=[])
    assert reply.status_code == 400
    assert [span.attributes["http.response.status_code"] for span in finished] == [400]


def test_without_the_variables_nothing_of_opentelemetry_is_imported(monkeypatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    code = (
        "import sys, hf_dynasor.serving.http.app, hf_dynasor.serving.http.tracing_setup as setup\n"
        "with setup.open_tracer() as tracer: assert tracer is None\n"
        "assert not any(name.startswith('opentelemetry.sdk') for name in sys.modules), 'imported'\n"
        "assert 'hf_dynasor.serving.http.tracing' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_standard_variables_switch_it_on_and_off(monkeypatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    assert is_wanted()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert not is_wanted()
    monkeypatch.delenv("OTEL_TRACES_EXPORTER")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert not is_wanted()


def test_a_missing_package_is_named_with_the_extra(monkeypatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(MissingExtraError, match=r"hf-dynasor\[otel\]"), open_tracer():
        pass
