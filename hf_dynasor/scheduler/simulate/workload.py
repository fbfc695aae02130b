"""Workloads: what recorded programs cost and answered, without a text. Lengths are real; only time is simulated."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hf_dynasor.errors import ConfigurationError, InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedBranch:
    """One finished branch of a question.

    Args:
        num_tokens: Tokens that it generated, at least 1.
        group: Number of its answer, equal for equal answers; `None` where it states none.
        is_correct: Whether the answer is right.
    """

    num_tokens: int
    group: int | None
    is_correct: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedQuestion:
    """A question with all branches that were recorded for it.

    Args:
        id: The question.
        prompt_tokens: Tokens of its prompt.
        branches: In the order in which they were sampled.
    """

    id: str
    prompt_tokens: int
    branches: tuple[RecordedBranch, ...]

    @property
    def difficulty(self) -> int:
        """1 where every branch is right, 3 where none is, else 2 (paper §5)."""
        num_right = sum(branch.is_correct for branch in self.branches)
        return 1 if num_right == len(self.branches) else 2 if num_right else 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Questions that programs of one kind answer.

    Args:
        name: What it is called.
        unit: What a branch is called.
        budget: Branches of a program at the full budget; each program draws that many of its question's.
        questions: At least one, each with at least `budget` branches.
    """

    name: str
    unit: str = "samples"
    budget: int
    questions: tuple[RecordedQuestion, ...]

    def __post_init__(self) -> None:
        if not self.questions:
            raise InputError(f"Workload {self.name!r} has no question but needs at least one.")
        if self.budget < 1:
            raise ConfigurationError(f"Got {self.budget = } but expected at least 1.")
        for question in self.questions:
            if len(question.branches) < self.budget:
                raise InputError(
                    f"Question {question.id!r} has {len(question.branches)} {self.unit} but {self.budget = }: lower it."
                )
            if question.prompt_tokens < 1 or any(branch.num_tokens < 1 for branch in question.branches):
                raise InputError(f"Question {question.id!r} has a prompt or a branch without tokens.")

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest branch."""
        return max(branch.num_tokens for question in self.questions for branch in question.branches)

    @property
    def mean_branch_tokens(self) -> float:
        """Mean tokens of a branch."""
        counts = [branch.num_tokens for question in self.questions for branch in question.branches]
        return sum(counts) / len(counts)

    def keep(self, positions: Sequence[int], suffix: str) -> Workload:
        """Some of its questions, under a name with a suffix."""
        questions = tuple(self.questions[position] for position in positions)
        return replace(self, name=f"{self.name}{suffix}", questions=questions)

    def to_dict(self) -> dict[str, Any]:
        """The workload, ready for JSON; a branch is `[tokens, group, right]`."""
        return {
            "workload": self.name,
            "unit": self.unit,
            "budget": self.budget,
            "questions": [
                [
                    item.id,
                    item.prompt_tokens,
                    [[branch.num_tokens, branch.group, int(branch.is_correct)] for branch in item.branches],
                ]
                for item in self.questions
            ],
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Workload:
        """The workload that `to_dict` wrote."""
        try:
            questions = tuple(_read_question(*item) for item in row["questions"])
            return cls(name=row["workload"], unit=row["unit"], budget=int(row["budget"]), questions=questions)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"Not a workload ({error!r}). Expected workload, unit, budget and questions."
            ) from None


def write_workload(workload: Workload, path: str | Path) -> None:
    """Write a workload as compact JSON."""
    Path(path).write_text(json.dumps(workload.to_dict(), separators=(",", ":")) + "\n", encoding="utf-8")


def read_workload(path: str | Path) -> Workload:
    """Read a workload.

    Raises:
        InputError: The file cannot be read or holds none.
    """
    try:
        row = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}.") from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}. Expected a workload.") from None
    if not isinstance(row, dict):
        raise InputError(
            f"{path} holds no workload. Expected an object with workload, unit, budget, questions."
        )
    return Workload.from_dict(row)


def _read_question(id: str, prompt_tokens: int, branches: Sequence[Sequence[Any]]) -> RecordedQuestion:
    read = tuple(
        RecordedBranch(num_tokens=int(tokens), group=group, is_correct=bool(is_right))
        for tokens, group, is_right in branches
    )
    return RecordedQuestion(id=id, prompt_tokens=int(prompt_tokens), branches=read)


__all__ = ["RecordedBranch", "RecordedQuestion", "Workload", "read_workload", "write_workload"]
