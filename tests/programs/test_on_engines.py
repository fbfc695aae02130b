"""Tree programs on the embedded reasoner: the same seed gives the same tree, on every engine and driver."""

import pytest

from hf_dynasor import Recipe, make_engine, run, run_many
from hf_dynasor.core import TokenIds

QUESTION = "What is 34*27-159?"
TREES = ["rebase", "mcts", "best_of_n", "beam"]


@pytest.fixture(scope="module", params=["generate", "continuous"])
def engine(request):
    with make_engine("embedded", engine=request.param) as engine:
        yield engine


def build(name):
    return Recipe(program=name, budget=4, temperature=1.0, max_new_tokens=96, seed=1, policy="even").build(
        QUESTION
    )


def shape(answer):
    return [(path.request_id, path.parent, path.text) for path in answer.paths]


@pytest.mark.parametrize("name", TREES)
def test_the_same_seed_grows_the_same_tree_alone_and_beside_others(engine, name):
    alone = run(build(name)[0], engine, build(name)[1])
    beside = {outcome.index: outcome.answer for outcome in run_many([build(name) for name in TREES], engine)}
    assert shape(alone) == shape(beside[TREES.index(name)])
    assert alone.text == "759"
    assert 0 < alone.certaindex.reward <= 1
    assert sum(path.num_tokens for path in alone.paths) == alone.usage.net_tokens


def test_a_step_goes_on_from_the_tokens_that_were_generated(engine):
    sent = []

    class Noting(type(build("rebase")[0])):
        def _make_request(self, place):
            sent.append((place, super()._make_request(place)))
            return sent[-1][1]

    program, policy = build("rebase")
    program.__class__ = Noting
    answer = run(program, engine, policy)
    assert any(path.parent for path in answer.paths)
    for place, request in sent:
        steps = [segment for segment in request.prompt.segments if isinstance(segment, TokenIds)]
        assert [step.ids for step in steps] == [node.piece.token_ids for node in place.parent.list_path()]
        assert all("\n\n" in node.piece.text for node in place.parent.list_path())
