"""The very run once more: completions in the order in which they came."""

from __future__ import annotations

import pytest

from hf_dynasor.core import Completion, FinishReason, Generate, Prompt, RequestKey, Usage
from hf_dynasor.embedded.problems import generate_problems
from hf_dynasor.errors import InputError
from hf_dynasor.evaluation import Question
from hf_dynasor.evaluation.records import RecordedCompletion, read_program_traces
from hf_dynasor.evaluation.replay import ReplayEngine, replay_answer
from hf_dynasor.evaluation.report_on import PLANS, Job, make_run
from hf_dynasor.evaluation.run_folder import TRACE_FILE
from hf_dynasor.recipe import Recipe
from hf_dynasor.scheduler import Even
from hf_dynasor.serving import make_engine

PROMPT = Prompt.plain("What is 1+1?")


def make_request(name: str) -> Generate:
    return Generate(key=RequestKey(program_id="p", request_id=name), prompt=PROMPT)


def make_record(*names: str) -> dict[str, RecordedCompletion]:
    completion = Completion(
        key=RequestKey(program_id="p", request_id="any"),
        text="2",
        token_ids=(5,),
        finish_reason=FinishReason.EOS,
        usage=Usage(sampled=1),
    )
    return {name: RecordedCompletion.from_completion(make_request(name), completion) for name in names}


@pytest.mark.parametrize(("order", "after_one"), [(None, ["a"]), (["b", "a"], [])])
def test_a_completion_waits_for_its_turn_in_the_recorded_order(order, after_one):
    got: list[str] = []
    engine = ReplayEngine(make_record("a", "b"), order=order)
    engine.submit([make_request("a")], lambda event: got.append(event.key.request_id))
    assert got == after_one
    engine.submit([make_request("b")], lambda event: got.append(event.key.request_id))
    assert got == (order or ["a", "b"])
    engine.check_health()


def test_an_order_that_the_program_does_not_keep_is_an_error_and_no_endless_wait():
    engine = ReplayEngine(make_record("a"), order=["b", "a"])
    engine.submit([make_request("a")], lambda event: None)
    with pytest.raises(InputError, match="'b' next"):
        engine.check_health()


def test_chains_that_stop_together_are_replayed_as_they_ran(tmp_path):
    """Whether a chain goes on depends on which of the others agreed first: order is part of the run."""
    recipe = Recipe(
        program="chain_consistency",
        budget=3,
        policy="even",
        seed=0,
        logprobs=True,
        **PLANS["embedded"].programs["chain_consistency"],
    )
    questions = [
        Question(id=item.id, question=item.question, answer=item.answer)
        for item in generate_problems(6, seed=2026, split="test")
    ]
    with make_engine("embedded", engine="continuous") as engine:
        make_run(
            tmp_path, Job(name="chains", recipe=recipe), questions, engine, model="embedded", dataset="test"
        )
    traces = read_program_traces([tmp_path / "chains" / TRACE_FILE]).traces
    assert len(traces) == len(questions)
    for trace in traces:
        answer = replay_answer(trace, Even(), in_order=True)
        assert answer.text == trace.answer
        assert answer.usage.sampled == sum(item.usage.sampled for item in trace.completions)
