"""The page on stopping: its blocks run, and its names exist."""

import re
from pathlib import Path

import hf_dynasor.stopping as stopping

PAGE = (Path(__file__).parents[2] / "docs" / "stopping.md").read_text()


def test_the_blocks_of_the_page_run_in_order(capsys):
    names = {"__name__": "page"}
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(code, "stopping.md", "exec"), names)
    assert capsys.readouterr().out


def test_the_page_names_every_face_and_rule():
    for name in stopping.__all__:
        kind = getattr(stopping, name)
        if isinstance(kind, type) and name.endswith(
            ("Criteria", "Processor", "Budget", "Consistency", "Exit")
        ):
            assert name in PAGE, name
