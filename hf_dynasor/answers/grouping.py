"""Answers counted: groups of equal answers, and the answer that most of them give.

An answer that was not found is no evidence. It belongs to no group, wins no vote and agrees with nothing, not
even with another answer that was not found.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hf_dynasor.answers.formulas import DEFAULT_TIMEOUT
from hf_dynasor.answers.keys import AnswerFormat, AnswerKey, canonicalise, check_format
from hf_dynasor.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerGroup:
    """Answers that are the same.

    Args:
        key: What they say.
        representative: Their most common spelling, the first seen of several as common.
        indices: Their places in the sequence that was grouped, ascending.
    """

    key: AnswerKey
    representative: str
    indices: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many answers it holds."""
        return len(self.indices)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerGroups:
    """Answers divided into groups of equal ones: every index is in exactly one group, or missing.

    Args:
        groups: The groups, largest first; of groups of one size, the first seen first.
        missing: Places where no answer was found.
    """

    groups: tuple[AnswerGroup, ...]
    missing: tuple[int, ...] = ()

    @property
    def num_missing(self) -> int:
        """How many answers were not found."""
        return len(self.missing)

    @property
    def num_answers(self) -> int:
        """How many answers were found."""
        return sum(group.size for group in self.groups)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Group sizes as a certaindex counts them: every missing answer is a group of its own, at the end."""
        return (*(group.size for group in self.groups), *(1 for _ in self.missing))

    def list_memberships(self) -> tuple[int, ...]:
        """For each answer the number of its group, counted by first appearance; a missing one has its own.

        Examples:
            >>> group_answers(["2", None, "3", "3", "2"]).list_memberships()
            (0, 1, 2, 2, 0)
        """
        starts = [(group.indices[0], group.indices) for group in self.groups]
        starts += [(index, (index,)) for index in self.missing]
        numbers = {index: number for number, (_, indices) in enumerate(sorted(starts)) for index in indices}
        return tuple(numbers[index] for index in range(len(numbers)))


def group_answers(
    answers: Sequence[str | None], *, format: AnswerFormat = "auto", timeout: float = DEFAULT_TIMEOUT
) -> AnswerGroups:
    """Divides answers into groups of equal ones.

    Args:
        answers: Extracted answers; `None`, and a string that says nothing (`""`, `"?"`), is a missing one.
        format: How answers are read, see [`canonicalise`].
        timeout: Seconds that each distinct answer may take at most.

    Returns:
        The groups and the missing answers.

    Raises:
        ConfigurationError: If `format` is unknown or `timeout` is not positive.

    Examples:
        >>> groups = group_answers(["0.5", "2", "1/2", None])
        >>> [(group.representative, group.indices) for group in groups.groups], groups.missing
        ([('0.5', (0, 2)), ('2', (1,))], (3,))
        >>> groups.sizes
        (2, 1, 1)
    """
    check_format(format)
    keys = {
        answer: canonicalise(answer, format=format, timeout=timeout)
        for answer in dict.fromkeys(answers)
        if answer is not None
    }
    return group_by_keys(answers, keys)


def group_by_keys(answers: Sequence[str | None], keys: Mapping[str, AnswerKey]) -> AnswerGroups:
    """Divides answers into groups of equal keys.

    Args:
        answers: Extracted answers; `None` is a missing one.
        keys: The key of each answer; one with an empty value is missing too.
    """
    places: dict[AnswerKey, list[int]] = {}
    missing = []
    for index, answer in enumerate(answers):
        if answer is None or not keys[answer].value:
            missing.append(index)
        else:
            places.setdefault(keys[answer], []).append(index)
    groups = [
        AnswerGroup(key=key, representative=_most_common(answers[i] for i in indices), indices=tuple(indices))
        for key, indices in places.items()
    ]
    return AnswerGroups(groups=tuple(sorted(groups, key=lambda group: -group.size)), missing=tuple(missing))


def majority(
    answers: Sequence[str | None] | AnswerGroups,
    *,
    weights: Sequence[float] | None = None,
    format: AnswerFormat = "auto",
    timeout: float = DEFAULT_TIMEOUT,
) -> str | None:
    """The answer with the most votes, in its most common spelling.

    Args:
        answers: Extracted answers, or groups that were made of them.
        weights: The vote of each answer, finite and not negative; without it each has one.
        format: How answers are read, see [`canonicalise`].
        timeout: Seconds that each distinct answer may take at most.

    Returns:
        The answer; the larger group, then the one seen first, wins a tie. `None` where no answer was found.

    Raises:
        ConfigurationError: If a weight is negative or not finite, if there is not one weight for each answer, or
            if `format` is unknown.

    Examples:
        >>> majority(["18", "20", "$18", None])
        '18'
        >>> majority(["18", "20", "$18"], weights=[0.1, 0.9, 0.2])
        '20'
    """
    groups = (
        answers
        if isinstance(answers, AnswerGroups)
        else group_answers(answers, format=format, timeout=timeout)
    )
    if weights is not None:
        _check_weights(weights, groups.num_answers + groups.num_missing)
    if not groups.groups:
        return None
    if weights is None:
        return groups.groups[0].representative
    # `max` keeps the first of equals, and the groups are in order of size, then of appearance.
    return max(groups.groups, key=lambda group: math.fsum(weights[i] for i in group.indices)).representative


def _check_weights(weights: Sequence[float], num_answers: int) -> None:
    if len(weights) != num_answers:
        raise ConfigurationError(
            f"Got {len(weights)} weights for {num_answers} answers but expected one for each."
        )
    for weight in weights:
        if not (math.isfinite(weight) and weight >= 0):
            raise ConfigurationError(f"Got {weight = } but expected a finite number of at least 0.")


def _most_common(spellings: Iterable[str | None]) -> str:
    counts = Counter(spelling for spelling in spellings if spelling is not None)
    return counts.most_common(1)[0][0]
