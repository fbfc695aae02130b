"""Runs watched streams on an engine and blocks until they have ended. Knows no rule and no token."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence

from hf_dynasor.core import Cancel, Command, Completion, Event, RequestKey
from hf_dynasor.engine import Engine
from hf_dynasor.errors import EngineTimeoutError
from hf_dynasor.stopping.watcher import StreamWatch


def run_watches(
    engine: Engine, watches: Sequence[StreamWatch], *, timeout: float = 600.0
) -> list[Completion]:
    """Runs watched requests together and blocks until each has its completion.

    Args:
        engine: An engine that streams and takes prompts of ids.
        watches: Fresh watches with keys of their own.
        timeout: Seconds without any event after which the engine is given up.

    Returns:
        The completions, in the order of the watches.

    Raises:
        EngineTimeoutError: Nothing came for `timeout` seconds.
        UnsupportedError: The engine does not stream.
    """
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    owners: dict[RequestKey, StreamWatch] = {}

    def send(watch: StreamWatch, commands: Sequence[Command]) -> None:
        for command in commands:
            if isinstance(command, Cancel):
                engine.cancel(command.keys)
            else:
                owners[command.key] = watch
                engine.submit([command], events.put)

    try:
        for watch in watches:
            send(watch, watch.start())
        while any(watch.completion is None for watch in watches):
            event = _wait(engine, events, timeout)
            send(owners[event.key], owners[event.key].receive(event))
    finally:
        engine.cancel(tuple(owners))
    return [watch.completion for watch in watches if watch.completion is not None]


def _wait(engine: Engine, events: queue.SimpleQueue[Event], timeout: float) -> Event:
    deadline = time.monotonic() + timeout
    while True:
        try:
            return events.get(timeout=min(1.0, timeout))
        except queue.Empty:
            engine.check_health()
            if time.monotonic() >= deadline:
                raise EngineTimeoutError(f"No event from {engine.name} within {timeout:g} s.") from None
