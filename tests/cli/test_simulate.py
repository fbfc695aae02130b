"""`hf-dynasor simulate`: the same line for the same options, and errors that name the fix."""

import json
import random

import pytest

from hf_dynasor.cli import main
from hf_dynasor.scheduler.simulate import RecordedBranch, RecordedQuestion, Workload, write_workload


@pytest.fixture
def workload(tmp_path):
    rng = random.Random(0)
    questions = tuple(
        RecordedQuestion(
            id=f"q{index}",
            prompt_tokens=20,
            branches=tuple(
                RecordedBranch(num_tokens=rng.randint(5, 60), group=(group := rng.choice([0, 0, 1])), is_correct=not group)
                for _ in range(8)
            ),
        )
        for index in range(10)
    )  # fmt: skip
    path = tmp_path / "workload.json"
    write_workload(Workload(name="toy", budget=8, questions=questions), path)
    return str(path)


def simulate(capsys, workload, *options):
    code = main(["simulate", "--workload", workload, "--num-programs", "20", *options])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_json_is_one_line_and_the_same_each_time(capsys, workload):
    first, second = (simulate(capsys, workload, "--rate", "2", "--json") for _ in range(2))
    assert first == second
    assert first[0] == 0
    row = json.loads(first[1])
    assert (row["policy"], row["allocation"], row["num_programs"]) == ("gang_sjf", "static", 20)
    assert 0 < row["mean_latency"] <= row["p99_latency"]


def test_certaindex_grants_less_than_even(capsys, workload):
    rows = [
        json.loads(simulate(capsys, workload, "--rate", "2", "--json", "--allocation", name)[1])
        for name in ("even", "static")
    ]
    assert rows[1]["num_tokens"] < rows[0]["num_tokens"]


def test_people_get_a_few_lines_and_outcomes_a_file(capsys, workload, tmp_path):
    path = tmp_path / "outcomes.jsonl"
    code, out, _ = simulate(capsys, workload, "--policy", "deadline", "--outcomes", str(path))
    assert code == 0
    assert "deadlines" in out
    outcomes = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(outcomes) == 20
    assert {"question_id", "arrived_at", "finished_at", "num_tokens", "is_correct"} <= set(outcomes[0])


def test_recorded_arrivals_bursts_and_measured_steps_are_taken(capsys, workload, tmp_path):
    times = tmp_path / "times.txt"
    times.write_text("\n".join(str(index / 2) for index in range(20)))
    steps = tmp_path / "steps.jsonl"
    rows = [
        {"num_requests": n, "num_context_tokens": 10 * n, "num_prefill_tokens": 0, "seconds": 0.1 + n / 100}
        for n in range(1, 12)
    ]
    steps.write_text("\n".join(map(json.dumps, rows)))
    code, out, _ = simulate(
        capsys, workload, "--arrivals", str(times), "--engine-steps", str(steps), "--json"
    )
    assert code == 0
    assert json.loads(out)["engine"]["name"] == "steps"
    assert simulate(capsys, workload, "--rate", "2", "--burst", "5")[0] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--policy", "sfj"], "Unknown scheduling policy 'sfj'"),
        (["--budget", "99"], "lower it"),
        (["--arrivals", "nowhere.txt"], "Cannot read"),
        (["--arrivals", "nowhere.txt", "--rate", "1"], "Expected one"),
        (["--outcomes", "/nowhere/o.jsonl"], "Cannot write"),
    ],
)
def test_bad_options_say_what_to_do(capsys, workload, options, words):
    code, _, err = simulate(capsys, workload, *options)
    assert code == 2
    assert words in err


def test_replicas_are_simulated_and_say_how_they_shared_the_work(capsys, workload):
    options = ("--rate", "9", "--replicas", "3", "--shared-prompts", "4", "--fail-at", "1")
    first, second = (simulate(capsys, workload, *options, "--json") for _ in range(2))
    assert first == second
    row = json.loads(first[1])
    assert (row["num_replicas"], row["routing"], row["num_programs"]) == (3, "least_cost", 20)
    assert row["imbalance"] >= 1
    assert 0 < row["hit_rate"] < 1
    assert "3 replicas, routing least_cost" in simulate(capsys, workload, *options)[1]


def test_what_needs_replicas_says_so(capsys, workload):
    code, _, error = simulate(capsys, workload, "--fail-at", "3")
    assert code == 2
    assert "--fail-at with one replica" in error
