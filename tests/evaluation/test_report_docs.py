"""The page on reports: its commands run, its options exist."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from hf_dynasor.cli.main import build_parser, main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "report.md").read_text()


def test_every_option_is_described_and_none_that_does_not_exist():
    commands = next(action for action in build_parser()._actions if action.dest == "command").choices
    options = {name for action in commands["report"]._actions for name in action.option_strings}
    told = set(re.findall(r"`(--[a-z-]+)`", PAGE))
    assert told == {name for name in options if name.startswith("--")} - {"--help"}


@pytest.mark.slow
def test_the_commands_of_the_page_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for command in block.splitlines():
        assert main(shlex.split(command)[1:]) == 0, command
    assert "wrote report.json" in capsys.readouterr().out


def test_the_table_of_peers_is_what_was_measured():
    measured = json.loads((ROOT / "benchmarks" / "results" / "peers" / "rules.json").read_text())
    for row in measured["rows"]:
        low, high = (100 * value for value in row["saved_interval"])
        cells = f"`{row['setting']}` | {100 * row['accuracy']:.1f}% | {100 * row['saved']:.1f}% ({low:.1f} to {high:.1f})"
        assert cells in PAGE, row["peer"]
