"""The example script as users start it: on the real engine, killed and resumed, over several processes."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hf_dynasor.embedded.problems import generate_problems
from hf_dynasor.evaluation.run_folder import read_run
from tests.evaluation.script_kit import read, write_questions

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "run_reasoning_eval.py"


def run_here(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", [str(SCRIPT), *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return ended.value.code


def test_the_example_runs_on_the_embedded_model_and_prints_the_totals(tmp_path, monkeypatch, capsys):
    path = write_questions(tmp_path / "questions.jsonl", 2)
    options = ("--budget", 2, "--device", "cpu", "--max_new_tokens", 64)
    assert run_here(monkeypatch, "--data_file", path, "--output_dir", tmp_path / "run", *options) == 0
    told = capsys.readouterr().out
    assert f"net_tokens         {read_run(tmp_path / 'run').totals.net_tokens}\n" in told


def test_the_example_says_a_mistake_in_one_line(tmp_path, monkeypatch, capsys):
    assert run_here(monkeypatch, "--output_dir", tmp_path, "--data_file", "no.jsonl") == 2
    assert capsys.readouterr().err == "run_reasoning_eval: error: Cannot read no.jsonl: no such file.\n"


# The real engine, in processes of their own.


def write_problems(path, num):
    rows = [
        {"id": item.id, "question": item.question, "answer": item.answer, "level": item.level}
        for item in generate_problems(num, seed=11, split="test")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run_example(*command, folder):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [str(part) for part in command], cwd=folder, env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(process, seconds=240):
    try:
        told, _ = process.communicate(timeout=seconds)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, told[-4000:]
    return told


@pytest.fixture
def command(tmp_path):
    write_problems(tmp_path / "problems.jsonl", 10)
    return [SCRIPT, "--data_file", "problems.jsonl", "--budget", 5, "--max_active", 3, "--device", "cpu"]


@pytest.mark.slow
def test_a_killed_run_of_the_real_engine_resumes_to_the_same_result(command, tmp_path):
    """SIGKILL in the middle of the run. Rounding may differ with the batch: false alarms are rarer than 1 in 1,000."""
    finish(run_example(sys.executable, *command, "--output_dir", "whole", folder=tmp_path))
    killed = run_example(sys.executable, *command, "--output_dir", "again", folder=tmp_path)
    journal = tmp_path / "again" / "partial" / "rank-00000.jsonl"
    deadline = time.monotonic() + 120
    while not (journal.exists() and len(journal.read_text().splitlines()) >= 3):
        assert killed.poll() is None, killed.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "again" / "all_results.json").exists()
    assert 3 <= len(journal.read_text().splitlines()) < 10
    finish(run_example(sys.executable, *command, "--output_dir", "again", folder=tmp_path))
    assert read(tmp_path / "again") == read(tmp_path / "whole")


def test_two_processes_of_accelerate_have_the_totals_of_one(command, tmp_path):
    finish(run_example(sys.executable, *command, "--output_dir", "one", folder=tmp_path))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", 2]
    finish(run_example(*launch, "--num_machines", 1, "--mixed_precision", "no", "--dynamo_backend", "no",
                       *command, "--output_dir", "two", folder=tmp_path))  # fmt: skip
    assert read(tmp_path / "two") == read(tmp_path / "one")
    assert read_run(tmp_path / "two").totals.num_questions == 10
