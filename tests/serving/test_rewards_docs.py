"""The page on reward models: its blocks run, its names exist, its bounds are those of the code."""

import re
from pathlib import Path

import hf_dynasor.serving.rewards as rewards
from hf_dynasor.serving.rewards import reader, worker
from hf_dynasor.serving.rewards.loading import KINDS

PAGE = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text()


def test_the_blocks_of_the_page_run_in_order(capsys):
    names = {"__name__": "page"}
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(code, "rewards.md", "exec"), names)
    lines = capsys.readouterr().out.splitlines()
    scores = {line.split()[0]: float(line.split()[1]) for line in lines[:2]}
    assert scores["right"] > 0.5 > 0.05 > scores["wrong"]


def test_the_page_names_every_kind():
    assert all(f"`{kind}`" in PAGE for kind in KINDS if kind != "auto")


def test_the_page_tells_the_bounds_of_the_code():
    assert f"at most {worker.MAX_BATCH_STEPS} steps or {worker.MAX_BATCH_TOKENS:,} tokens at a time" in PAGE
    assert f"included {reader.MAX_BATCH_TOKENS:,} in one forward" in PAGE
    assert f"{reader.CPU_CACHE_BYTES // 2**20} MiB" in PAGE


def test_public_names_are_sorted_and_exist():
    def classes_functions(name):
        return (0 if name[0].isupper() else 1, name)

    assert list(rewards.__all__) == sorted(rewards.__all__, key=classes_functions)
    assert all(getattr(rewards, name) is not None for name in rewards.__all__)
