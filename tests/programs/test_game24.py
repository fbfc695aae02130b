"""The Game of 24 benchmark: what counts as a solution, what the models are taught, and that it runs to its end."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import game24_task as task  # noqa: E402

sys.path.remove(str(BENCHMARKS))

SOLVED = "13-9=4 (left: 4 10 4)\n\n10-4=6 (left: 4 6)\n\n4*6=24 (left: 24)"


def test_a_solution_uses_each_number_once_and_calculates_right():
    assert task.is_solution("4 9 10 13", SOLVED)


@pytest.mark.parametrize(
    "text",
    [
        SOLVED.replace("4*6=24 (left: 24)", "4*6=25 (left: 25)"),
        SOLVED.replace("10-4=6 (left: 4 6)", "10-4=7 (left: 4 7)").replace("4*6", "4*7"),
        SOLVED.replace("10-4=6 (left: 4 6)", "10-4=6 (left: 6 6)"),
        "4*6=24 (left: 24)",
        "13-9=4 (left: 4 10 4)\n\n4*6=24 (left: 24)",
        "The answer is 24.",
        "",
    ],
)
def test_a_wrong_step_a_number_from_nowhere_and_a_path_cut_short_are_no_solution(text):
    assert not task.is_solution("4 9 10 13", text)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_walk_that_never_strays_is_a_solution_and_labels_say_what_can_still_be_reached(seed):
    rng = random.Random(seed)
    train, test = task.split_puzzles(100, seed=0)
    assert not set(train) & set(test)
    numbers = tuple(rng.sample(rng.choice(train), 4))
    puzzle = " ".join(map(str, numbers))
    steps, labels = task.walk(numbers, rng, stray=0)
    assert labels == [True] * 3
    assert task.is_solution(puzzle, "\n\n".join(steps))
    steps, labels = task.walk(numbers, rng, stray=0.7)
    assert labels[-1] == task.is_solution(puzzle, "\n\n".join(steps))
    assert labels == sorted(labels, reverse=True), "what was lost does not come back"


@pytest.mark.slow
def test_the_benchmark_trains_measures_and_ends_with_a_line_of_json(tmp_path):
    options = [
        "--writer-steps",
        "4",
        "--rater-steps",
        "4",
        "--num-test",
        "4",
        "--num-samples",
        "4",
        "--widths",
        "2",
    ]
    command = [sys.executable, str(BENCHMARKS / "game24.py"), *options, "--models", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    row = json.loads(result.stdout.splitlines()[-1])
    assert [item["program"] for item in row["rows"]] == [
        "best_of_n (no rater)",
        "rebase",
        "mcts",
        "best_of_n",
    ]
    assert all(item["reward_tokens"] > 0 for item in row["rows"][1:])
