"""MCTS: visits go where paths were worth most, batches spread, and every iteration is spent."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.core import FinishReason, SamplingParams
from hf_dynasor.drivers import run
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.programs import MCTS
from hf_dynasor.programs.nodes import Node
from hf_dynasor.programs.pieces import Piece
from hf_dynasor.programs.search_tree import SearchTree
from hf_dynasor.recipe import Recipe
from hf_dynasor.scheduler import Even
from hf_dynasor.testing import Reply, ScriptedEngine
from tests.programs.kit import PROMPT, reason


def make_node(text, parent=None, *, reward=None, is_terminal=False):
    return Node(
        name=text,
        parent=parent,
        piece=Piece(text=text),
        finish_reason=FinishReason.EOS if is_terminal else FinishReason.STOP,
        reward=reward,
        is_terminal=is_terminal,
    )


def make_tree(**options):
    root = make_node("root")
    return SearchTree(root, **{"num_children": 2, "exploration": 0.5} | options), root


def iterate(tree, node, value):
    """One finished iteration that grew nothing."""
    pick = tree.select()
    tree.leave(pick)
    tree.back_up(node, value)
    return pick.node


def test_a_node_is_grown_out_before_the_search_goes_below_it():
    tree, root = make_tree(num_children=3)
    pick = tree.select()
    assert (pick.node, pick.num_new) == (root, 3)
    tree.adopt(root, [make_node("a", root, reward=0.5)])
    tree.leave(pick)
    assert tree.select().num_new == 2


def test_the_reward_is_the_prior_of_a_step_that_was_not_visited():
    tree, root = make_tree()
    good = make_node("good", root, reward=0.9)
    for node in (make_node("bad", root, reward=0.2), good):
        tree.adopt(root, [node])
    assert tree.select().node is good


def test_values_outweigh_the_prior_after_some_visits():
    tree, root = make_tree(exploration=0.0)
    good, bad = make_node("good", root, reward=0.9), make_node("bad", root, reward=0.2)
    for node in (good, bad):
        tree.adopt(root, [node])
    for _ in range(8):
        tree.back_up(good, 0.0)
        tree.back_up(bad, 0.8)
    assert tree.select().node is bad


def test_exploration_visits_what_was_seldom_visited():
    tree, root = make_tree(exploration=2.0)
    often, seldom = make_node("often", root, reward=0.6), make_node("seldom", root, reward=0.5)
    for node in (often, seldom):
        tree.adopt(root, [node])
    for _ in range(6):
        tree.back_up(often, 0.6)
    assert tree.select().node is seldom


def test_iterations_underway_spread():
    """A virtual loss: the second pick of a batch goes elsewhere, and the statistics are clean afterwards."""
    tree, root = make_tree(exploration=0.0)
    first, second = make_node("first", root, reward=0.6), make_node("second", root, reward=0.5)
    for node in (first, second):
        tree.adopt(root, [node])
    picks = [tree.select(), tree.select()]
    assert [pick.node for pick in picks] == [first, second]
    for pick in picks:
        tree.leave(pick)
    assert tree.select().node is first


def test_steps_that_say_the_same_are_one():
    tree, root = make_tree()
    one, same = make_node("2+2=4", root, reward=0.5), make_node("2+2=4", root, reward=0.5)
    below = make_node("done", same, reward=0.4, is_terminal=True)
    assert tree.adopt(root, [one]) == [one]
    assert tree.adopt(root, [same, below]) == [one, below]
    assert below.parent is one


def test_a_tree_that_is_grown_out_everywhere_grows_at_its_root():
    tree, root = make_tree()
    for text in ("a", "b"):
        tree.adopt(root, [make_node(text, root, is_terminal=True)])
    pick = tree.select()
    assert (pick.node, pick.num_new) == (root, 1)


@pytest.mark.parametrize("options", [{"num_children": 0}, {"exploration": -1}, {"num_parallel": 0}])
def test_a_search_that_cannot_work_is_refused(options):
    with pytest.raises(ConfigurationError, match="expected"):
        MCTS(PROMPT, **options)


def solve(budget, *, seed=1, script=reason, **options):
    sampling = SamplingParams(seed=seed, max_new_tokens=64)
    engine = ScriptedEngine(script)
    return run(MCTS(PROMPT, budget=budget, sampling=sampling, **options), engine, Even()), engine


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.integers(0, 99))
def test_a_smaller_budget_is_the_beginning_of_a_larger_one(small, large, num_parallel, seed):
    small, large = sorted((small, large))
    first, _ = solve(small, seed=seed, num_parallel=num_parallel)
    second, _ = solve(large, seed=seed, num_parallel=num_parallel)
    beginning = [path for path in second.paths if path.unit < small]
    assert [(p.text, p.reward, p.unit) for p in first.paths] == [
        (p.text, p.reward, p.unit) for p in beginning
    ]


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 3), st.integers(0, 99))
def test_every_iteration_ends_with_a_finished_path(budget, num_parallel, num_children, seed):
    answer, _ = solve(budget, seed=seed, num_parallel=num_parallel, num_children=num_children)
    assert {path.unit for path in answer.paths if path.is_terminal} == set(range(budget))


def test_a_batch_is_sent_together():
    waves = []

    class Noting(ScriptedEngine):
        def submit(self, requests, sink):
            waves.append(len(requests))
            super().submit(requests, sink)

    run(MCTS(PROMPT, budget=8, num_parallel=8, num_children=2), Noting(reason), Even())
    assert len(waves) == 2  # the new steps of eight iterations, then their paths
    assert waves[0] == 2 + 7
    assert waves[1] == 8


def test_the_path_with_the_highest_reward_answers():
    def script(request):
        rng = random.Random(request.key.request_id)
        value = rng.choice(["4", "5", "5", "5"])
        return Reply(text=f"\\boxed{{{value}}}", probability=0.9 if value == "4" else 0.3)

    answer, _ = solve(12, script=script)
    assert answer.text == "4"
    assert 0.3 < answer.certaindex.reward < 0.9  # the mean


def test_without_rollouts_the_tree_grows_step_by_step():
    answer, engine = solve(16, has_rollouts=False)
    assert all(request.sampling.stop for request in engine.submitted)
    assert answer.certaindex.num_paths > 0
    assert any(path.parent is not None for path in answer.paths)


def test_without_rollouts_a_small_budget_may_end_without_an_answer():
    answer, _ = solve(1, has_rollouts=False)
    assert answer.text is None
    assert answer.certaindex.num_paths == 0


def test_table_1_is_a_recipe():
    _, policy = Recipe(program="mcts", preset="mcts/asdiv").build("2+2?")
    assert (policy.detect_at, policy.thresholds.to_dict()) == (3, {"reward": 0.4})
    assert Recipe(program="mcts").build_policy().thresholds.to_dict() == {"entropy": 0.99, "reward": 0.4}
