"""Every program to its end on a real vocabulary, chat template and size: SmolLM2-135M, right or not."""

from __future__ import annotations

import pytest

from hf_dynasor.drivers import run_many
from hf_dynasor.programs import PROGRAMS
from hf_dynasor.recipe import Recipe
from hf_dynasor.serving import ContinuousBatchingEngine, LoadedModel

pytestmark = pytest.mark.slow

QUESTIONS = ("What is 2+3?", "Sam has 3 apples and buys 4 more. How many has he now?")
MAX_NEW_TOKENS, WIDTH = 24, 2
STEPS = {"delimiter": "\n"}
PROBES = {"interval": 8, "suffix": "short"}
OPTIONS = {
    "rebase": STEPS,
    "mcts": STEPS,
    "beam": STEPS,
    "chain_of_thought": PROBES,
    "chain_consistency": PROBES,
}


@pytest.fixture(scope="module")
def engine(smollm2: LoadedModel):  # type: ignore[no-untyped-def]
    engine = ContinuousBatchingEngine(smollm2)
    yield engine
    engine.close()


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_a_program_runs_to_its_end_within_its_budget_and_counts_every_token(engine, program: str) -> None:  # type: ignore[no-untyped-def]
    is_chain = program == "chain_of_thought"
    budget = MAX_NEW_TOKENS if is_chain else WIDTH
    recipe = Recipe(
        program=program,
        policy="even",
        budget=budget,
        max_new_tokens=MAX_NEW_TOKENS,
        seed=0,
        instruction="",
        program_options=OPTIONS.get(program, {}),
    )
    outcomes = list(run_many([recipe.build(question) for question in QUESTIONS], engine, timeout=300.0))
    assert sorted(outcome.index for outcome in outcomes) == [0, 1]
    for outcome in outcomes:
        assert outcome.error is None
        answer = outcome.answer
        assert answer.num_failed == 0
        assert 0 < answer.units_spent <= budget
        # An MCTS iteration draws two steps before it follows the better one.
        paths = 1 if is_chain else WIDTH * (3 if program == "mcts" else 1)
        assert 0 < answer.usage.sampled + answer.usage.forced <= paths * MAX_NEW_TOKENS
        assert (answer.usage.probe > 0) == (program in ("chain_of_thought", "chain_consistency"))
        assert (answer.usage.prompt, answer.usage.reward) > (0, -1)
        assert answer.paths
