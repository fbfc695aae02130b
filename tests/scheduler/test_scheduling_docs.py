"""The page on scheduling: its Python prints what it says, and its table names every policy."""

import contextlib
import io
import re
from pathlib import Path

from hf_dynasor.scheduler import SCHEDULING_POLICIES

PAGE = (Path(__file__).parents[2] / "docs" / "scheduling.md").read_text()


def test_the_example_prints_what_the_page_shows():
    pairs = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.DOTALL)
    assert len(pairs) == PAGE.count("```python")
    for code, expected in pairs:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, {})
        assert printed.getvalue() == expected


def test_every_policy_is_in_the_table():
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == set(SCHEDULING_POLICIES)
