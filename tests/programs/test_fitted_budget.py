"""A chain whose budget nobody named takes what the model's context leaves, and says so."""

import pytest

from hf_dynasor import make_engine
from hf_dynasor.core import Prompt, TokenIds
from hf_dynasor.drivers import run
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.grants import StopReason
from hf_dynasor.programs import ChainOfThought, ChainSettings
from hf_dynasor.recipe import Recipe
from hf_dynasor.scheduler import Even
from tests.programs.char_model import CharEngine
from tests.programs.test_chain_of_thought import GREEDY, solve


class RoomyEngine(CharEngine):
    """Knows its context: a character is a token."""

    def __init__(self, context, **options):
        super().__init__(**options)
        self.context, self.longest = context, 0

    def count_room(self, prompt):
        return self.context - sum(map(len, prompt.segments))

    def submit(self, requests, sink):
        for request in requests:
            sizes = (
                len(item.ids) if isinstance(item, TokenIds) else len(item) for item in request.prompt.segments
            )
            self.longest = max(self.longest, sum(sizes) + request.sampling.max_new_tokens)
        super().submit(requests, sink)


@pytest.mark.parametrize("options", [{"mode": "plain"}, {"interval": 16}])
def test_a_budget_that_nobody_named_is_what_the_context_leaves(options):
    engine = RoomyEngine(300, eos_every=10**6)
    _, answer = solve(engine, budget=None, question="what?", **options)
    assert engine.longest <= 300
    assert (engine.longest == 300) or "mode" not in options
    assert answer.budget == answer.units_spent < 300
    assert answer.stop_reason is StopReason.BUDGET
    assert answer.explanation.endswith(
        f"{answer.budget} tokens is spent, all that the model's context leaves"
    )


def test_a_budget_that_was_named_and_one_that_fits_stay_as_they_are():
    assert solve(RoomyEngine(300), budget=64)[1].budget == 64
    assert solve(RoomyEngine(10**6, eos_every=10), budget=None)[1].budget == 4096
    assert solve(CharEngine(eos_every=10), budget=None)[1].budget == 4096
    assert (
        solve(RoomyEngine(20, eos_every=10), budget=None, mode="plain", question="q" * 30)[1].budget == 4096
    )


def test_a_chain_of_a_fitted_budget_is_resumed_from_a_snapshot():
    def make():
        return ChainOfThought(Prompt.plain("q"), sampling=GREEDY, settings=ChainSettings(interval=16))

    first = make()
    answer = run(first, RoomyEngine(300, eos_every=10**6), Even())
    again = run(make().resume(first.snapshot()), RoomyEngine(300, eos_every=10**6), Even())
    assert again == answer
    assert answer.budget < 300


def test_one_token_is_written_in_the_singular():
    _, answer = solve(CharEngine(eos_every=1), mode="plain")
    assert answer.explanation.endswith("after 1 token")


@pytest.mark.parametrize("name", ["generate", "continuous"])
def test_the_embedded_model_runs_a_chain_of_thought_by_default(name):
    recipe = Recipe(program="chain_of_thought", temperature=0, enable_thinking=True)
    with make_engine("embedded", engine=name) as engine:
        program, policy = recipe.build("What is 17*6+4?")
        answer = run(program, engine, policy)
        named = Recipe(
            program="chain_of_thought", temperature=0, budget=4096, program_options={"mode": "plain"}
        )
        with pytest.raises(ConfigurationError, match="takes at most 2048"):
            run(*named.build("What is 17*6+4?")[:1], engine, policy)
    assert answer.text == "106"
    assert 1900 < answer.budget < 2048
