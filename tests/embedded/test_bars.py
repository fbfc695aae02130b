"""The measured figures of the embedded models reach the bars that the project set itself."""

import json

import pytest

from hf_dynasor.embedded import REASONER_PATH


@pytest.fixture(scope="module")
def figures():
    return json.loads((REASONER_PATH / "evaluation.json").read_text())


def test_there_are_easy_scaling_and_impossible_questions(figures):
    assert figures["num_problems"] >= 500
    assert 0.5 <= figures["greedy"]["all"]["value"] <= 0.8
    by_level = {int(level): row["value"] for level, row in figures["greedy"]["by_level"].items()}
    assert min(by_level[level] for level in (1, 2, 3)) >= 0.95
    assert 0.2 < by_level[7] < by_level[6] < 0.9
    assert by_level[8] < 0.05


def test_a_vote_of_twenty_is_ten_points_above_one_sample(figures):
    sampling = figures["sampling"]["1.0"]
    assert sampling["vote_20"]["all"]["value"] - sampling["one_sample"]["all"]["value"] >= 0.10


@pytest.mark.parametrize("temperature", ["0.7", "1.0"])
def test_entropy_at_five_samples_tells_right_votes_from_wrong_ones(figures, temperature):
    certaindex = figures["sampling"][temperature]["certaindex"]
    assert certaindex["auroc_right_vote"] >= 0.9
    assert certaindex["pearson_samples_needed"] < -0.5
    assert certaindex["kendall_samples_needed"] < -0.5


def test_the_step_reward_tells_right_steps_within_a_level_and_chooses_well(figures):
    """A reward that only knows which questions are hard scores high over all levels and is useless."""
    reward = figures["step_reward"]["likelihood"]
    assert reward["auroc_pairs_within_level"] >= 0.85
    assert reward["best_of_8"]["value"] - reward["one_sample"]["value"] >= 0.08
