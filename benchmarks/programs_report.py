"""What the benchmark of programs measured, and its summary: rows, differences, a plot."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path

from hf_dynasor.evaluation import paired_difference, wilson_interval

CAPS = (1, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One program at one cap with one seed on a part of the questions.

    Args:
        program, cap, seed, part: What was run.
        rights: `1` for each question that was answered right, `0` for the others, in the questions' order.
        net_tokens: Over these questions.
        sequential_tokens: Over these questions; `None` where the run does not tell it for this cap.
    """

    program: str
    cap: int
    seed: int
    part: int
    rights: str
    net_tokens: int
    sequential_tokens: int | None


def print_report(cells: list[Cell]) -> list[dict]:
    """Print the table and the line of JSON, for the questions that every program has answered."""
    programs = list(dict.fromkeys(cell.program for cell in cells))
    rows = [row for program in programs for cap in CAPS if (row := _summarise(cells, program, cap))]
    for row in rows:
        low, high = row["accuracy_interval"]
        print(
            f"{row['program']:18} cap {row['cap']:3}: {row['accuracy']:6.1%} [{low:.1%}, {high:.1%}]  "
            f"{row['net_tokens']:8.1f} net, {row['sequential_tokens'] or float('nan'):7.1f} sequential tokens a question"
        )
    print(json.dumps({"benchmark": "programs", "rows": rows, "differences": _compare(cells, rows)}))
    return rows


def _summarise(cells: list[Cell], program: str, cap: int) -> dict | None:
    mine = [cell for cell in cells if (cell.program, cell.cap) == (program, cap)]
    if not mine:
        return None
    averages = _average(cells, program, cap)
    total = sum(len(cell.rights) for cell in mine)
    # Seeds share their questions, so the interval is that of the questions alone, at the mean accuracy.
    low, high = wilson_interval(round(sum(averages.values())), len(averages))
    known = [cell for cell in mine if cell.sequential_tokens is not None]
    sequential = sum(cell.sequential_tokens for cell in known)
    return {
        "program": program,
        "cap": cap,
        "num_questions": len(averages),
        "num_seeds": len({cell.seed for cell in mine}),
        "accuracy": round(sum(averages.values()) / len(averages), 4),
        "accuracy_interval": [round(low, 4), round(high, 4)],
        "net_tokens": round(sum(cell.net_tokens for cell in mine) / total, 1),
        "sequential_tokens": round(sequential / sum(len(cell.rights) for cell in known), 1)
        if known
        else None,
    }


def _compare(cells: list[Cell], rows: list[dict]) -> dict[str, dict]:
    """Each program at its largest cap against one sample, greedy, and the vote at the same net tokens."""
    found = {}
    for program in dict.fromkeys(row["program"] for row in rows):
        if program in ("greedy", "self_consistency"):
            continue
        mine = [row for row in rows if row["program"] == program]
        cap = mine[-1]["cap"]
        found[program] = {
            "cap": cap,
            "against_one_sample": _difference(cells, ("self_consistency", 1), (program, cap)),
            "against_greedy": _difference(cells, ("greedy", 1), (program, cap)),
            "against_greedy_at": {
                str(row["cap"]): _difference(cells, ("greedy", 1), (program, row["cap"])) for row in mine
            },
            "against_vote_of_same_cap": _difference(cells, ("self_consistency", cap), (program, cap)),
            "points_above_the_vote_at_equal_net_tokens": {
                str(row["cap"]): round((row["accuracy"] - at_equal) * 100, 2)
                for row in mine
                if (at_equal := _interpolate(rows, row)) is not None
            },
        }
    return found


def _difference(cells: list[Cell], one: tuple[str, int], other: tuple[str, int]) -> dict | None:
    """Paired over the questions that both have answered: the mean over seeds of each side, question by question."""
    before, after = _average(cells, *one), _average(cells, *other)
    shared = sorted(set(before) & set(after))
    if not shared:
        return None
    difference = paired_difference([before[place] for place in shared], [after[place] for place in shared])
    return {
        "num_questions": len(shared),
        "points": round(difference.mean * 100, 2),
        "interval": [round(difference.low * 100, 2), round(difference.high * 100, 2)],
    }


def _average(cells: list[Cell], program: str, cap: int) -> dict[tuple[int, int], float]:
    """For each question (its part and its place there) the share of the seeds that answered it right."""
    flags: dict[tuple[int, int], list[int]] = {}
    for cell in cells:
        if (cell.program, cell.cap) == (program, cap):
            for index, flag in enumerate(cell.rights):
                flags.setdefault((cell.part, index), []).append(int(flag))
    return {place: sum(values) / len(values) for place, values in flags.items()}


def _interpolate(rows: list[dict], row: dict) -> float | None:
    """The vote's accuracy at a row's net tokens, between its caps (linear in the logarithm of the tokens).

    `None` outside them, and for a row of other questions.
    """
    counts = {item["num_questions"] for item in rows if item["program"] == "self_consistency"}
    net_tokens = row["net_tokens"]
    if counts != {row["num_questions"]}:
        return None
    votes = [(item["net_tokens"], item["accuracy"]) for item in rows if item["program"] == "self_consistency"]
    for (left, low), (right, high) in itertools.pairwise(votes):
        if left <= net_tokens <= right:
            share = math.log(net_tokens / left) / math.log(right / left)
            return low + share * (high - low)
    return votes[-1][1] if votes and net_tokens > votes[-1][0] else None


def plot(rows: list[dict], path: Path) -> None:
    """Accuracy against net tokens, one line for each program; needs matplotlib (the extra `eval`)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    for program in dict.fromkeys(row["program"] for row in rows):
        mine = [row for row in rows if row["program"] == program]
        if program == "greedy":
            axes.axhline(100 * mine[0]["accuracy"], color="grey", linestyle="--", label="greedy")
            continue
        tokens, values = [row["net_tokens"] for row in mine], [100 * row["accuracy"] for row in mine]
        axes.plot(tokens, values, marker="o", label=f"{program} ({mine[-1]['num_questions']} questions)")
    axes.set(xscale="log", xlabel="net tokens a question", ylabel="accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
