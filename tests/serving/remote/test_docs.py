"""`docs/remote.md`: its block runs, its table of dialects is the code's, its options exist."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from hf_dynasor.cli.backends import add_backend_options
from hf_dynasor.engine import Ability
from hf_dynasor.serving.remote import DIALECTS, Bounds, RetryPolicy

PAGE = (Path(__file__).parents[3] / "docs" / "remote.md").read_text()


def test_the_blocks_of_the_page_run_in_order(address, capsys):
    names = {"__name__": "page", "BACKEND": f"{address}/v1"}
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(code, "remote.md", "exec"), names)
    assert capsys.readouterr().out.splitlines()[0] == "106 certain"


def read_rows():
    rows = re.findall(r"^\| `([\w.]+)` \| (.*) \|$", PAGE, re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_the_table_of_dialects_is_the_code_s(name):
    dialect = DIALECTS[name]

    def say(flag):
        return "yes" if flag else "no"

    assert read_rows()[name] == [
        "token ids" if dialect.takes_ids else "texts",
        say(dialect.returns_ids),
        say(Ability.SEEDS in dialect.abilities),
        say(Ability.LOGPROBS in dialect.abilities),
        say(dialect.has_priority),
        "by the server" if dialect.stops_itself else "found here",
    ]


def test_no_dialect_of_the_table_is_unknown():
    assert set(read_rows()) == set(DIALECTS)


def test_every_option_of_a_backend_is_named():
    parser = argparse.ArgumentParser(add_help=False)
    add_backend_options(parser, int)
    for action in parser._actions:
        assert action.option_strings[0] in PAGE


def test_the_numbers_of_the_page_are_the_code_s():
    policy, bounds = RetryPolicy(), Bounds()
    assert f"at most {policy.max_attempts} attempts" in PAGE
    assert f"later than {policy.max_total_s:g} s after the first failure" in PAGE
    assert f"{policy.base_s:g} s, doubled with each, at most {policy.max_delay_s:g} s" in PAGE.replace(
        "\n", " "
    )
    assert f"{bounds.connect_s:g} s to connect, {bounds.silence_s:g} s of silence" in PAGE.replace("\n", " ")
    assert bounds.attempt_s == 3600
