"""Once nothing runs, the loop gives memory back; what comes afterwards is answered as before."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from hf_dynasor.serving import ContinuousBatchingEngine, LoadedModel
from hf_dynasor.serving._transformers_internals.idle import IdleBell, trim_heap
from tests.serving.kit import ask, complete


def test_the_bell_tells_once_of_each_quiet_time() -> None:
    told: list[None] = []
    bell = IdleBell(lambda: told.append(None))
    for _ in range(12):
        assert not bell.wait(0)
    assert len(told) == 1
    bell.set()
    assert bell.wait(0)
    bell.clear()
    for _ in range(4):
        bell.wait(0)
    assert len(told) == 1
    bell.wait(0)
    assert len(told) == 2


def test_it_wakes_who_waits() -> None:
    bell = IdleBell(lambda: None)
    threading.Timer(0.01, bell.set).start()
    assert bell.wait(30)


def test_memory_is_given_back_where_the_system_can(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    libraries = [SimpleNamespace(malloc_trim=asked.append), SimpleNamespace()]
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("ctypes.CDLL", lambda _: libraries.pop(0))
    trim_heap()
    assert asked == [0]
    trim_heap()  # a C library without it
    assert asked == [0]
    assert not libraries


def test_rows_are_freed_when_nothing_runs_and_made_again(loaded: LoadedModel) -> None:
    with ContinuousBatchingEngine(loaded, num_blocks=60) as engine:
        arena = engine._paged.loop._processor.cache.hf_dynasor_arena
        sizes: list[int] = []
        clear, arena.clear = arena.clear, lambda: (sizes.append(arena.num_tokens), clear())
        first, second = (_ask_and_wait(engine, name, sizes, arena) for name in ("first", "second"))
    assert first == second
    assert max(sizes) > 0  # there was something to free


def _ask_and_wait(
    engine: ContinuousBatchingEngine, name: str, sizes: list[int], arena: Any
) -> tuple[int, ...]:
    (completion,) = complete(engine, ask(list(range(3, 20)), name, max_new_tokens=8))
    deadline = time.monotonic() + 30
    while (not sizes or arena.num_tokens) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sizes
    assert not arena.num_tokens
    return completion.token_ids
