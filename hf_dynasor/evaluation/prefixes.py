"""What a recorded program knew, and would have answered, after each unit of its knob."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hf_dynasor.certaindex import Certaindex
from hf_dynasor.drivers import run
from hf_dynasor.evaluation.records import ProgramTrace
from hf_dynasor.evaluation.replay import ReplayEngine, grade, read_recipe
from hf_dynasor.grants import Decision, GrantRecord, Knob
from hf_dynasor.scheduler.allocation_common import grant_some


class Prefixes(Protocol):
    """One question, unit by unit. `SampleRun` is one, and so is `ProgramPrefixes`."""

    @property
    def knob(self) -> Knob:
        """The dial and its cap."""
        ...

    def read(self, total: int) -> Certaindex:
        """The reading after `total` units."""
        ...

    def is_right(self, total: int) -> bool:
        """Whether the answer after `total` units is right."""
        ...

    def count_net_tokens(self, total: int) -> int:
        """Net tokens of the first `total` units."""
        ...


class ProgramPrefixes:
    """A recorded program that is walked through once, one unit at a time.

    Args:
        trace: The record.
        budget: Units to walk; by default all.

    Raises:
        InputError: The program does something else in single units than it did when it was recorded.
    """

    def __init__(self, trace: ProgramTrace, budget: int | None = None) -> None:
        walk = _Walk()
        program, _ = read_recipe(trace, walk, budget or trace.budget).build(trace.question, label=trace.id)
        records: list[GrantRecord] = []
        are_right: list[bool] = []

        def note(record: GrantRecord) -> None:
            records.append(record)
            are_right.append(grade(trace, program.select_answer()))

        run(program, ReplayEngine({item.request_id: item for item in trace.completions}), walk, on_grant=note)
        self.knob = program.knob
        self._records = records
        self._are_right = are_right

    def read(self, total: int) -> Certaindex:
        """See `Prefixes`."""
        return self._records[total - 1].certaindex

    def is_right(self, total: int) -> bool:
        """See `Prefixes`."""
        return self._are_right[total - 1]

    def count_net_tokens(self, total: int) -> int:
        """See `Prefixes`."""
        return self._records[total - 1].usage.net_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class _Walk:
    """One unit after the other, to the end."""

    name: str = "walk"

    def allocate(self, knob: Knob, trace: Sequence[GrantRecord]) -> Decision:
        return grant_some(knob, trace, 1)
