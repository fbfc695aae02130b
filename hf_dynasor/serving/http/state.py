"""What handlers share: the engine, the model, room, running requests. One object for each app."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hf_dynasor.clock import Clock
from hf_dynasor.engine import Engine
from hf_dynasor.errors import EngineError, HFDynasorError
from hf_dynasor.serving.http.branches import Switch
from hf_dynasor.serving.http.bridge import Admission, Channel, EventPump
from hf_dynasor.serving.http.errors import ApiError, unavailable
from hf_dynasor.serving.http.metrics import Metrics, RequestLife
from hf_dynasor.serving.http.model_info import ServedModel
from hf_dynasor.serving.http.settings import ServerSettings
from hf_dynasor.serving.http.terms import ServingTerms

if TYPE_CHECKING:
    from hf_dynasor.serving.http.tracing import RunSpans, Tracer

_serials = itertools.count()


@dataclass(slots=True, kw_only=True)
class ServerState:
    """The parts of one server. Only the event loop touches it.

    Args:
        settings: Limits and defaults.
        engine: Where requests go.
        model: What is served.
        clock: Time, for limits and measurements.
        admission: Room.
        pump: Brings the engine's events into the loop.
        metrics: What is measured.
        switches: Running chat completions whose thinking can be ended, by id.
        reading: Held while prompts are read for their log-probabilities.
        is_draining: Whether the server takes no more requests.
        tracer: Makes spans; `None` for none.
    """

    settings: ServerSettings
    engine: Engine
    model: ServedModel
    clock: Clock
    admission: Admission
    pump: EventPump
    metrics: Metrics
    switches: dict[str, Switch] = field(default_factory=dict)
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    is_draining: bool = False
    tracer: Tracer | None = None

    @property
    def is_ready(self) -> bool:
        """Whether requests are taken."""
        try:
            self.check_ready()
        except ApiError:
            return False
        return True

    def watch_program(self, name: str, program_id: str) -> RunSpans | None:
        """Where a program is traced, under the span that is current; `None` for nowhere."""
        return self.tracer.watch(name, program_id) if self.tracer is not None else None

    def check_ready(self) -> None:
        """Raise 503 where the server drains or its engine is dead."""
        if self.is_draining:
            raise unavailable("The server is shutting down and takes no more requests.", retry_after_s=5)
        try:
            self.engine.check_health()
        except EngineError as error:
            raise unavailable(str(error)) from None

    @asynccontextmanager
    async def open_channel(self, units: int, terms: ServingTerms) -> AsyncIterator[Channel]:
        """Wait for room, then a channel to the engine; both are given back at the end.

        How it went is told to the metrics: whoever uses the channel tells them a good end.
        """
        life = RequestLife(self.metrics, self.clock)
        try:
            self.check_ready()
            async with self.admission.admit(units, priority=terms.priority):
                self.check_ready()
                life.note_admission()
                channel = Channel(self.engine, self.pump, life, self.tracer)
                try:
                    yield channel
                finally:
                    channel.close()
        except ApiError as error:
            kind = self.metrics.admission_rejections if error.status == 429 else self.metrics.request_failure
            kind.labels(error.code or str(error.status)).inc()
            raise
        except HFDynasorError as error:
            life.fail(type(error).__name__)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            life.fail("cancelled")
            raise


def count_ids_from(first: int) -> None:
    """Have the names that `make_id` gives count from here: processes that answer as one server start apart."""
    global _serials
    _serials = itertools.count(first)


def make_id(prefix: str) -> str:
    """A name for a request, unique in the process; the engine's own name for it too, so clients' ids may repeat."""
    return f"{prefix}-{next(_serials):x}"
