"""The runs that the figures are replayed from: full runs of the embedded reasoner, each made once and resumable.

    python benchmarks/paper record [--runs FOLDER] [--only mcts_test ...] [--num-questions 250]

Test questions and questions for calibration are generated with different seeds, so no setting is chosen where it is
judged. Rebase is recorded in grants of 4 and 12, for policies that read after 4 units, and in one even grant of each width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_dynasor.embedded.problems import generate_problems
from hf_dynasor.evaluation import Question
from hf_dynasor.evaluation.recording import InGrants
from hf_dynasor.evaluation.report_on import write_trace_run
from hf_dynasor.evaluation.report_record import record_trace
from hf_dynasor.recipe import Recipe

TEST_SEED, CALIBRATION_SEED = 2026, 4711
DATASETS = {TEST_SEED: "test-2026", CALIBRATION_SEED: "test-4711"}
GRANTS = (4, 12)
TREES: dict[str, Any] = {"budget": 16, "temperature": 1.0, "max_new_tokens": 256}
SAMPLES: dict[str, Any] = {"budget": 20, "temperature": 0.7}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One run: the questions' seed, how many, the recipe, and the grants where it is not one even grant."""

    question_seed: int
    num_questions: int
    recipe: dict[str, Any] = field(default_factory=dict)
    grants: tuple[int, ...] = ()


def _make(question_seed: int, num: int, program: str, seed: int, options: dict[str, Any]) -> Recording:
    return Recording(
        question_seed=question_seed,
        num_questions=num,
        recipe={"program": program, "seed": seed, **options},
    )


RECORDINGS = {
    "self_consistency_test": _make(TEST_SEED, 500, "self_consistency", 0, SAMPLES),
    "self_consistency_test_1": _make(TEST_SEED, 500, "self_consistency", 1, SAMPLES),
    "self_consistency_test_2": _make(TEST_SEED, 500, "self_consistency", 2, SAMPLES),
    "self_consistency_calibration": _make(CALIBRATION_SEED, 500, "self_consistency", 1, SAMPLES),
    "mcts_test": _make(TEST_SEED, 500, "mcts", 0, TREES),
    "mcts_calibration": _make(CALIBRATION_SEED, 250, "mcts", 1, TREES),
    "rebase_even_test": _make(TEST_SEED, 500, "rebase", 0, TREES),
    "rebase_even_8_test": _make(TEST_SEED, 500, "rebase", 0, TREES | {"budget": 8}),
    "rebase_even_4_test": _make(TEST_SEED, 500, "rebase", 0, TREES | {"budget": 4}),
    "rebase_test": Recording(
        question_seed=TEST_SEED,
        num_questions=500,
        recipe={"program": "rebase", "seed": 0, **TREES},
        grants=GRANTS,
    ),
    "rebase_calibration": Recording(
        question_seed=CALIBRATION_SEED,
        num_questions=250,
        recipe={"program": "rebase", "seed": 1, **TREES},
        grants=GRANTS,
    ),
}


def record(runs: Path, names: list[str], num_questions: int | None, max_active: int) -> None:
    """Make what is missing of the named runs; all of them where none is named."""
    import torch

    from hf_dynasor.serving import make_engine

    torch.set_num_threads(1)
    with make_engine("embedded", engine="continuous") as engine:
        for name in names or RECORDINGS:
            item = RECORDINGS[name]
            policy: Any = InGrants(sizes=item.grants) if item.grants else "even"
            recipe = Recipe(policy=policy, logprobs=True, **item.recipe)
            questions = make_questions(item.question_seed, num_questions or item.num_questions)
            made = record_trace(runs / name / "trace.jsonl", questions, recipe, engine, max_active=max_active)
            write_folder(runs / name)
            print(f"{name}: {made} questions were run", flush=True)


def write_folder(folder: Path) -> None:
    """Make a run folder of a trace that stands there under the name of a recording."""
    item = RECORDINGS[folder.name]
    write_trace_run(folder, model="embedded", dataset=DATASETS[item.question_seed], grants=item.grants)


def make_questions(seed: int, num: int) -> list[Question]:
    """Generated questions of all levels that the reasoner was not trained on."""
    return [
        Question(id=item.id, question=item.question, answer=item.answer, group=str(item.level))
        for item in generate_problems(num, seed=seed, split="test")
    ]
