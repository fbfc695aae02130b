"""What divides answers into groups: by key, by likeness of meaning, or by what code does. The first is the default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hf_dynasor.answers.grouping import AnswerGroups, group_answers
from hf_dynasor.answers.keys import AnswerFormat, check_format


class Grouper(Protocol):
    """Divides answers into groups; every index ends in exactly one group, or missing."""

    @property
    def is_stable(self) -> bool:
        """Whether two answers are together or apart whatever other answers there are."""
        ...

    def group(self, answers: Sequence[str | None]) -> AnswerGroups:
        """The groups, largest first; of groups of one size, the first seen first."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyGrouper:
    """Equal keys are equal answers, see `hf_dynasor.answers.canonicalise`.

    Args:
        format: What answers are read as.
    """

    format: AnswerFormat = "auto"

    def __post_init__(self) -> None:
        check_format(self.format)

    @property
    def is_stable(self) -> bool:
        """True: the key of an answer depends on that answer alone."""
        return True

    def group(self, answers: Sequence[str | None]) -> AnswerGroups:
        """Groups of equal keys."""
        return group_answers(answers, format=self.format)
