"""Every example runs."""

import runpy
from pathlib import Path

import pytest

# What takes arguments is run with them in tests/evaluation/test_script.py.
TAKE_ARGUMENTS = {"run_reasoning_eval.py"}
EXAMPLES = [
    path
    for path in sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
    if path.name not in TAKE_ARGUMENTS
]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_example_runs_and_prints(path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", [str(path)])
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out
