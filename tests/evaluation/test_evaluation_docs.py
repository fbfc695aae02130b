"""The page on evaluation: its blocks run, its files are read, its tables name what there is, its figures were measured."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from hf_dynasor.evaluation.script_arguments import (
    DataArguments,
    ModelArguments,
    ProgramArguments,
    RunArguments,
    parse_script_arguments,
)
from hf_dynasor.evaluation.templates import TEMPLATES, read_template

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "evaluation.md").read_text()
RESULTS = ROOT / "benchmarks" / "results"


def list_blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_files_of_the_page_can_be_read(tmp_path):
    arguments, template = list_blocks("yaml")
    (tmp_path / "arguments.yaml").write_text(arguments)
    (tmp_path / "sums.yaml").write_text(template)
    found = parse_script_arguments(
        [str(tmp_path / "arguments.yaml"), "--output_dir", "runs/x", "--budget", "10"]
    )
    assert (found.program.budget, found.program.seeds) == (10, [0, 1, 2])
    sums = read_template(tmp_path / "sums.yaml")
    found.program.make_recipe(sums)
    assert (
        sums.make_item({"left": 1, "right": 2, "total": 3}, number=0).question.question == "What is 1 plus 2?"
    )


def test_every_task_and_every_argument_of_the_page_exists():
    assert all(f"`{name}`" in PAGE for name in TEMPLATES)
    kinds = (ModelArguments, DataArguments, ProgramArguments, RunArguments)
    known = {f"--{item.name}" for kind in kinds for item in fields(kind)}
    theirs = {"--num_processes", "--help", "--num", "--seed", "--model"}  # of other commands
    assert set(re.findall(r"--[a-z_]+", PAGE)) - theirs <= known


@pytest.mark.parametrize("number", range(3))
def test_the_code_of_the_page_runs(number, monkeypatch, capsys):
    pytest.importorskip("evaluate", reason="needs the extra eval")
    monkeypatch.chdir(ROOT)
    exec(compile(list_blocks("python")[number], f"block {number}", "exec"), {})


def show(row):
    low, high = row["accuracy_interval"]
    return (
        f"{row['accuracy']:.1%} ({low:.1%} to {high:.1%}) | {row['weight_bytes'] / 2**20:.1f} MiB "
        f"({row['memory_ratio']:.2f}) | {row['speed_ratio']:.2f} |"
    )


@pytest.mark.parametrize("path", sorted(RESULTS.glob("quantization*.json")), ids=lambda path: path.stem)
def test_every_figure_of_quantised_models_was_measured(path):
    found = json.loads(path.read_text())
    for name in ("float32", "bnb-8bit", "bnb-4bit"):
        assert f"| {found['model']} | {name} | {show(found[name])}" in PAGE
