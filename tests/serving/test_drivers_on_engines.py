"""Drivers over real engines: one answer, whoever drives it, whatever runs beside it, however slow its sinks are."""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import hf_dynasor
from hf_dynasor.core import Event, Prompt
from hf_dynasor.drivers import arun, run, run_many
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.grants import AllocationPolicy, Answer
from hf_dynasor.program import ReasoningProgram
from hf_dynasor.recipe import Recipe
from hf_dynasor.serving import GenerateEngine, LoadedModel, load_model
from hf_dynasor.serving.local_engine import LocalEngine
from tests.serving.kit import Collector, ask

RECIPE = Recipe(budget=6, detect_at=3, seed=7, temperature=1.2, max_new_tokens=48)
QUESTIONS = [
    "What is 47+58-3*6?",
    "What is 2+3?",
    "What is 9*8-7?",
    "Tom has 12 apples and buys 7. How many?",
]


def see(answer: Answer) -> tuple[object, ...]:
    """What must not depend on the driver: everything but which prompt tokens happened to be in a cache."""
    return answer.text, answer.stop_reason, answer.votes, answer.certaindex, replace(answer.usage, cached=0)


@pytest.fixture
def engine(open_engine: Callable[..., LocalEngine], embedded: LoadedModel) -> LocalEngine:
    return open_engine(embedded)


def drive(engine: LocalEngine, question: str) -> tuple[object, ...]:
    return see(run(*pair(engine, question)))


def pair(engine: LocalEngine, question: str) -> tuple[ReasoningProgram, LocalEngine, AllocationPolicy]:
    program, policy = RECIPE.build(question)
    return program, engine, policy


def test_every_driver_gives_the_same_answer_votes_and_usage(engine: LocalEngine) -> None:
    """Alone, awaited, and among other programs that join and leave while it runs."""
    alone = [run(*pair(engine, question)) for question in QUESTIONS]
    assert any(len(answer.votes) > 1 for answer in alone)
    awaited = asyncio.run(arun(*pair(engine, QUESTIONS[0])))
    assert see(awaited) == see(alone[0])
    programs = (RECIPE.build(question) for question in QUESTIONS)
    outcomes = sorted(run_many(programs, engine, max_active=3), key=lambda outcome: outcome.index)
    together = [see(outcome.answer) for outcome in outcomes if outcome.answer]
    assert together == [see(answer) for answer in alone]


def test_two_threads_drive_one_engine(engine: LocalEngine) -> None:
    """Each gets what it would get alone; nothing of one reaches the other."""
    alone = [drive(engine, question) for question in QUESTIONS[:2]]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(partial(drive, engine), QUESTIONS[:2])) == alone


def test_a_slow_sink_holds_up_nobody_who_calls_the_engine(engine: LocalEngine) -> None:
    """The engine's thread waits for a sink; callers must not: the lock of the account is not held meanwhile."""
    gate, is_held, slow, quick = threading.Event(), threading.Event(), Collector(), Collector()

    def wait(event: Event) -> None:
        is_held.set()
        gate.wait(60)
        slow(event)

    prompt = Prompt.chat(QUESTIONS[0])
    engine.submit([ask(prompt, str(index), stream=True, max_new_tokens=10) for index in range(3)], wait)
    assert is_held.wait(60)
    start = time.monotonic()
    engine.submit([ask(prompt, "quick", max_new_tokens=10), ask(prompt, "not", max_new_tokens=10)], quick)
    engine.cancel([ask(prompt, "not").key])
    engine.check_health()
    assert engine.num_in_flight >= 4
    assert time.monotonic() - start < 30
    gate.set()
    done = [*slow.wait(3).values(), quick.wait(2)[ask(prompt, "quick").key]]
    assert len({item.token_ids for item in done}) == 1
    for key, item in slow.completions.items():
        assert "".join(delta.text for delta in slow.deltas[key]) == item.text


def test_closing_waits_for_a_sink_that_is_slow(engine: LocalEngine) -> None:
    collector = Collector()

    def sleep(event: Event) -> None:
        time.sleep(0.02)
        collector(event)

    requests = [ask(Prompt.chat("What is 2+3?"), str(i), stream=True, max_new_tokens=40) for i in range(5)]
    engine.submit(requests, sleep)
    collector.take()
    engine.close()
    assert len(collector.wait(5)) == 5
    time.sleep(0.1)
    assert collector.queue.empty()


def test_a_model_without_a_chat_template_names_the_fix(loaded: LoadedModel, tmp_path: Path) -> None:
    """It must be one clear error all the way up, and the fix that it names must work."""
    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.chat_template = None
    loaded.model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with (
        GenerateEngine(load_model(tmp_path, device="cpu")) as engine,
        pytest.raises(ConfigurationError, match="no chat template"),
    ):
        engine.submit([ask(Prompt.chat("2+3?"))], Collector())
    options = {"model": tmp_path, "device": "cpu", "budget": 1, "max_new_tokens": 4, "seed": 0}
    with pytest.raises(
        ConfigurationError, match=r"no chat template\. Use a plain prompt \(prompt_format='plain'"
    ):
        hf_dynasor.solve("What is 2+3?", **options)
    assert hf_dynasor.solve("What is 2+3?", prompt_format="plain", **options).usage.sampled > 0
