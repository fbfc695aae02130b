"""The page on programs: its blocks run, its drawing is what they draw, and every program and option is on it."""

import re
import shlex
from pathlib import Path

import pytest

from hf_dynasor.cli.main import main
from hf_dynasor.programs import PROGRAMS, REWARDS

FOLDER = Path(__file__).parents[2] / "docs"
PAGE = (FOLDER / "programs.md").read_text()


def test_the_blocks_of_the_page_run_in_order_and_draw_its_tree(capsys):
    names = {"__name__": "page"}
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(code, "programs.md", "exec"), names)
    assert "1861" in capsys.readouterr().out
    # The texts and the shape are the run's; a colour's last digit may differ between processors.
    assert read_labels(names["page"]) == read_labels((FOLDER / "rebase_tree.svg").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("command", re.findall(r"^hf-dynasor (solve .*23\*7.*)$", PAGE, re.MULTILINE))
def test_the_pages_commands_for_chains_find_the_answer(command, capsys):
    assert main(shlex.split(command)) == 0
    assert re.search(r"^answer: 166$", capsys.readouterr().out, re.MULTILINE)


def read_labels(drawing):
    return re.findall(r"<text[^>]*>([^<]*)</text>", drawing)


def test_the_page_names_every_program_and_reward():
    for name in (*PROGRAMS, *REWARDS):
        assert f"`{name}`" in PAGE, name
