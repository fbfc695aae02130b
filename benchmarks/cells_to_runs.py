"""Turns the cells that benchmarks/programs.py keeps into run folders that `hf-dynasor report` reads.

    python benchmarks/cells_to_runs.py runs/programs.jsonl --output runs/cells

A cell knows for each question whether it was right, but the tokens only of its 125 questions together: every prediction
gets their mean, the run's setting `tokens` says so, and the report gives no interval of tokens for it. Answers were not kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_dynasor.core import Usage
from hf_dynasor.embedded.problems import generate_problems
from hf_dynasor.evaluation.report_on import list_versions
from hf_dynasor.evaluation.report_settings import MEAN_TOKENS
from hf_dynasor.evaluation.run_folder import Prediction, RunInfo, write_run

QUESTION_SEED, NUM_QUESTIONS, PART = 2026, 500, 125
UNITS = {"greedy": "samples", "self_consistency": "samples", "best_of_n": "samples", "mcts": "iterations"}
PROGRAMS = {"greedy": "greedy decoding"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunKey:
    """What cells of one run share."""

    program: str
    cap: int
    seed: int


def main() -> None:
    """Read, group, write."""
    arguments = _parse()
    problems = generate_problems(NUM_QUESTIONS, seed=QUESTION_SEED, split="test")
    groups: dict[RunKey, list[dict[str, Any]]] = {}
    for line in arguments.cells.read_text().splitlines():
        cell = json.loads(line)
        key = RunKey(program=cell["program"], cap=cell["cap"], seed=cell["seed"])
        if not any(cell["part"] == other["part"] for other in groups.get(key, [])):
            groups.setdefault(key, []).append(cell)
    for key, cells in groups.items():
        write_cells(arguments.output, key, cells, problems)
    print(f"wrote {len(groups)} runs to {arguments.output}")


def write_cells(folder: Path, key: RunKey, cells: Sequence[dict[str, Any]], problems: Sequence[Any]) -> None:
    """One run folder of the parts of a run."""
    unit = UNITS.get(key.program, "width")
    name = f"{key.program}-{key.cap}-seed{key.seed}"
    temperature = 0.0 if key.program == "greedy" else 1.0
    info = RunInfo(
        name=name,
        task="math",
        dataset=f"test-{QUESTION_SEED}",
        model="embedded",
        engine="continuous",
        program=PROGRAMS.get(key.program, key.program),
        policy="even",
        budget=key.cap,
        unit=unit,
        seeds=(key.seed,),
        settings={"temperature": temperature, "max_new_tokens": 256, "tokens": MEAN_TOKENS},
        versions=list_versions(),
    )
    predictions = [
        item
        for cell in sorted(cells, key=lambda cell: cell["part"])
        for item in _make_predictions(cell, key, unit, problems[cell["part"] * PART :])
    ]
    command = "python benchmarks/programs.py --engine continuous --num-seeds 3 --cells FILE"
    arguments = {"command": command, "parts": sorted(cell["part"] for cell in cells)}
    write_run(folder / name, info, predictions, arguments=arguments, seconds=0.0)


def _make_predictions(
    cell: dict[str, Any], key: RunKey, unit: str, problems: Sequence[Any]
) -> list[Prediction]:
    """A prediction for each question of a cell; what the division leaves goes to the first ones, so sums are exact."""
    num = len(cell["rights"])
    each, rest = divmod(cell["net_tokens"], num)
    waits = round((cell["sequential_tokens"] or 0) / num)
    return [
        Prediction(
            id=problem.id,
            seed=key.seed,
            question=problem.question,
            gold=problem.answer,
            group=str(problem.level),
            is_right=flag == "1",
            stop_reason="budget",
            usage=Usage(sampled=each + (index < rest)),
            sequential_tokens=waits,
            budget=key.cap,
            unit=unit,
        )
        for index, (flag, problem) in enumerate(zip(cell["rights"], problems, strict=False))
    ]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cells", type=Path, help="what benchmarks/programs.py --cells wrote")
    parser.add_argument("--output", type=Path, default=Path("runs/cells"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
