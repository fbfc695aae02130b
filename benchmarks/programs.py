"""Accuracy against tokens: samples, trees and searches on the embedded reasoner, caps swept.

The same held-back questions, seeds and sampling for every program. Best-of-n and the majority vote read the same
samples; a smaller cap of samples or of MCTS iterations is the beginning of the larger one's run, so one run gives all
caps; a tree of another width is another tree, and is grown for each. `NAME+greedy` is the program NAME whose first unit
is the greedy path. Prints a table and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeAlias

import torch
from programs_report import CAPS, Cell, plot, print_report

from hf_dynasor.answers import group_answers, is_correct, majority
from hf_dynasor.embedded.problems import generate_problems
from hf_dynasor.engine import Engine
from hf_dynasor.evaluation import EvaluationReport, Question, evaluate
from hf_dynasor.grants import Answer, Decision, StopReason
from hf_dynasor.paths import PathRecord
from hf_dynasor.recipe import Recipe
from hf_dynasor.serving import make_engine

Job: TypeAlias = Callable[[str, Recipe, list[Question], Engine], list[Cell]]

QUESTION_SEED = 2026
MAX_ACTIVE = 48
BATCH = 4
PART = 125


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchAfterBatch:
    """Grants one batch of iterations at a time, so that the trace tells the tokens after each."""

    name: str = "batch_after_batch"

    def allocate(self, knob, trace):
        """The next batch, until the cap."""
        left = knob.maximum - (trace[-1].total if trace else 0)
        return Decision(units=min(BATCH, left), stop_reason=None if left else StopReason.BUDGET)


def main() -> None:
    """Run what is not in the file of cells yet, and report."""
    arguments = _parse()
    torch.set_num_threads(1)
    problems = generate_problems(arguments.num_questions, seed=QUESTION_SEED, split="test")
    questions = [Question(id=item.id, question=item.question, answer=item.answer) for item in problems]
    parts = [questions[start : start + PART] for start in range(0, len(questions), PART)]
    cells = _read_cells(arguments.cells, parts)
    with make_engine(arguments.model, engine=arguments.engine) as engine:
        for program, seed, part in _plan(arguments, len(parts)):
            if not any((cell.program, cell.seed, cell.part) == (program, seed, part) for cell in cells):
                recipe = Recipe(
                    temperature=arguments.temperature, max_new_tokens=256, policy="even", seed=seed
                )
                job = _find_job(program)
                new = [replace(cell, part=part) for cell in job(program, recipe, parts[part], engine)]
                _write_cells(arguments.cells, new)
                cells += new
    rows = print_report(cells)
    if arguments.plot:
        plot(rows, arguments.plot)


def _plan(arguments: argparse.Namespace, num_parts: int) -> Iterator[tuple[str, int, int]]:
    """The runs: program, seed and part of the questions."""
    chosen = [part for part in range(num_parts) if part in (arguments.parts or range(num_parts))]
    yield from (("greedy", 0, part) for part in chosen)
    for seed in range(arguments.num_seeds):
        for part in chosen:
            for program in arguments.programs:
                yield program, seed, part


def _solve(recipe: Recipe, questions: list[Question], engine: Engine) -> EvaluationReport:
    report = evaluate(questions, recipe, engine, max_active=MAX_ACTIVE)
    print(
        f"{recipe.program:16} cap {recipe.budget:3} seed {recipe.seed}: {report.accuracy:6.1%} "
        f"{report.usage.net_tokens:>10,} tokens {report.seconds:6.0f} s",
        flush=True,
    )
    assert not report.errors, report.errors[0].error
    return report


def _run_greedy(program: str, recipe: Recipe, questions: list[Question], engine: Engine) -> list[Cell]:
    recipe = Recipe(temperature=0, budget=1, max_new_tokens=256, policy="even", seed=0)
    return [_make_cell(program, 1, 0, _solve(recipe, questions, engine))]


def _run_widths(program: str, recipe: Recipe, questions: list[Question], engine: Engine) -> list[Cell]:
    return [
        _make_cell(program, cap, recipe.seed, _solve(_change(recipe, program, cap), questions, engine))
        for cap in CAPS[1:]  # a tree of width 1 is one sample
    ]


def _run_samples(program: str, recipe: Recipe, questions: list[Question], engine: Engine) -> list[Cell]:
    """Best-of-n, and the vote over the same samples, at every cap."""
    report = _solve(_change(recipe, program, CAPS[-1]), questions, engine)
    cells = []
    for cap in CAPS:
        for name, choose in (("self_consistency", _choose_majority), ("best_of_n", _choose_best)):
            cells.append(_read_prefix(name, cap, recipe.seed, report, choose))
    return cells[::-1]


def _run_search(program: str, recipe: Recipe, questions: list[Question], engine: Engine) -> list[Cell]:
    policy = BatchAfterBatch() if program.startswith("mcts") else "even"
    report = _solve(_change(recipe, program, CAPS[-1], policy=policy), questions, engine)
    return [_read_prefix(program, cap, recipe.seed, report, _choose_best) for cap in CAPS]


def _change(recipe: Recipe, program: str, cap: int, policy: object = "even") -> Recipe:
    name, _, variant = program.partition("+")
    return Recipe(
        program=name,
        budget=cap,
        policy=policy,
        program_options={"greedy_first": True} if variant == "greedy" else {},
        temperature=recipe.temperature,
        max_new_tokens=recipe.max_new_tokens,
        seed=recipe.seed,
    )


def _make_cell(program: str, cap: int, seed: int, report: EvaluationReport) -> Cell:
    return Cell(
        program=program,
        cap=cap,
        seed=seed,
        part=0,
        rights="".join(str(int(result.is_correct)) for result in report.results),
        net_tokens=report.usage.net_tokens,
        sequential_tokens=report.sequential_tokens,
    )


def _read_prefix(
    program: str,
    cap: int,
    seed: int,
    report: EvaluationReport,
    choose: Callable[[Sequence[PathRecord]], str | None],
) -> Cell:
    """The cell of a smaller cap, from the first units of a run with a larger one."""
    rights, net_tokens, sequential = [], 0, 0
    for result in report.results:
        paths = [path for path in result.answer.paths if path.unit < cap]
        text = choose([path for path in paths if path.is_terminal])
        rights.append(str(int(text is not None and is_correct(text, result.question.answer))))
        net_tokens += sum(path.num_tokens for path in paths)
        sequential += _count_sequential(result.answer, cap, paths)
    is_known = not program.startswith("mcts") or cap % BATCH == 0
    return Cell(
        program=program,
        cap=cap,
        seed=seed,
        part=0,
        rights="".join(rights),
        net_tokens=net_tokens,
        sequential_tokens=sequential if is_known else None,
    )


def _count_sequential(answer: Answer, cap: int, paths: Sequence[PathRecord]) -> int:
    """From the trace where it has a record at this cap; else samples, which run side by side."""
    at_cap = next((record for record in answer.trace if record.total == cap), None)
    if at_cap is not None:
        return at_cap.sequential_tokens
    lengths: dict[int, int] = {}
    for path in paths:
        lengths[path.unit] = lengths.get(path.unit, 0) + path.num_tokens
    return max(lengths.values())


def _choose_majority(leaves: Sequence[PathRecord]) -> str | None:
    return majority([leaf.answer for leaf in leaves])


def _choose_best(leaves: Sequence[PathRecord]) -> str | None:
    """As `BestOfN` and `MCTS` choose: the group with the best path; of equals the larger, then the first in order."""
    groups = group_answers([leaf.answer for leaf in leaves]).groups
    best = [max(leaves[index].reward or 0.0 for index in group.indices) for group in groups]
    order = sorted(range(len(groups)), key=lambda i: (-best[i], -groups[i].size, groups[i].representative))
    return groups[order[0]].representative if order else None


def _find_job(program: str) -> Job:
    """How a program's caps are run: each by itself, or all from the largest one's run."""
    if program == "best_of_n+greedy":
        return _run_search
    return JOBS.get(program.partition("+")[0], _run_widths)


JOBS: dict[str, Job] = {"greedy": _run_greedy, "best_of_n": _run_samples, "mcts": _run_search}


def _read_cells(path: Path | None, parts: list[list[Question]]) -> list[Cell]:
    if path is None or not path.exists():
        return []
    cells = [Cell(**json.loads(line)) for line in path.read_text().splitlines()]
    return [cell for cell in cells if cell.part < len(parts) and len(cell.rights) == len(parts[cell.part])]


def _write_cells(path: Path | None, cells: list[Cell]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.writelines(json.dumps(asdict(cell)) + "\n" for cell in cells)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-questions", type=int, default=500)
    parser.add_argument("--num-seeds", type=int, default=3)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--programs", nargs="+", default=["best_of_n", "rebase", "mcts", "beam"])
    parser.add_argument(
        "--parts", type=int, nargs="+", help=f"run these parts of {PART} questions only, counted from 0"
    )
    parser.add_argument("--cells", type=Path, help="file that keeps finished runs for the next call")
    parser.add_argument("--plot", type=Path, help="write the plot to this file, such as plot.svg")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--engine", default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
