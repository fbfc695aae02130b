"""Task templates: how a row of a data set becomes a question, and how its answer is graded.

Knows no data set; `hf_dynasor.evaluation.templates` holds those of well-known ones.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from hf_dynasor.answers import AnswerFormat
from hf_dynasor.errors import ConfigurationError, InputError, name_unknown
from hf_dynasor.evaluation.questions import Question

Grader = Literal["answer", "game24", "humaneval", "mbpp", "livecodebench"]
CODE_GRADERS: frozenset[Grader] = frozenset({"humaneval", "mbpp", "livecodebench"})

LETTERS = string.ascii_uppercase
CHOICES = "choices"
ALIASES: Mapping[str, tuple[str, ...]] = {
    "question": ("problem", "question_concat", "Question", "Puzzles"),
    "answer": ("Answer", "answerKey"),
}
"""What data sets call a field besides the name that a template uses; looked for where that is missing."""

NAMES = ("id", "task_id", "unique_id", "question_id", "ID")
"""Fields that may name a row, in this order, where a template says none."""

MAY_BE_EMPTY = frozenset({"starter_code"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskTemplate:
    r"""What to ask about a row, and what is right.

    Args:
        name: What it is called.
        prompt: The question, with fields of the row in braces; `{choices}` is the lettered list of choices.
        answer: The field with the right answer; empty where the row's tests or numbers decide.
        answer_after: Only what follows the last of these texts in the answer counts, such as `####`.
        id: The field that names a row; by default the first of `NAMES` that it has. Rows without a name are numbered.
        group: The field with the domain or difficulty.
        choices: The field with the choices: a list, or an object with `text`; the answer may be a letter, a number
            from 0 (a text of digits counts as a label first), one of the labels, or the choice itself.
        question: The field that is kept as the question in records; by default the whole prompt is.
        instruction: Appended to the prompt; `None` leaves it to the recipe.
        answer_format: How answers are found and told apart.
        grader: `answer` compares with the right answer; `game24` calculates; `humaneval`, `mbpp` and
            `livecodebench` run tests in a sandbox.
        dataset, config, split: Where the data set is on the hub, where nothing else is named.

    Raises:
        ConfigurationError: An unknown grader or format, or braces in `prompt` that name no field.

    Examples:
        >>> template = TaskTemplate(name="sums", prompt="What is {a}+{b}?", answer="sum")
        >>> template.make_item({"a": 2, "b": 3, "sum": 5}, number=0).question.question
        'What is 2+3?'
    """

    name: str
    prompt: str = "{question}"
    answer: str = "answer"
    answer_after: str = ""
    id: str = ""
    group: str = ""
    choices: str = ""
    question: str = ""
    instruction: str | None = None
    answer_format: AnswerFormat = "auto"
    grader: Grader = "answer"
    dataset: str = ""
    config: str = ""
    split: str = "test"

    def __post_init__(self) -> None:
        if self.grader not in get_args(Grader):
            raise name_unknown("grader", self.grader, get_args(Grader))
        if self.answer_format not in get_args(AnswerFormat):
            raise name_unknown("answer format", self.answer_format, get_args(AnswerFormat))
        if not self.list_fields():
            raise ConfigurationError(
                f"Got the prompt {self.prompt!r} without a field of the row. Expected one in braces, such as "
                "'{question}'."
            )
        if CHOICES in self.list_fields() and not self.choices:
            raise ConfigurationError(
                "Got {choices} in the prompt without `choices`, the field that holds them."
            )

    @property
    def runs_code(self) -> bool:
        """Whether its grader runs what the model wrote."""
        return self.grader in CODE_GRADERS

    def list_fields(self) -> tuple[str, ...]:
        """The fields of a row that the prompt shows.

        Raises:
            ConfigurationError: Braces that hold anything but a name.
        """
        try:
            parts = list(string.Formatter().parse(self.prompt))
        except ValueError as error:
            raise ConfigurationError(
                f"Got the prompt {self.prompt!r}: {error}. Write {{{{ for a brace."
            ) from None
        names = [(name, spec, conversion) for _, name, spec, conversion in parts if name is not None]
        for name, spec, conversion in names:
            if not name.isidentifier() or spec or conversion:  # no attribute, no index: a row is data
                raise ConfigurationError(
                    f"Got {{{name}}} in the prompt but expected the name of a field. Write {{{{ for a brace."
                )
        return tuple(dict.fromkeys(name for name, *_ in names))

    def make_item(self, row: Mapping[str, Any], *, number: int) -> TaskItem:
        """The question of a row.

        Args:
            row: Fields and their values.
            number: Its place, from 0, for rows without a name.

        Raises:
            InputError: A field is missing or says nothing.
        """
        shown = {name: self._show(row, name, number) for name in self.list_fields()}
        prompt = self.prompt.format(**shown)
        group = row.get(self.group) if self.group else None
        names = (row[name] for name in ([self.id] if self.id else NAMES) if row.get(name) is not None)
        asked = Question(
            id=str(next(names, f"{self.name}-{number}")),
            question=prompt,
            answer=self._read_gold(row, number),
            group=None if group is None else str(group),
        )
        text = self._show(row, self.question, number) if self.question else prompt
        return TaskItem(question=asked, text=text, row=dict(row) if self.grader != "answer" else {})

    def _show(self, row: Mapping[str, Any], name: str, number: int) -> str:
        if name == CHOICES and self.choices:
            texts = read_choices(self._read(row, self.choices, number), number)
            return "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, texts, strict=False))
        value = self._read(row, name, number)
        if isinstance(value, list):
            return "\n".join(map(str, value))
        return value.strip() if isinstance(value, str) else str(value)

    def _read(self, row: Mapping[str, Any], name: str, number: int) -> Any:
        spelt = (row[key] for key in (name, *ALIASES.get(name, ())) if row.get(key) is not None)
        value = next(spelt, None)
        is_empty = isinstance(value, str) and not value.strip() and name not in MAY_BE_EMPTY
        if value is None or is_empty:
            known = ", ".join(sorted(key for key in row if row[key] is not None))
            raise InputError(
                f"Row {number} has no field {name!r} for template {self.name!r}. It has: {known}."
            )
        return value

    def _read_gold(self, row: Mapping[str, Any], number: int) -> str:
        if self.grader == "game24":
            return "24"
        if not self.answer:
            return "passes its tests"
        value = self._read(row, self.answer, number)
        if self.choices:
            return find_letter(value, self._read(row, self.choices, number), number)
        if isinstance(value, list):
            value = value[0] if len(value) == 1 else ", ".join(map(str, value))
        text = str(value)
        return text.rpartition(self.answer_after)[2].strip() if self.answer_after else text.strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskItem:
    """A row, ready to be asked.

    Args:
        question: The prompt, the right answer, its name and group.
        text: The question as the data set has it, for records.
        row: All of the row, for graders that need more than the right answer.
    """

    question: Question
    text: str
    row: Mapping[str, Any]


def read_choices(value: Any, number: int) -> tuple[str, ...]:
    """The texts of a row's choices: from a list, or from an object with `text` as ARC has it.

    Raises:
        InputError: Neither, or too few or too many.
    """
    texts = value.get("text") if isinstance(value, Mapping) else value
    if not isinstance(texts, Sequence) or isinstance(texts, str) or not 2 <= len(texts) <= len(LETTERS):
        raise InputError(
            f"Row {number} has choices {value!r} but expected a list of 2 to {len(LETTERS)} texts."
        )
    return tuple(str(text).strip() for text in texts)


def find_letter(answer: Any, choices: Any, number: int) -> str:
    """The letter of the right choice.

    Raises:
        InputError: The answer is none of the choices.

    Examples:
        >>> find_letter(2, ["x", "y", "z"], 0), find_letter("y", ["x", "y"], 0)
        ('C', 'B')
        >>> find_letter("1", {"text": ["x", "y"], "label": ["1", "2"]}, 0)
        'A'
    """
    texts = read_choices(choices, number)
    labels = tuple(map(str, choices.get("label", ()))) if isinstance(choices, Mapping) else ()
    told = str(answer).strip()
    for known in (labels, texts, tuple(LETTERS[: len(texts)]), tuple(map(str, range(len(texts))))):
        if told in known:
            return LETTERS[known.index(told)]
    raise InputError(
        f"Row {number} has the answer {answer!r} but expected one of its {len(texts)} choices: a letter, a number "
        "from 0, or the choice itself."
    )
