"""The command line: what it prints, what it refuses, and with which exit code."""

import json
import os
import re
import subprocess
import sys

import pytest

from hf_dynasor.certaindex import Thresholds
from hf_dynasor.cli import main
from hf_dynasor.cli.options import parse_thresholds
from hf_dynasor.errors import ConfigurationError

SOLVE_KEYS = {"answer", "certaindex", "grants", "stop_reason", "usage", "seconds"}
EVAL_KEYS = {
    "num_questions",
    "accuracy",
    "accuracy_interval",
    "net_tokens",
    "sequential_tokens",
    "early_stop_rate",
    "usage",
    "seconds",
}
USAGE_KEYS = {"prompt", "cached", "sampled", "forced", "probe", "reward", "net_tokens"}


def run(capsys, *argv):
    code = main([str(part) for part in argv])
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "questions.jsonl"
    rows = [
        {"id": f"q{n}", "question": f"What is {n}+{n + 1}?", "answer": str(2 * n + 1)} for n in range(3, 9)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_solve_answers_and_tells_why_it_stopped_and_what_it_saved(capsys):
    code, out, _ = run(capsys, "solve", "What is 7+8?")
    assert code == 0
    assert "answer: 15" in out
    assert "certaindex entropy 1.00" in out
    assert "stopped: certain (entropy 1.00 > 0.70 at 5 samples)" in out
    assert "net (prompt" in out
    assert "against the full budget of 20 samples" in out


def test_solve_json_ends_with_one_line_of_the_documented_keys(capsys):
    code, out, _ = run(capsys, "solve", "What is 7+8?", "--json")
    row = json.loads(out.splitlines()[-1])
    assert code == 0
    assert set(row) == SOLVE_KEYS
    assert set(row["usage"]) == USAGE_KEYS
    assert row["answer"] == "15"
    assert row["grants"][0]["units"] == 5
    assert row["usage"]["net_tokens"] == row["usage"]["sampled"] > 0


def test_the_same_seed_gives_the_same_run(capsys):
    def solve(seed):
        row = json.loads(
            run(capsys, "solve", "What is 83*47-159?", "--json", "--seed", seed)[1].splitlines()[-1]
        )
        return {key: row[key] for key in SOLVE_KEYS - {"seconds"}}

    assert solve(3) == solve(3)


def test_eval_json_ends_with_one_line_of_the_documented_keys(capsys, questions):
    code, out, _ = run(capsys, "eval", questions, "--json")
    row = json.loads(out.splitlines()[-1])
    assert code == 0
    assert set(row) == EVAL_KEYS
    assert set(row["usage"]) == USAGE_KEYS
    assert row["num_questions"] == 6
    assert row["accuracy_interval"][0] <= row["accuracy"] <= row["accuracy_interval"][1]
    assert row["net_tokens"] == row["usage"]["net_tokens"]
    assert row["accuracy"] >= 0.8


def test_eval_reports_a_broken_line_does_the_rest_and_exits_with_two(capsys, questions):
    questions.write_text("{oops\n" + questions.read_text())
    code, out, err = run(capsys, "eval", questions, "--json", "--budget", 2, "--policy", "even")
    assert code == 2
    assert "line 1: not JSON" in err
    assert json.loads(out.splitlines()[-1])["num_questions"] == 6


def test_eval_writes_a_row_for_each_question(capsys, questions, tmp_path):
    rows = tmp_path / "rows.jsonl"
    code, out, _ = run(capsys, "eval", questions, "--limit", 3, "--output", rows)
    assert code == 0
    assert "accuracy:" in out
    assert {json.loads(line)["id"] for line in rows.read_text().splitlines()} == {"q3", "q4", "q5"}


def test_eval_counts_a_question_that_cannot_be_asked_as_wrong(capsys, questions):
    questions.write_text(
        questions.read_text() + json.dumps({"id": "long", "question": "1+" * 5000 + "1", "answer": "5001"})
    )
    code, out, err = run(capsys, "eval", questions, "--json", "--budget", 2)
    assert code == 2
    assert "question long" in err
    assert json.loads(out.splitlines()[-1])["num_questions"] == 7


def test_questions_are_printed_and_can_be_solved(capsys, tmp_path):
    code, out, _ = run(capsys, "questions", "--num", 4, "--seed", 5, "--levels", 1)
    assert code == 0
    path = tmp_path / "made.jsonl"
    path.write_text(out)
    code, out, _ = run(capsys, "eval", path, "--json")
    assert (code, json.loads(out.splitlines()[-1])["num_questions"]) == (0, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--program", "tree"], r"Unknown program 'tree'. Known: .*self_consistency"),
        (["--policy", "lucky"], r"Unknown policy 'lucky'. Known: adaptive_consistency, dynamic_curve, even"),
        (["--budget", "0"], r"Got a budget of 0 samples but expected a whole number of at least 1"),
        (["--budget", "-4"], r"Got a budget of -4 samples but expected a whole number of at least 1"),
        (["--threshold", "2"], r"entropy = 2.0 but expected a value in \[0, 1\)"),
        (["--threshold", "entropy=x"], r"expected a number in \[0, 1\)"),
        (["--threshold", "mood=0.5"], r"one of entropy, agreement"),
        (["--policy", "even", "--detect-at", "3"], r"policy 'even' does not read it"),
        (["--preset", "sc/haiku"], r"Unknown preset 'sc/haiku'"),
        (["--threshold", "reward=0.5"], r"threshold on reward, which self_consistency never knows"),
        (["--detect-at", "0"], r"detect_at = 0"),
        (["--temperature", "-1"], r"temperature = -1.0 but expected 0"),
        (["--temperature", "0"], r"greedy samples are all the same"),
        (["--top-p", "0"], r"top_p = 0.0 but expected a value in \(0, 1\]"),
        (["--max-new-tokens", "0"], r"max_new_tokens = 0"),
        (["--answer-format", "haiku"], r"Unknown answer format 'haiku'"),
        (["--model", "./no/such/folder"], r"no/such/folder"),
        (["--model", "no.gguf"], r"no\.gguf"),
        (["--dtype", "int3"], r"Unknown dtype 'int3'"),
        (["--device", "toaster"], r"device = 'toaster'"),
    ],
)
def test_bad_options_are_refused_with_the_value_and_the_fix(capsys, options, message):
    code, out, err = run(capsys, "solve", "What is 7+8?", *options)
    assert code == 2
    assert out == ""
    assert err.startswith("hf-dynasor: error: ")
    assert len(err.strip().splitlines()) == 1
    assert re.search(message, err)


@pytest.mark.parametrize("question", ["", "   "])
def test_an_empty_question_is_refused(capsys, question):
    code, _, err = run(capsys, "solve", question)
    assert (code, "empty question" in err) == (2, True)


@pytest.mark.parametrize("name", ["missing.jsonl", "."])
def test_an_unreadable_file_is_refused(capsys, tmp_path, name):
    code, _, err = run(capsys, "eval", tmp_path / name)
    assert (code, "Cannot read" in err) == (2, True)


def test_a_file_of_broken_lines_only_is_refused(capsys, tmp_path):
    path = tmp_path / "broken.jsonl"
    path.write_text("one\ntwo\n")
    code, _, err = run(capsys, "eval", path)
    assert code == 2
    assert "2 broken lines" in err


def test_a_folder_without_a_model_is_refused(capsys, tmp_path):
    code, _, err = run(capsys, "solve", "What is 7+8?", "--model", tmp_path)
    assert (code, "config.json" in err) == (2, True)


def test_an_output_that_cannot_be_written_is_refused_before_the_work(capsys, questions, tmp_path):
    code, _, err = run(capsys, "eval", questions, "--output", tmp_path / "no" / "rows.jsonl")
    assert (code, "Cannot write" in err) == (2, True)


def test_an_output_is_not_emptied_by_a_run_that_never_began(capsys, questions, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("precious\n")
    code, _, _ = run(capsys, "eval", questions, "--output", rows, "--model", "./no/such/folder")
    assert (code, rows.read_text()) == (2, "precious\n")


def test_questions_that_can_none_of_them_be_asked_are_an_error_and_no_accuracy(capsys, questions):
    code, out, err = run(capsys, "eval", questions, "--json", "--max-new-tokens", 100_000)
    assert (code, out) == (2, "")
    assert "None of the 6 questions could be solved" in err


@pytest.mark.parametrize("timeout", ["0", "nan", "-1"])
def test_a_timeout_that_is_no_time_is_refused(capsys, timeout):
    with pytest.raises(SystemExit) as stop:
        main(["solve", "What is 7+8?", "--timeout", timeout])
    assert stop.value.code == 2
    assert "seconds above 0" in capsys.readouterr().err


def test_a_missing_command_prints_the_help(capsys):
    code, out, _ = run(capsys)
    assert (code, "solve" in out and "eval" in out) == (0, True)


@pytest.mark.parametrize("command", ["solve", "eval", "questions"])
def test_the_help_teaches(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "--seed" in out
    if command != "questions":
        assert "examples:" in out
        assert "--json ends with one line" in out


def test_a_hub_name_offline_is_one_clear_line_and_no_traceback():
    result = subprocess.run(
        [sys.executable, "-m", "hf_dynasor", "solve", "What is 7+8?", "--model", "some-org/no-such-model"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert result.returncode == 2
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1
    assert "some-org/no-such-model" in lines[0]
    assert "Traceback" not in result.stderr


def test_thresholds_are_parsed_by_signal():
    assert parse_thresholds(None) is None
    assert parse_thresholds(["0.9"]) == Thresholds(entropy=0.9)
    assert parse_thresholds(["entropy=0.9", "agreement=0.5"]) == Thresholds(entropy=0.9, agreement=0.5)
    with pytest.raises(ConfigurationError, match="two thresholds"):
        parse_thresholds(["0.9", "entropy=0.8"])


def test_a_tree_asks_the_reward_model_that_was_named(capsys):
    options = ["solve", "What is 17*6+4?", "--program", "rebase", "--budget", "2", "--json"]
    assert main([*options, "--reward-model", "embedded"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["usage"]["reward"] > 0
    assert main(options) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["usage"]["reward"] == 0
