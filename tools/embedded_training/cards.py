"""Writes the tables and the model cards from an evaluation's figures, and from nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Figures = dict[str, Any]

EVALUATION_NAME = "evaluation.json"
_HEADER = """\
---
library_name: transformers
pipeline_tag: {task}
license: apache-2.0
language: en
tags: [dynasor, arithmetic, {tag}]
---
"""


def write_cards(figures: Figures, *, reasoner_folder: Path, step_reward_folder: Path) -> None:
    """Writes README.md into both model folders, and the figures beside the reasoner's card."""
    (reasoner_folder / EVALUATION_NAME).write_text(json.dumps(figures, indent=1) + "\n")
    (reasoner_folder / "README.md").write_text(format_reasoner_card(figures))
    if "trained" in figures["step_reward"]:
        kept = step_reward_folder / EVALUATION_NAME
        fresh = json.loads(kept.read_text()) if kept.exists() else None
        (step_reward_folder / "README.md").write_text(format_step_reward_card(figures, fresh))


def write_step_reward_card(fresh: Figures, *, reasoner_folder: Path, step_reward_folder: Path) -> None:
    """Writes the comparison of step rewards on fresh questions beside the step reward, and its card anew."""
    figures = json.loads((reasoner_folder / EVALUATION_NAME).read_text())
    (step_reward_folder / EVALUATION_NAME).write_text(json.dumps(fresh, indent=1) + "\n")
    (step_reward_folder / "README.md").write_text(format_step_reward_card(figures, fresh))


def format_table(figures: Figures) -> str:
    """Returns accuracy by level in percent, as a Markdown table."""
    rows = [("greedy", figures["greedy"])]
    for temperature, sampling in figures["sampling"].items():
        rows.append((f"T = {temperature}, one sample", sampling["one_sample"]))
        rows += [(f"T = {temperature}, vote of {count}", sampling[f"vote_{count}"]) for count in (5, 10, 20)]
        rows.append((f"T = {temperature}, unanimous at 5", sampling["stopping"]["stopped"]))
    levels = list(figures["greedy"]["by_level"])
    lines = [f"| % | all | {' | '.join(levels)} |", "|---" * (len(levels) + 2) + "|"]
    for name, row in rows:
        cells = [_interval(row["all"]), *(_percent(row["by_level"][level]["value"], 0) for level in levels)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def format_reasoner_card(figures: Figures) -> str:
    """Returns the reasoner's model card."""
    template = (Path(__file__).parent / "reasoner_card.md").read_text()
    sampling = figures["sampling"]
    return _HEADER.format(task="text-generation", tag="chain-of-thought") + template.format(
        num_problems=figures["num_problems"],
        seed=figures["seed"],
        table=format_table(figures),
        sampling="\n".join(_describe_sampling(temperature, row) for temperature, row in sampling.items()),
        step_reward=_format_step_reward_table(figures["step_reward"]),
        long=_describe_long(figures["long"]) if "long" in figures else "Not measured.",
    )


def format_step_reward_card(figures: Figures, fresh: Figures | None = None) -> str:
    """Returns the step reward's model card; `fresh` compares the rewards on further questions."""
    template = (Path(__file__).parent / "step_reward_card.md").read_text()
    return _HEADER.format(task="text-classification", tag="process-reward-model") + template.format(
        num_problems=figures["num_problems"],
        table=_format_step_reward_table(figures["step_reward"]),
        better=_describe_better(figures["step_reward"]),
        fresh=format_fresh_table(fresh) if fresh else "Not measured.",
    )


def format_fresh_table(fresh: Figures) -> str:
    """Returns the comparison of step rewards on fresh questions, as a Markdown table and a sentence."""
    rewards = fresh["rewards"]
    levels = sorted({level for row in rewards.values() for level in row["auroc_by_level"]}, key=int)
    lines = [
        f"| reward | pairs of steps within a level | {' | '.join(levels)} | pairs of chains within a question | pairs that differ in one result | best of 8 |",
        "|---" * (len(levels) + 5) + "|",
    ]
    for name, row in rewards.items():
        within = [
            f"{row['auroc_by_level'][level]:.3f}" if level in row["auroc_by_level"] else "–"
            for level in levels
        ]
        cells = [f"{row['auroc_pairs_within_level']:.3f}", *within]
        cells += [
            f"{row['chain_pairs_within_question']:.3f}",
            f"{row['result_pairs']:.3f}",
            _interval(row["best_of_8"]),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    others = (
        f"One sample {_interval(fresh['one_sample'])}, majority of the eight {_interval(fresh['majority'])}, one of the "
        f"eight right {_interval(fresh['one_of_them_right'])}."
    )
    gains = fresh["best_of_8_gain_of_default_over"] | {
        "majority": fresh["best_of_8_gain_of_default_over_majority"]
    }
    told = ", ".join(
        f"{100 * gain['mean']:+.1f} [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}] on *{name}*"
        for name, gain in gains.items()
    )
    first = next(iter(rewards))
    return "\n".join([*lines, "", others, f"Points of best of 8 by *{first}*, question by question: {told}."])


def _describe_sampling(temperature: str, row: Figures) -> str:
    certaindex, stopping = row["certaindex"], row["stopping"]
    gain = row["vote_20"]["all"]["value"] - row["one_sample"]["all"]["value"]
    return (
        f"- **T = {temperature}.** A vote of 20 is {100 * gain:+.1f} points from one sample. Entropy certaindex at 5 "
        f"samples: AUROC {certaindex['auroc_right_vote']:.3f} for a right vote; with the samples needed (over the "
        f"{certaindex['num_solved']} questions that 20 samples solve) Pearson "
        f"{certaindex['pearson_samples_needed']:.2f}, Kendall {certaindex['kendall_samples_needed']:.2f}. Stopping "
        f"at 5 unanimous samples saves {_percent(stopping['saved_token_share'])}% of the generated tokens of 20 "
        f"samples ({stopping['tokens_per_sample']:.0f} tokens a sample): accuracy "
        f"{_percent(stopping['accuracy_static']['value'])} against {_percent(stopping['accuracy_even']['value'])}."
    )


def _format_step_reward_table(rewards: Figures) -> str:
    levels = sorted({level for reward in rewards.values() for level in reward["auroc_by_level"]}, key=int)
    lines = [
        f"| step reward | AUROC, all levels | pairs within a level | mean of levels | {' | '.join(levels)} | best of 8 | one sample |",
        "|---" * (len(levels) + 6) + "|",
    ]
    for name, reward in rewards.items():
        within = [
            f"{reward['auroc_by_level'][level]:.3f}" if level in reward["auroc_by_level"] else "–"
            for level in levels
        ]
        names = ("auroc_all_levels", "auroc_pairs_within_level", "auroc_mean_within_level")
        cells = [*(f"{reward[key]:.3f}" for key in names), *within]
        cells += [_interval(reward["best_of_8"]), _percent(reward["one_sample"]["value"])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _describe_better(rewards: Figures) -> str:
    gains = ", ".join(
        f"{100 * (reward['best_of_8']['value'] - reward['one_sample']['value']):.1f} by {name}"
        for name, reward in rewards.items()
    )
    best = max(rewards, key=lambda name: rewards[name]["auroc_pairs_within_level"])
    return f"Points that best of 8 gains over one sample: {gains}. Within a level, *{best}* tells steps apart best."


def _describe_long(long: Figures) -> str:
    probes = ", ".join(
        f"{float(fraction):.0%}: {_percent(share['value'])}"
        for fraction, share in long["probe_accuracy"].items()
    )
    return (
        f"At T = {long['temperature']}, {long['accuracy']['all']['num_trials']} questions: "
        f"{long['tokens']:.0f} tokens on average, {_percent(long['finished'])}% finished, accuracy "
        f"{_interval(long['accuracy']['all'])}%; the answer is first stated after "
        f"{_percent(long['stated_after'], 0)}% of the text. Accuracy of a greedy probe after a share of the thought: "
        f"{probes}."
    )


def _percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f}"


def _interval(share: Figures) -> str:
    return f"{_percent(share['value'])} [{_percent(share['low'])}, {_percent(share['high'])}]"
