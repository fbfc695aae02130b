"""What an evaluation's arguments come to, checked before any model is loaded."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hf_dynasor import __version__
from hf_dynasor.answers import Sandbox
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.evaluation.asking import list_asks
from hf_dynasor.evaluation.data_sets import load_items
from hf_dynasor.evaluation.graders import Grade, make_grader
from hf_dynasor.evaluation.recording import check_full_budget
from hf_dynasor.evaluation.records import write_recipe
from hf_dynasor.evaluation.run_folder import RunInfo
from hf_dynasor.evaluation.script_arguments import ScriptArguments
from hf_dynasor.evaluation.tasks import TaskItem, TaskTemplate
from hf_dynasor.evaluation.templates import find_template
from hf_dynasor.recipe import Recipe
from hf_dynasor.snapshots import describe_value

PACKAGES = ("torch", "transformers", "tokenizers", "math-verify")


class Plan:
    """What the arguments come to, checked before any model is loaded.

    Args:
        arguments: See `parse_script_arguments`.

    Attributes:
        folder, overwrite: Where the run goes, and whether an earlier one is removed.
        template, asks, recipe: The task, every question with every seed, and how they are solved.
        info: What the run's records say; the engine's name is not known yet.
        grade: Whether an answer is right.
    """

    def __init__(self, arguments: ScriptArguments) -> None:
        self.arguments = arguments
        data, program, run = arguments.data, arguments.program, arguments.run
        self.folder, self.overwrite = Path(str(run.output_dir)), run.overwrite_output_dir
        self.template = find_template(data.task)
        self.recipe = program.make_recipe(self.template, record_trace=run.record_trace)
        self.grade = _make_grade(self.template, self.recipe, run_code=program.run_code)
        if run.record_trace:
            self._check_trace()
        items = load_items(
            self.template,
            data_file=data.data_file,
            dataset=data.dataset_name,
            config=data.dataset_config_name,
            split=data.dataset_split,
            limit=data.max_eval_samples,
        )
        self.asks = list_asks(items, program.seeds)
        self.info = describe_run(arguments, self.template, self.recipe, items)

    def _check_trace(self) -> None:
        if len(self.arguments.program.seeds) != 1 or self.template.grader != "answer":
            raise ConfigurationError(
                f"Got record_trace with {len(self.arguments.program.seeds)} seeds and the grader "
                f"{self.template.grader!r}. Expected one seed, and answers that are compared with the right one."
            )
        check_full_budget(self.recipe)


def describe_run(
    arguments: ScriptArguments, template: TaskTemplate, recipe: Recipe, items: Sequence[TaskItem]
) -> RunInfo:
    """What a run's records say of it; equal for runs that must come to the same."""
    data, model = arguments.data, arguments.model
    knob = recipe.build("What is 1+1?")[0].knob
    policy = arguments.program.policy or recipe.build_policy().name
    asked = [(item.question.id, item.question.question, item.question.answer) for item in items]
    settings = {
        **{
            name: value
            for name, value in write_recipe(recipe).items()
            if name not in ("seed", "program", "budget")
        },
        "policy_settings": describe_value(recipe.build_policy()),
        **{
            f"model_{name}": getattr(model, name)
            for name in (
                "engine",
                "dtype",
                "quantization",
                "attn_implementation",
                "scheduler",
                "reward_model",
            )
        },
        "model_revision": model.model_revision,
        "grader": template.grader,
        "dataset_split": data.dataset_split or (template.split if data.data_file is None else None),
        "questions_digest": hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16],
        "record_trace": arguments.run.record_trace,
    }
    return RunInfo(
        name=arguments.run.run_name or f"{recipe.program} {policy} {knob.maximum}",
        task=template.name,
        dataset=data.data_file or data.dataset_name or template.dataset,
        model=model.model_name_or_path,
        engine="",
        program=recipe.program,
        policy=policy,
        budget=knob.maximum,
        unit=knob.unit,
        seeds=tuple(arguments.program.seeds),
        settings=settings,
        versions=list_versions(),
    )


def list_versions() -> dict[str, str]:
    """Of Python and of the packages that a result depends on, those that are installed."""
    found = {"python": platform.python_version(), "hf-dynasor": __version__}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _make_grade(template: TaskTemplate, recipe: Recipe, *, run_code: bool) -> Grade:
    sandbox = Sandbox() if run_code and template.runs_code else None
    return make_grader(template, answer_format=recipe.answer_format, sandbox=sandbox)
