"""OpenTelemetry traces: a request, its program, the program's grants, and the engine's requests under them.

Nothing here is imported unless traces are wanted; without a tracer the server holds `None` and asks once per request.
"""

from __future__ import annotations

import threading
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hf_dynasor import __version__
from hf_dynasor.core import Completion, FinishReason, Request, RequestKey, Usage
from hf_dynasor.grants import Answer, GrantRecord

TRACED_PREFIX = "/v1/"


class Tracer:
    """Makes the spans of one server.

    Args:
        provider: Where they go; the caller shuts it down.
    """

    def __init__(self, provider: Any) -> None:
        self.tracer: trace.Tracer = provider.get_tracer("hf_dynasor", __version__)

    def watch(self, program: str | None = None, program_id: str | None = None) -> RunSpans:
        """The spans of one run of the engine under the span that is current now: a program's, or plain requests'."""
        return RunSpans(self.tracer, program, program_id)


class TraceRequests:
    """Gives each request of the API a span, the caller's own (`traceparent`) above it."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app, self._tracer = app, tracer.tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; the span ends with its answer's last byte."""
        if scope["type"] != "http" or not scope["path"].startswith(TRACED_PREFIX):
            await self._app(scope, receive, send)
            return
        parent = propagate.extract(dict(Headers(scope=scope)))
        name = f"{scope['method']} {scope['path']}"
        attributes = {"http.request.method": scope["method"], "url.path": scope["path"]}
        with self._tracer.start_as_current_span(
            name, context=parent, kind=SpanKind.SERVER, attributes=attributes
        ) as span:
            span.set_attribute("hf_dynasor.request_id", str(scope.get("state", {}).get("request_id", "")))

            async def send_noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        span.set_status(Status(StatusCode.ERROR))
                await send(message)

            await self._app(scope, receive, send_noted)


class RunSpans:
    """A program's span with its grants' under it, and under each grant the engine's requests; from any thread.

    A grant's span begins with its first request and ends with its reading. Plain requests have no program.

    Args:
        tracer: Makes spans.
        program: The program's name; `None` for plain requests.
        program_id: Its own id.
    """

    def __init__(self, tracer: trace.Tracer, program: str | None, program_id: str | None) -> None:
        self._tracer, self._lock = tracer, threading.Lock()
        self._requests: dict[RequestKey, trace.Span] = {}
        self._grant: trace.Span | None = None
        self._program: trace.Span | None = None
        self._parent = trace.set_span_in_context(trace.get_current_span())
        if program is not None:
            attributes = {"hf_dynasor.program": program, "hf_dynasor.program_id": program_id or ""}
            self._program = tracer.start_span(f"program {program}", self._parent, attributes=attributes)
            self._parent = trace.set_span_in_context(self._program)

    def begin(self, requests: tuple[Request, ...] | list[Request]) -> None:
        """Requests go to the engine."""
        with self._lock:
            if self._program is not None and self._grant is None:
                self._grant = self._tracer.start_span("grant", self._parent)
            context = self._parent if self._grant is None else trace.set_span_in_context(self._grant)
            for request in requests:
                kind = type(request).__name__.lower()
                attributes = {"hf_dynasor.request": request.key.request_id}
                span = self._tracer.start_span(f"engine {kind}", context, attributes=attributes)
                self._requests[request.key] = span

    def end_request(self, completion: Completion) -> None:
        """One has ended."""
        with self._lock:
            span = self._requests.pop(completion.key, None)
        if span is None:
            return
        span.set_attribute("gen_ai.response.finish_reasons", [completion.finish_reason.value])
        _note_usage(span, completion.usage)
        if completion.finish_reason is FinishReason.FAILED:
            span.set_status(Status(StatusCode.ERROR, completion.error))
        span.end()

    def end_grant(self, record: GrantRecord) -> None:
        """A grant was spent and read."""
        with self._lock:
            span, self._grant = self._grant, None
        span = span or self._tracer.start_span("grant", self._parent)
        span.set_attributes({"hf_dynasor.units": record.units, "hf_dynasor.units_total": record.total})
        for name, value in record.certaindex.signals.items():
            span.set_attribute(f"hf_dynasor.certaindex.{name}", value)
        span.end()

    def end(self, answer: Answer | None = None) -> None:
        """It is over; without an answer something went wrong, or the client went away. Safe to call twice."""
        with self._lock:
            left = [*self._requests.values(), *([self._grant] if self._grant is not None else [])]
            program, self._program = self._program, None
            self._requests, self._grant = {}, None
        for span in left:
            span.end()
        if program is None:
            return
        if answer is None:
            program.set_status(Status(StatusCode.ERROR, "ended without an answer"))
        else:
            program.set_attribute("hf_dynasor.stop_reason", answer.stop_reason.value)
            program.set_attribute("hf_dynasor.units", answer.units_spent)
            _note_usage(program, answer.usage)
        program.end()


def _note_usage(span: trace.Span, usage: Usage) -> None:
    span.set_attribute("gen_ai.usage.input_tokens", usage.prompt)
    span.set_attribute("gen_ai.usage.output_tokens", usage.sampled + usage.forced)
    if usage.probe:
        span.set_attribute("hf_dynasor.probe_tokens", usage.probe)
