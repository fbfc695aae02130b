"""What the recorded benchmark of the programs must show."""

import itertools
import json
from pathlib import Path

import pytest

ROW = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / "programs.json").read_text())


def list_accuracies(program):
    return [row["accuracy"] for row in ROW["rows"] if row["program"] == program]


@pytest.mark.parametrize("program", ["self_consistency", "best_of_n", "rebase", "mcts"])
def test_accuracy_rises_with_the_knob(program):
    """From the first cap to the last, and by no step does it fall more than a point."""
    values = list_accuracies(program)
    assert len(values) >= 4
    assert values[-1] > values[0]
    assert all(after > before - 0.01 for before, after in itertools.pairwise(values))


@pytest.mark.parametrize("program", ["best_of_n", "rebase", "mcts"])
def test_a_search_beats_one_sample_by_ten_points_and_is_not_worse_than_greedy(program):
    found = ROW["differences"][program]
    assert found["against_one_sample"]["points"] >= 10
    assert found["against_greedy"]["interval"][1] >= 0  # a loss, if any, is within the 95% interval
    assert found["against_greedy"]["points"] > -1


@pytest.mark.parametrize("program", ["rebase", "mcts"])
def test_a_search_is_no_worse_than_a_vote_of_the_same_net_tokens(program):
    gains = ROW["differences"][program]["points_above_the_vote_at_equal_net_tokens"]
    assert all(points > -1 for points in gains.values())
    assert gains["4"] > 2
