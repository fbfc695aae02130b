"""The page on stopping: its blocks run, and its names exist."""

import re
from pathlib import Path

import pytest

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


def test_public_names_are_sorted_and_exist():
    def constants_classes_functions(name):
        return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)

    assert list(stopping.__all__) == sorted(stopping.__all__, key=constants_classes_functions)
    assert all(getattr(stopping, name) is not None for name in stopping.__all__)
    assert set(stopping.__all__) <= set(dir(stopping))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        stopping.nothing  # noqa: B018
