"""Through a proxy that breaks things: answers or one clear error, bounded retries, nothing asked for twice that was answered."""

from __future__ import annotations

import logging

import pytest

from hf_dynasor.errors import EngineError, ProgramError
from hf_dynasor.serving.remote import Bounds, RetryPolicy
from hf_dynasor.serving.solver import Solver
from tests.serving.http.kit import serve
from tests.serving.remote.kit import QUICK, Fault, FaultProxy, choose_randomly, open_engine

QUESTIONS = [f"What is {number}*3+4?" for number in range(10)]
BROKEN = [Fault.TOO_MANY, Fault.INTERNAL, Fault.DROPPED, Fault.CUT, Fault.TRUNCATED]


@pytest.fixture(autouse=True)
def _quiet():
    logging.getLogger("uvicorn.error").setLevel(
        logging.CRITICAL
    )  # it reports what the proxy breaks on purpose
    yield
    logging.getLogger("uvicorn.error").setLevel(logging.NOTSET)


def check_log(proxy, max_attempts):
    """Nothing goes out again once it was answered, and nothing more often than allowed."""
    attempts = proxy.list_attempts()
    for entries in attempts.values():
        assert len(entries) <= max_attempts
        assert [entry.was_answered for entry in entries[:-1]] == [False] * (len(entries) - 1)
    return attempts


def solve_all(engine, questions=QUESTIONS, **recipe):
    return {item.index: item for item in Solver(engine, **recipe).solve_many(questions)}


@pytest.mark.parametrize("program", ["self_consistency", "chain_of_thought"])
def test_programs_come_to_the_same_answers_though_half_of_the_answers_break(address, local, program):
    """Shares of faults are drawn with a fixed seed; 6 attempts all break with probability 0.5 ** 6 each."""
    recipe = {"program": program, "seed": 1, "budget": 4 if program == "self_consistency" else 200}
    shares = dict.fromkeys(BROKEN, 0.1) | {Fault.LATENCY: 0.05}
    proxy = FaultProxy(address, choose_randomly(4, shares), latency_s=0.05)
    with (
        serve(proxy.app) as broken,
        open_engine(
            f"{broken}/v1",
            tokenizer="embedded",
            retries=RetryPolicy(max_attempts=12, base_s=0.01, max_delay_s=0.02),
        ) as engine,
    ):
        there = solve_all(engine, **recipe)
        assert engine.num_retries > 10
        assert engine.num_sent == len(proxy.log)
    check_log(proxy, 12)
    assert {entry.fault for entry in proxy.log} == set(Fault)
    here = solve_all(local, **recipe)
    assert {index: item.answer.text for index, item in there.items()} == {
        index: item.answer.text for index, item in here.items()
    }


@pytest.mark.parametrize("fault", BROKEN, ids=lambda fault: fault.name)
def test_where_everything_breaks_each_program_ends_in_one_clear_error(address, fault):
    proxy = FaultProxy(address, lambda: fault)
    with serve(proxy.app) as broken, open_engine(f"{broken}/v1", tokenizer="embedded") as engine:
        outcomes = solve_all(engine, QUESTIONS[:3], budget=2, seed=0)
    assert sorted(outcomes) == [0, 1, 2]
    for outcome in outcomes.values():
        assert isinstance(outcome.error, ProgramError)
        assert "6 attempts" in str(outcome.error)
    attempts = check_log(proxy, QUICK.max_attempts)
    assert {len(entries) for entries in attempts.values()} == {QUICK.max_attempts}


def test_a_program_goes_on_without_a_sample_that_broke_for_good(address):
    faults = iter([Fault.INTERNAL] * 2)
    proxy = FaultProxy(address, lambda: next(faults, Fault.NONE))
    once = RetryPolicy(max_attempts=1)
    with (
        serve(proxy.app) as broken,
        open_engine(f"{broken}/v1", tokenizer="embedded", retries=once) as engine,
    ):
        answer = Solver(engine, budget=5, seed=0).solve("What is 2+3?")
    assert (answer.text, answer.num_failed) == ("5", 2)
    check_log(proxy, 1)


def test_a_server_that_goes_away_ends_the_run_with_its_cause(address):
    proxy = FaultProxy(address, lambda: Fault.NONE)
    with serve(proxy.app) as broken:
        engine = open_engine(f"{broken}/v1", tokenizer="embedded")
    with engine, pytest.raises(EngineError, match="does not answer"):
        Solver(engine, budget=4, seed=0).solve("What is 2+3?")


def test_a_silent_server_is_given_up_after_its_time(address):
    proxy = FaultProxy(address, lambda: Fault.LATENCY, latency_s=1.5)
    bounds, few = Bounds(connect_s=5.0, silence_s=0.2), RetryPolicy(max_attempts=2, base_s=0.01)
    with (
        serve(proxy.app) as broken,
        open_engine(f"{broken}/v1", tokenizer="embedded", bounds=bounds, retries=few) as engine,
    ):
        with pytest.raises(ProgramError, match="fell silent"):
            Solver(engine, budget=2, seed=0).solve("What is 2+3?")
        assert engine.num_sent == 4
