"""Beginnings that are kept for later requests: the longest unused go first, and only as many as are needed."""

from __future__ import annotations

from hf_dynasor.serving import ContinuousBatchingEngine, LoadedModel
from tests.serving.kit import ask, complete
from tests.serving.test_continuous_engine import wait_until_free

PAGE = 16


def prompt(number, pages=6):
    """Tokens that begin like no other number's."""
    return [3 + (number * 31 + place * 7) % 200 for place in range(pages * PAGE + 1)]


def find_kept(engine, number):
    """How many tokens of a prompt are found, by asking for it."""
    (completion,) = complete(engine, ask(prompt(number), f"look{number}-{engine.progress}", max_new_tokens=1))
    return completion.usage.cached


def test_under_pressure_the_longest_unused_beginning_goes_and_the_others_stay(loaded: LoadedModel) -> None:
    """60 pages: six beginnings of six pages fill them to the margin; the seventh needs the room of one."""
    with ContinuousBatchingEngine(loaded, num_blocks=60, page_size=PAGE) as engine:
        for number in range(8):
            complete(engine, ask(prompt(number), f"fill{number}", max_new_tokens=2))
        complete(
            engine, ask(prompt(2), "again", max_new_tokens=2)
        )  # used last, though not asked for last at first
        for number in (8, 9):
            complete(engine, ask(prompt(number), f"more{number}", max_new_tokens=2))
        kept = {number: find_kept(engine, number) for number in (9, 8, 2, 7)}
        assert all(tokens >= 5 * PAGE for tokens in kept.values()), kept
        assert find_kept(engine, 0) < 5 * PAGE
        assert wait_until_free(engine).free == 60


def test_a_beginning_that_goes_in_part_loses_its_end(loaded: LoadedModel) -> None:
    with ContinuousBatchingEngine(loaded, num_blocks=60, page_size=PAGE) as engine:
        complete(engine, ask(prompt(0, pages=20), "long", max_new_tokens=2))
        for number in range(1, 8):
            complete(engine, ask(prompt(number), f"fill{number}", max_new_tokens=2))
        (completion,) = complete(engine, ask(prompt(0, pages=20), "look", max_new_tokens=1))
        assert 0 < completion.usage.cached < 20 * PAGE
