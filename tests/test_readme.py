"""Every block of the README runs, and every figure in it comes from a file of measured results."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from hf_dynasor.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
PYTHON_BLOCKS = [code for language, code in BLOCKS if language == "python"]
COMMANDS = [
    line.split("  #")[0].strip()
    for language, code in BLOCKS
    if language == "bash"
    for line in code.splitlines()
    if line.strip()
]


def test_every_block_is_of_a_kind_that_is_run_here():
    assert {language for language, _ in BLOCKS} <= {"python", "bash"}
    assert {command.split()[0] for command in COMMANDS} <= {"make", "hf-dynasor", "pip"}


@pytest.mark.parametrize("code", PYTHON_BLOCKS, ids=range(len(PYTHON_BLOCKS)))
def test_python_blocks_run(code, capsys):
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    printed = capsys.readouterr().out.split()
    promised = re.findall(
        r"print\(answer\.(?:text|stop_reason\.value|certaindex\.entropy)\)\s+# ([\w.]+)", code
    )
    assert printed[: len(promised)] == promised


def test_commands_of_the_command_line_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for command in [line for line in COMMANDS if line.startswith("hf-dynasor")]:
        words, _, target = command.partition(" > ")
        assert main(shlex.split(words)[1:]) == 0, command
        out = capsys.readouterr().out
        assert out
        if target:
            Path(target).write_text(out)


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("make")])
def test_make_targets_exist(command):
    dry = subprocess.run(
        ["make", "--dry-run", *command.split()[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert dry.returncode == 0, dry.stderr


def test_pip_lines_name_extras_that_exist():
    pyproject = (ROOT / "pyproject.toml").read_text()
    for extra in set(re.findall(r"\[(\w+)\]", " ".join(line for line in COMMANDS if line.startswith("pip")))):
        assert re.search(rf"^{extra} = \[", pyproject, re.MULTILINE), extra


def test_the_table_shows_the_measured_figures():
    row = json.loads((ROOT / "benchmarks" / "results" / "self_consistency.json").read_text())
    low, high = row["accuracy_difference_interval"]
    figures = [
        f"{row['even_net_tokens']:,}",
        f"{row['static_net_tokens']:,}",
        f"{row['tokens_saved']:.1%}",
        f"{row['even_accuracy']:.1%}",
        f"{row['static_accuracy']:.1%}",
        f"{row['accuracy_difference'] * 100:+.2f} points ({low * 100:+.2f} to {high * 100:+.2f})",
        f"{row['num_questions']} questions",
        f"{row['num_seeds']} seeds",
    ]
    table = README.split("<!-- figures:")[1].split("What this is")[0]
    for figure in figures:
        assert figure in table, figure


def test_the_measured_saving_reaches_the_bar_that_the_project_set_itself():
    """At least 40% fewer net tokens than even allocation, at the same accuracy within half a point."""
    row = json.loads((ROOT / "benchmarks" / "results" / "self_consistency.json").read_text())
    assert row["tokens_saved"] >= 0.40
    assert abs(row["accuracy_difference"]) <= 0.005
    assert row["num_questions"] >= 500
    assert row["num_seeds"] >= 3
    assert row["budget"] == 20


def test_the_page_of_benchmarks_shows_each_result_as_it_was_printed():
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    results = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    assert results
    for path in results:
        assert f"```json\n{path.read_text().strip()}\n```" in page, path.name
    assert "RESULT" not in page


def test_linked_files_exist():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
