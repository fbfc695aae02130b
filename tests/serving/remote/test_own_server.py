"""Against our own server: the same answers, tokens and accounts as in process, and its neighbours' too."""

from __future__ import annotations

import time

import httpx
import pytest

from hf_dynasor.core import FinishReason, Prompt
from hf_dynasor.errors import UnsupportedError
from hf_dynasor.serving.solver import Solver
from tests.serving.kit import Collector, ask, complete
from tests.serving.remote.kit import open_engine

QUESTION = "What is 17*6+4?"
RECIPES = {
    "self_consistency": {"budget": 8, "seed": 3, "temperature": 1.0},
    "certainty_vote": {"budget": 6, "seed": 3, "temperature": 1.0, "program_options": {"vote": "certainty"}},
    "rebase": {"program": "rebase", "budget": 6, "seed": 1},
    **{
        f"chain_{mode}": {
            "program": "chain_of_thought",
            "seed": 3,
            "budget": 300,
            "enable_thinking": True,
            "program_options": {"mode": mode},
        }
        for mode in ("plain", "probed", "guided", "cut")
    },
}


@pytest.fixture(params=["auto", "embedded"])
def engine(request, address):
    with open_engine(f"{address}/v1", tokenizer=request.param) as engine:
        assert engine.found.dialect.name == "hf_dynasor"
        yield engine


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_program_comes_to_the_same_end_as_in_process(engine, local, name):
    """Token for token: answers, votes, certaindex, stops and net tokens; only how much was cached may differ."""
    here = Solver(local, **RECIPES[name]).solve(QUESTION)
    there = Solver(engine, **RECIPES[name]).solve(QUESTION)
    assert there.text == here.text is not None
    assert (there.stop_reason, there.explanation) == (here.stop_reason, here.explanation)
    assert [text for text, _ in there.votes] == [text for text, _ in here.votes]
    assert [weight for _, weight in there.votes] == pytest.approx(
        [weight for _, weight in here.votes], abs=1e-4
    )
    assert there.certaindex.signals == pytest.approx(here.certaindex.signals, abs=1e-4)
    assert (there.usage.net_tokens, there.usage.prompt) == (here.usage.net_tokens, here.usage.prompt)
    assert engine.num_retries == 0
    assert engine.is_counted_by_server


@pytest.mark.parametrize("stream", [False, True])
def test_a_completion_is_the_same_in_every_field(engine, local, stream):
    request = ask(
        Prompt.chat(QUESTION), stream=stream, temperature=1.0, seed=5, logprobs=True, max_new_tokens=60
    )
    here, there = complete(local, request)[0], complete(engine, request)[0]
    assert (there.text, there.token_ids, there.finish_reason) == (
        here.text,
        here.token_ids,
        here.finish_reason,
    )
    assert there.logprobs == pytest.approx(here.logprobs, abs=1e-3)
    assert there.offsets == here.offsets
    assert there.usage.sampled == here.usage.sampled


@pytest.mark.parametrize("stop", [("=",), ("nothing of the kind",), ("106", "=")])
def test_stop_strings_and_ends_of_turns_are_told_apart(engine, local, stop):
    request = ask(Prompt.chat(QUESTION), stop=stop, max_new_tokens=60)
    here, there = complete(local, request)[0], complete(engine, request)[0]
    assert (there.finish_reason, there.text, there.token_ids) == (
        here.finish_reason,
        here.text,
        here.token_ids,
    )


def test_without_any_tokenizer_samples_are_the_same_and_chains_are_refused(address, local):
    with open_engine(f"{address}/v1", tokenizer=None) as engine:
        recipe = RECIPES["self_consistency"]
        assert Solver(engine, **recipe).solve(QUESTION).votes == Solver(local, **recipe).solve(QUESTION).votes
        with pytest.raises(UnsupportedError, match="tokenizer"):
            Solver(engine, **RECIPES["chain_probed"]).solve(QUESTION)


def test_a_cancelled_request_ends_on_the_server(engine, address):
    collector = Collector()
    requests = [
        ask(Prompt.chat(QUESTION), f"r{n}", stream=True, ignore_eos=True, max_new_tokens=1500)
        for n in range(3)
    ]
    engine.submit(requests, collector)
    collector.take()
    assert httpx.get(f"{address}/load").json()["num_running"] >= 1
    engine.cancel([request.key for request in requests])
    done = collector.wait(3)
    assert {item.finish_reason for item in done.values()} == {FinishReason.CANCELLED}
    deadline = time.monotonic() + 30
    while httpx.get(f"{address}/load").json()["num_running"]:
        assert time.monotonic() < deadline, "the server still runs what was cancelled"
        time.sleep(0.05)


def test_many_programs_share_few_connections(engine, local):
    recipe = {"budget": 4, "seed": 0}
    questions = [f"What is {number}*3+4?" for number in range(6)]
    there = {item.index: item.answer.text for item in Solver(engine, **recipe).solve_many(questions)}
    here = {item.index: item.answer.text for item in Solver(local, **recipe).solve_many(questions)}
    assert there == here
    assert engine.worker.most_in_flight <= 32
