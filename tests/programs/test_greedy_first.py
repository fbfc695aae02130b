"""Trees whose first unit is the greedy path."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dynasor.programs import MCTS, BestOfN
from hf_dynasor.scheduler import StaticThreshold
from hf_dynasor.testing import Reply
from tests.programs.test_tree_programs import every_tree, solve


@every_tree
@settings(max_examples=10, deadline=None)
@given(budget=st.integers(1, 9), seed=st.integers(0, 99))
def test_with_greedy_first_one_unit_is_the_likeliest_path_and_all_else_stays_sampled(program, budget, seed):
    answer, engine = solve(program, budget=budget, seed=seed, greedy_first=True)
    greedy = [request for request in engine.submitted if request.sampling.temperature == 0]
    assert [request.key.request_id for request in greedy] == ["step-0"]
    assert not greedy[0].sampling.stop
    first = [path for path in answer.paths if path.unit == 0]
    assert sum(path.is_terminal for path in first) == 1
    assert answer.units_spent == budget
    assert sum(path.num_tokens for path in answer.paths) == answer.usage.net_tokens
    assert len([path for path in answer.paths if path.is_terminal]) == answer.certaindex.num_paths


@pytest.mark.parametrize("program", [MCTS, BestOfN])
@settings(max_examples=15, deadline=None)
@given(budget=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_what_takes_the_best_path_is_never_rated_below_the_greedy_one(program, budget, seed):
    answer, _ = solve(program, budget=budget, seed=seed, greedy_first=True)
    greedy = next(path for path in answer.paths if path.unit == 0 and path.is_terminal)
    assert answer.votes[0][1] >= greedy.reward


@every_tree
def test_only_the_first_unit_of_all_grants_is_greedy(program):
    policy = StaticThreshold(detect_at=2)
    _, engine = solve(program, greedy_first=True, policy=policy, script=lambda _: Reply(text="?"))
    assert sum(request.sampling.temperature == 0 for request in engine.submitted) == 1
