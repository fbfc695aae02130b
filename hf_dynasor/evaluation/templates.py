"""Templates of well-known data sets by name, and one's own from a small YAML file."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from hf_dynasor.errors import ConfigurationError, InputError, name_unknown
from hf_dynasor.evaluation.tasks import TaskTemplate

CODE_INSTRUCTION = "Write the whole program in one block of Python code between ``` lines."
CHOICE_INSTRUCTION = "Please reason step by step, and put the letter of the right choice within \\boxed{}."
GAME24_INSTRUCTION = "Please reason step by step, and put the expression within \\boxed{}."


def read_template(path: str | Path) -> TaskTemplate:
    """A template from a YAML file whose keys are the fields of `TaskTemplate`; `name` is the file's by default.

    Raises:
        InputError: It cannot be read, or a field is unknown or of a wrong kind; the message names it.
    """
    import yaml

    source = Path(path)
    try:
        row = yaml.safe_load(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"Cannot read the template {source}: {' '.join(str(error).split())}.") from None
    if not isinstance(row, dict):
        raise InputError(f"The template {source} is {type(row).__name__} but expected fields and values.")
    known = {item.name for item in fields(TaskTemplate)}
    for name, value in row.items():
        if name not in known:
            raise InputError(f"{source}: unknown field {name!r}. Known: {', '.join(sorted(known))}.")
        if not isinstance(value, str):
            raise InputError(f"{source}: field {name!r} is {value!r} but expected a text.")
    try:
        return TaskTemplate(**{"name": source.stem, **row})
    except ConfigurationError as error:
        raise InputError(f"{source}: {error}") from None


def find_template(name: str) -> TaskTemplate:
    """A template by its name, or from a `.yaml` or `.yml` file.

    Raises:
        ConfigurationError: No such name.
        InputError: The file cannot be read.
    """
    if name.endswith((".yaml", ".yml")):
        return read_template(name)
    if name not in TEMPLATES:
        raise name_unknown("task", name, [*TEMPLATES, "FILE.yaml"])
    return TEMPLATES[name]


_GAME24 = (
    "Use each of the numbers {question} exactly once, with +, -, *, / and brackets, to make an expression that "
    "equals 24."
)

TEMPLATES: dict[str, TaskTemplate] = {
    template.name: template
    for template in (
        TaskTemplate(name="plain", group="level"),
        TaskTemplate(
            name="gsm8k", answer_after="####", answer_format="number", dataset="openai/gsm8k", config="main"
        ),
        TaskTemplate(name="math500", group="level", answer_format="math", dataset="HuggingFaceH4/MATH-500"),
        TaskTemplate(name="asdiv", group="grade"),
        TaskTemplate(name="svamp", group="type", answer_format="number", dataset="ChilleD/SVAMP"),
        TaskTemplate(name="aime", answer_format="number", dataset="HuggingFaceH4/aime_2024", split="train"),
        TaskTemplate(name="amc", answer_format="number", dataset="math-ai/amc23"),
        TaskTemplate(
            name="game24", prompt=_GAME24, question="question", instruction=GAME24_INSTRUCTION,
            answer="", answer_format="text", grader="game24",
        ),
        TaskTemplate(
            name="humaneval", prompt="Complete this function.\n```python\n{prompt}\n```", question="prompt",
            instruction=CODE_INSTRUCTION, answer="", answer_format="code", grader="humaneval",
            dataset="openai/openai_humaneval",
        ),
        TaskTemplate(
            name="mbpp", prompt="{text}\nIt has to pass these tests:\n{test_list}", question="text",
            instruction=CODE_INSTRUCTION, answer="", answer_format="code", grader="mbpp",
            dataset="google-research-datasets/mbpp",
        ),
        TaskTemplate(
            name="livecodebench", prompt="{question_content}\n{starter_code}", question="question_content",
            group="difficulty", instruction=CODE_INSTRUCTION, answer="", answer_format="code",
            grader="livecodebench", dataset="livecodebench/code_generation",
        ),
        TaskTemplate(
            name="choice", prompt="{question}\n{choices}", question="question", choices="choices",
            answer_format="choice", instruction=CHOICE_INSTRUCTION,
        ),
    )
}  # fmt: skip
"""Templates by the name that `--task` takes."""
