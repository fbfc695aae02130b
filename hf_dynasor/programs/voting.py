"""Votes over answers, and when no vote that is still out can change them. Pure arithmetic on groups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from hf_dynasor.answers import AnswerGroup
from hf_dynasor.errors import name_unknown

Vote: TypeAlias = Literal["majority", "reward", "certainty"]

_SLACK = 1e-9
"""What sums of weights may be off by: a lead below it is none."""


def check_vote(vote: str) -> None:
    """Raise `ConfigurationError` for a vote that does not exist."""
    if vote not in get_args(Vote):
        raise name_unknown("vote", vote, get_args(Vote))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """One candidate.

    Args:
        group: The answers that are its votes.
        weight: What they weigh together.
        first: Index of its earliest sample.
    """

    group: AnswerGroup
    weight: float
    first: int


def count_votes(
    groups: Sequence[AnswerGroup],
    *,
    weights: Mapping[int, float] | None = None,
    samples: Sequence[int] | None = None,
) -> list[Tally]:
    """The candidates, the winner first: by weight, then by number of votes, then by the earliest sample.

    Args:
        groups: Groups of equal answers, by their places.
        weights: What the answer at each place weighs, in [0, 1]; `None` gives every vote 1, a place without one 0.
        samples: The sample at each place, ascending, where some are still out; `None` if all are there.

    Examples:
        >>> from hf_dynasor.answers import group_answers
        >>> groups = group_answers(["4", "5", "5"]).groups
        >>> [tally.group.representative for tally in count_votes(groups, weights={0: 0.9, 1: 0.3, 2: 0.4})]
        ['4', '5']
    """
    tallies = [
        Tally(
            group=group,
            weight=_weigh(group, weights),
            first=group.indices[0] if samples is None else samples[group.indices[0]],
        )
        for group in groups
    ]
    return sorted(tallies, key=lambda tally: (-tally.weight, -tally.group.size, tally.first))


def is_decided(tallies: Sequence[Tally], outstanding: Sequence[int], *, is_weighted: bool = False) -> bool:
    """Whether the winner stays the winner, whatever the samples that are still out will say.

    The strongest rival is one that gets all of them, at weight 1 each. Of votes that end level the winner is the
    group with the earliest sample, so a level end is decided only if no rival can begin earlier.

    Args:
        tallies: As `count_votes` gives them.
        outstanding: Indices of the samples that have not voted yet.
        is_weighted: Weights are no counts: a level end then counts as open.

    Returns:
        True as well where nothing is out.

    Examples:
        >>> from hf_dynasor.answers import group_answers
        >>> tallies = count_votes(group_answers(["4", "4", "5"]).groups)
        >>> is_decided(tallies, [3]), is_decided(tallies, [3, 4])
        (True, False)
    """
    if not outstanding:
        return True
    if not tallies:
        return False
    leader, *rivals = tallies
    earliest, extra = min(outstanding), len(outstanding)
    reach = [(rival.weight + extra, min(rival.first, earliest)) for rival in rivals]
    reach.append((float(extra), earliest))  # an answer that nobody has given yet
    if is_weighted:
        return all(leader.weight > weight + _SLACK for weight, _ in reach)
    return all((leader.weight, -leader.first) > (weight, -start) for weight, start in reach)


def _weigh(group: AnswerGroup, weights: Mapping[int, float] | None) -> float:
    if weights is None:
        return float(group.size)
    return math.fsum(weights.get(index, 0.0) for index in group.indices)
