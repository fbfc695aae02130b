"""Engines show that they are at work, however slow: drivers wait for those and give up on silent ones."""

from __future__ import annotations

import time

from hf_dynasor.engine import ReportsProgress
from hf_dynasor.serving.local_engine import LocalEngine
from tests.serving.kit import ask, complete

PREFILL_OPTIONS = {
    "generate(tiny)": {"max_prefill_tokens": 150},
    "continuous(tiny)": {"max_batch_tokens": 32},
}


def test_progress_grows_with_every_token_and_stands_still_when_idle(engine: LocalEngine) -> None:
    assert isinstance(engine, ReportsProgress)
    assert engine.progress == 0
    complete(engine, ask("abc", max_new_tokens=20))
    assert engine.progress >= engine.num_tokens_drawn >= 20
    before = engine.progress
    time.sleep(0.1)
    assert engine.progress == before


def test_progress_grows_while_prompts_are_computed(open_engine) -> None:  # type: ignore[no-untyped-def]
    """Drivers took an engine for stuck while it was still reading a long prompt: only drawn tokens counted."""
    engine = open_engine(**PREFILL_OPTIONS[open_engine().name])
    prompts = [[3 + (7 * index + shift) % 200 for index in range(150)] for shift in range(5)]
    complete(engine, *(ask(ids, str(index), max_new_tokens=1) for index, ids in enumerate(prompts)))
    assert engine.num_tokens_drawn == 5
    assert engine.progress >= 5 + (5 * 150 // 32 - 5 if "continuous" in engine.name else 0)
