"""A program of the simulator: it votes on recorded answers and really asks its allocation policy for more."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hf_dynasor.certaindex import Certaindex, agreement, normalised_entropy
from hf_dynasor.core import Usage
from hf_dynasor.errors import ProgramError
from hf_dynasor.grants import AllocationPolicy, GrantRecord, Knob
from hf_dynasor.scheduler.simulate.workload import RecordedBranch, RecordedQuestion, Workload


class SimulatedProgram:
    """Self-consistency over recorded branches, in the order that was drawn for this program.

    Args:
        question: Where the branches come from.
        branches: As many of them as the full budget, in the order in which they are spent.
        policy: Grants units.
        unit: What a branch is called.
        stop_decided: Whether branches that cannot change the vote are given up, as `SelfConsistency` can.
    """

    def __init__(
        self,
        question: RecordedQuestion,
        branches: Sequence[RecordedBranch],
        policy: AllocationPolicy,
        unit: str,
        stop_decided: bool = False,
    ) -> None:
        self.question = question
        self.branches = branches
        self.trace: tuple[GrantRecord, ...] = ()
        self.open: set[int] = set()
        self.num_tokens = 0
        self._finished: set[int] = set()
        self._stop_decided = stop_decided
        self._policy = policy
        self._knob = Knob(unit=unit, maximum=len(branches))
        self._num_granted = 0

    @property
    def certaindex(self) -> Certaindex:
        """The last reading."""
        return self.trace[-1].certaindex

    @property
    def num_units(self) -> int:
        """Branches that were granted."""
        return self._num_granted

    def ask(self) -> range:
        """Indices of the branches of the next grant; none where the policy denies or the vote is decided."""
        if self._stop_decided and self._is_decided():
            return range(0)
        decision = self._policy.allocate(self._knob, self.trace)
        first = self._num_granted
        if decision.units > len(self.branches) - first:
            raise ProgramError(
                f"Policy {self._policy.name!r} granted {decision.units} but at most {len(self.branches) - first} are left."
            )
        self._num_granted += decision.units
        self.open = set(range(first, self._num_granted))
        return range(first, self._num_granted)

    def note_finished(self, index: int) -> bool:
        """A branch ended; returns whether the grant is over, and then the certaindex is new.

        What is left in `open` then cannot change the vote and is to be given up.
        """
        self.num_tokens += self.branches[index].num_tokens
        self.open.discard(index)
        self._finished.add(index)
        if self.open and not (self._stop_decided and self._is_decided()):
            return False
        self.trace = (*self.trace, self._record())
        return True

    def give_up(self, index: int, num_tokens: int) -> None:
        """A branch was given up after so many tokens, which count."""
        self.open.discard(index)
        self.num_tokens += num_tokens

    def is_right(self) -> bool:
        """Whether the majority's answer is right; of equal groups the one that was seen first."""
        stated = [branch for branch in self._list_finished() if branch.group is not None]
        if not stated:
            return False
        winner = Counter(branch.group for branch in stated).most_common(1)[0][0]
        return next(branch.is_correct for branch in stated if branch.group == winner)

    def _list_finished(self) -> list[RecordedBranch]:
        """By index: the vote must not depend on which branch ended first."""
        return [self.branches[index] for index in sorted(self._finished)]

    def _is_decided(self) -> bool:
        """Whether no vote of the branches that are left of the full budget can change the majority."""
        counts = Counter(branch.group for branch in self._list_finished() if branch.group is not None)
        first, second = [*(count for _, count in counts.most_common(2)), 0, 0][:2]
        return first > second + len(self.branches) - len(self._finished)

    def _record(self) -> GrantRecord:
        before = self.trace[-1] if self.trace else None
        total, done = self._num_granted, before.total if before else 0
        wave = max(self.branches[index].num_tokens for index in self._finished if index >= done)
        groups = self._list_groups()
        sizes = tuple(Counter(groups).values())
        has_answer = any(branch.group is not None for branch in self._list_finished())
        return GrantRecord(
            units=total - done,
            total=total,
            certaindex=Certaindex(
                entropy=normalised_entropy(sizes),
                agreement=agreement(sizes) if has_answer else None,
                num_paths=len(self._finished),
            ),
            usage=Usage(sampled=self.num_tokens),
            sequential_tokens=(before.sequential_tokens if before else 0) + wave,
            groups=groups,
        )

    def _list_groups(self) -> tuple[int, ...]:
        """Groups by first appearance; a branch without an answer stands alone."""
        numbers: dict[object, int] = {}
        return tuple(
            numbers.setdefault((index,) if branch.group is None else branch.group, len(numbers))
            for index, branch in enumerate(self._list_finished())
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationReplay:
    """What an allocation costs and answers on a workload, without any engine.

    Args:
        accuracies: For each question, the share of its programs that are right.
        num_tokens: Mean tokens of a program.
    """

    accuracies: tuple[float, ...]
    num_tokens: float

    @property
    def accuracy(self) -> float:
        """Mean over the questions."""
        return sum(self.accuracies) / len(self.accuracies)


def replay_allocation(
    workload: Workload,
    policy: AllocationPolicy,
    *,
    draws: int = 1,
    seed: int = 0,
    stop_decided: bool = False,
) -> AllocationReplay:
    """Run every question's program so many times, each with a random order of its branches.

    Branches end one after another; with `stop_decided`, those that are given up never began and cost nothing.
    """
    programs = [
        [
            _run_alone(question, workload, policy, random.Random(f"{seed}/{draw}/{position}"), stop_decided)
            for draw in range(draws)
        ]
        for position, question in enumerate(workload.questions)
    ]
    return AllocationReplay(
        accuracies=tuple(sum(program.is_right() for program in each) / draws for each in programs),
        num_tokens=sum(program.num_tokens for each in programs for program in each) / (draws * len(programs)),
    )


def _run_alone(
    question: RecordedQuestion,
    workload: Workload,
    policy: AllocationPolicy,
    rng: random.Random,
    stop_decided: bool,
) -> SimulatedProgram:
    branches = rng.sample(question.branches, workload.budget)
    program = SimulatedProgram(question, branches, policy, workload.unit, stop_decided=stop_decided)
    while indices := program.ask():
        for index in indices:
            if program.note_finished(index):
                break
        for index in tuple(program.open):
            program.give_up(index, 0)
    return program


__all__ = ["AllocationReplay", "SimulatedProgram", "replay_allocation"]
