"""What the commands do, once their options are parsed."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TextIO

from hf_dynasor.cli import display
from hf_dynasor.cli.backends import check_backend_options, open_backend
from hf_dynasor.cli.options import make_recipe
from hf_dynasor.cli.replays import open_output
from hf_dynasor.clock import MonotonicClock
from hf_dynasor.embedded.problems import generate_problems
from hf_dynasor.engine import Ability, Engine
from hf_dynasor.errors import InputError
from hf_dynasor.evaluation import EvaluationReport, QuestionFile, QuestionResult, evaluate, read_questions
from hf_dynasor.evaluation.recording import RecordingEngine, TraceWriter, check_full_budget
from hf_dynasor.evaluation.replay_chains import run_rules_to_end
from hf_dynasor.grants import Answer, GrantRecord
from hf_dynasor.recipe import Recipe

DEFAULT_SEED = 0
EXIT_BAD_INPUT = 2


def run_solve(arguments: argparse.Namespace) -> int:
    """`hf-dynasor solve`: one question, its grants as they come, its answer."""
    recipe = make_recipe(arguments)
    recipe.build_prompt(arguments.question)
    from hf_dynasor.serving.solver import Solver

    with _open_engine(arguments) as engine:
        solver = Solver(engine, recipe=_seed(recipe, engine), timeout=arguments.timeout)
        if not arguments.json:
            _print(f"question: {arguments.question}\n{_describe_run(engine, recipe)}\n")
        clock = MonotonicClock()
        begin = clock.now()
        unit = recipe.build(arguments.question)[0].knob.unit
        answer = solver.solve(arguments.question, on_grant=None if arguments.json else _GrantPrinter(unit))
        seconds = clock.now() - begin
    _print(_solve_json(answer, seconds) if arguments.json else display.describe_answer(answer, seconds))
    if answer.num_failed:
        print(f"hf-dynasor: {answer.num_failed} samples failed and had no vote", file=sys.stderr)
    return 0


def run_eval(arguments: argparse.Namespace) -> int:
    """`hf-dynasor eval`: a file of questions, rows as they end, a summary."""
    recipe = make_recipe(arguments)
    if arguments.trace:
        recipe = run_rules_to_end(recipe)
        check_full_budget(recipe)
    file = read_questions(arguments.file)
    _report_broken_lines(file, arguments.file)
    questions = file.questions[: arguments.limit]
    with (
        _open_engine(arguments) as bare_engine,
        open_output(arguments.output) as rows,
        open_output(arguments.trace) as traces,
    ):
        engine, recipe = RecordingEngine(bare_engine), _seed(recipe, bare_engine)
        if not arguments.json:
            _print(f"{len(questions)} questions from {arguments.file}\n{_describe_run(engine, recipe)}\n")
        writers = [] if traces is None else [TraceWriter(traces, engine, recipe)]
        with _ProgressBar(len(questions), rows) as progress:
            report = evaluate(
                questions,
                recipe,
                engine if writers else bare_engine,
                max_active=arguments.max_active,
                timeout=arguments.timeout,
                on_result=partial(_tell_all, [progress, *writers]),
            )
    _print(json.dumps(report.to_dict()) if arguments.json else display.describe_report(report))
    _report_errors(report)
    return EXIT_BAD_INPUT if file.broken_lines or report.errors else 0


def run_questions(arguments: argparse.Namespace) -> int:
    """`hf-dynasor questions`: generated test questions as JSON lines."""
    levels = {"levels": tuple(arguments.levels)} if arguments.levels else {}
    try:
        problems = generate_problems(arguments.num, seed=arguments.seed, split="test", **levels)
    except ValueError as error:
        raise InputError(str(error)) from None
    for problem in problems:
        row = {
            "id": problem.id,
            "question": problem.question,
            "answer": problem.answer,
            "level": problem.level,
        }
        _print(json.dumps(row))
    return 0


def _tell_all(listeners: Sequence[Callable[[QuestionResult], None]], result: QuestionResult) -> None:
    for listener in listeners:
        listener(result)


class _GrantPrinter:
    """Prints each grant as it ends."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._number = 0

    def __call__(self, record: GrantRecord) -> None:
        self._number += 1
        _print(display.describe_grant(self._number, record, self._unit))


class _ProgressBar:
    """Counts ended questions on the terminal, and writes each one's row at once so that none is lost."""

    def __init__(self, total: int, rows: TextIO | None) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=total, unit="question", file=sys.stderr, disable=not sys.stderr.isatty())
        self._rows = rows
        self._num_right = 0

    def __enter__(self) -> _ProgressBar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def __call__(self, result: QuestionResult) -> None:
        self._num_right += result.is_correct
        self._bar.update()
        self._bar.set_postfix(right=self._num_right)
        if self._rows is not None:
            self._rows.write(json.dumps(result.to_dict()) + "\n")
            self._rows.flush()


@contextlib.contextmanager
def _open_engine(arguments: argparse.Namespace) -> Iterator[Engine]:
    from transformers.utils import logging as transformers_logging

    from hf_dynasor.serving import make_engine

    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    engine: Engine
    if check_backend_options(arguments):
        engine = open_backend(arguments)
    else:
        engine = make_engine(
            arguments.model,
            engine=arguments.engine,
            dtype=arguments.dtype,
            device=arguments.device,
            quantization=arguments.quantization,
            reward=arguments.reward_model,
            reward_kind=arguments.reward_kind,
            scheduler=arguments.scheduler,
        )
    try:
        yield engine
    finally:
        engine.close()


def _seed(recipe: Recipe, engine: Engine) -> Recipe:
    if recipe.seed is None and Ability.SEEDS in engine.abilities:
        return replace(recipe, seed=DEFAULT_SEED)
    return recipe


def _describe_run(engine: Engine, recipe: Recipe) -> str:
    budget = recipe.budget if recipe.budget is not None else "its own"
    return (
        f"engine {engine.name}, program {recipe.program}, policy {recipe.build_policy().name}, "
        f"budget {budget}, temperature {recipe.temperature:g}"
    )


def _report_broken_lines(file: QuestionFile, path: str) -> None:
    for broken in file.broken_lines:
        print(f"hf-dynasor: {path}, {broken} (left out)", file=sys.stderr)


def _report_errors(report: EvaluationReport) -> None:
    for result in report.errors:
        print(
            f"hf-dynasor: question {result.question.id}: {result.error} (counted as wrong)", file=sys.stderr
        )


def _solve_json(answer: Answer, seconds: float) -> str:
    row: dict[str, Any] = answer.to_dict()
    keys = ("answer", "certaindex", "grants", "stop_reason", "usage")
    return json.dumps({key: row[key] for key in keys} | {"seconds": round(seconds, 3)})


def _print(text: str) -> None:
    print(text, flush=True)
