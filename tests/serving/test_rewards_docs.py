"""The page on reward models: its blocks run, its names exist, its bounds are those of the code."""

import json
import re
from pathlib import Path

import hf_dynasor.serving.rewards as rewards
from hf_dynasor.embedded import STEP_REWARD_PATH
from hf_dynasor.serving.rewards import load_reward_model, reader, worker
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


def test_the_page_and_the_card_show_the_measured_figures():
    figures = json.loads((STEP_REWARD_PATH / "evaluation.json").read_text())
    card = (STEP_REWARD_PATH / "README.md").read_text()
    assert figures["num_questions"] >= 300
    for name, row in figures["rewards"].items():
        best = row["best_of_8"]
        told = f"{100 * best['value']:.1f} [{100 * best['low']:.1f}, {100 * best['high']:.1f}]"
        for text in (PAGE, card):
            line = [line for line in text.splitlines() if line.startswith(f"| {name} |")][-1]
            assert f"| {row['auroc_pairs_within_level']:.3f} |" in line
            assert f"| {row['result_pairs']:.3f} |" in line
            assert told in line


def test_the_default_reward_is_the_one_that_rates_best():
    """The default has the highest AUROC within a level, and chooses better than one sample beyond the intervals."""
    figures = json.loads((STEP_REWARD_PATH / "evaluation.json").read_text())
    (default, row), *others = figures["rewards"].items()
    assert figures["normalisers"][default] == load_reward_model("embedded", device="cpu").normaliser
    assert all(row["auroc_pairs_within_level"] > other["auroc_pairs_within_level"] for _, other in others)
    assert row["best_of_8"]["low"] > figures["one_sample"]["high"]
