"""The page on scheduling: its Python prints what it says, and its table names every policy."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from hf_dynasor.scheduler import SCHEDULING_POLICIES

PAGE = (Path(__file__).parents[2] / "docs" / "scheduling.md").read_text()


BLOCKS = re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", PAGE, re.DOTALL)


def test_there_are_examples_with_and_without_output():
    assert len(BLOCKS) == PAGE.count("```python")
    assert any(expected for _, expected in BLOCKS)


@pytest.mark.parametrize(("code", "expected"), BLOCKS, ids=range(len(BLOCKS)))
def test_an_example_runs_and_prints_what_the_page_shows(code, expected):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    assert printed.getvalue() == expected


def test_every_policy_is_in_the_table():
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == set(SCHEDULING_POLICIES)
