"""The pages on allocation and traces: their commands run, their fields exist, their figures were measured."""

import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from hf_dynasor.cli import main
from hf_dynasor.evaluation.records import SCHEMA, ProgramTrace, RecordedCompletion, RecordedPath
from hf_dynasor.scheduler import POLICIES, PolicyFile
from hf_dynasor.scheduler.policy_file import parse_policy

ROOT = Path(__file__).parents[2]
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in ("allocation", "trace_format")}
RESULTS = ROOT / "benchmarks" / "results"


def list_commands(page):
    blocks = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_the_commands_of_the_page_run_in_order(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for command in list_commands(PAGES[name]):
        words, _, target = command.partition(" > ")
        assert main(shlex.split(words)[1:]) == 0, command
        out = capsys.readouterr().out
        assert out, command
        if target:
            Path(target.strip()).write_text(out)


def test_every_command_is_one_of_ours():
    assert all(
        command.startswith("hf-dynasor ") for page in PAGES.values() for command in list_commands(page)
    )


def test_every_field_of_a_trace_is_described():
    page = PAGES["trace_format"]
    assert SCHEMA in page
    for record in (ProgramTrace, RecordedCompletion, RecordedPath):
        for item in fields(record):
            assert f"`{item.name}`" in page, item.name


def test_every_policy_and_each_of_its_options_is_described():
    page = PAGES["allocation"]
    for name, policy in POLICIES.items():
        assert f"`{name}`" in page, name
        for item in fields(policy):
            assert item.name in ("name", "thresholds") or f"`{item.name}`" in page, (name, item.name)


def test_the_policy_file_of_the_page_is_one():
    row = json.loads(re.search(r'`(\{"schema".*?\})`', PAGES["allocation"])[1])
    assert isinstance(parse_policy(row), PolicyFile)
    assert parse_policy(row).build_policy().give_up.entropy == 0.1


@pytest.mark.parametrize("path", sorted(RESULTS.glob("allocation*.json")), ids=lambda path: path.stem)
def test_every_figure_of_the_tables_was_measured(path):
    row = json.loads(path.read_text())
    assert row["policies"]
    for policy in row["policies"]:
        low, high = policy["difference_interval"]
        line = (
            f"| {policy['policy']} | {policy['saved']:.1%} | {policy['difference'] * 100:+.2f} "
            f"({low * 100:+.2f} to {high * 100:+.2f}) | {policy['sequential_ratio']:.2f} |"
        )
        assert line in PAGES["allocation"], line
