"""Traces by the standard environment variables of OpenTelemetry; imports nothing of it where none are wanted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hf_dynasor.errors import MissingExtraError

if TYPE_CHECKING:
    from hf_dynasor.serving.http.tracing import Tracer

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def is_wanted() -> bool:
    """Whether the environment names a place where traces go to, by OTLP."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "otlp")
    return exporter == "otlp" and any(os.environ.get(name) for name in _ENDPOINTS)


@contextmanager
def open_tracer() -> Iterator[Tracer | None]:
    """A tracer where one is wanted, else `None`; what it has not sent yet is sent at the end.

    Raises:
        MissingExtraError: One is wanted and OpenTelemetry is not there.
    """
    if not is_wanted():
        yield None
        return
    try:
        provider = _make_provider()
        from hf_dynasor.serving.http.tracing import Tracer
    except ImportError as error:
        raise MissingExtraError(
            f"Traces need the package {error.name!r}: pip install 'hf-dynasor[otel]', or unset {_ENDPOINTS[0]}."
        ) from None
    try:
        yield Tracer(provider)
    finally:
        provider.shutdown()


def _make_provider() -> Any:
    """Sends spans by OTLP over HTTP; address, headers, sampling and resource are read from the environment."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = os.environ.get("OTEL_SERVICE_NAME", "hf_dynasor")
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
