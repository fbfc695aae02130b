"""One recorded question as far as a policy can stop in it exactly; nothing is generated.

Samples are independent, so every budget is a prefix. A tree is walked through once in the grants that it was recorded
in (or in single units, where its work does not depend on them), and a policy may stop only where the walk has a record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from hf_dynasor.certaindex import Certaindex
from hf_dynasor.drivers import run as run_program
from hf_dynasor.errors import InputError
from hf_dynasor.evaluation.recording import InGrants
from hf_dynasor.evaluation.records import ProgramTrace
from hf_dynasor.evaluation.replay import ReplayEngine, grade, read_recipe
from hf_dynasor.evaluation.samples import SampleRun, read_samples
from hf_dynasor.grants import AllocationPolicy, Decision, GrantRecord, Knob

IN_GRANTS = "in_grants"
"""Policy of runs that spent everything in given grants, written `in_grants:4,12`."""


PARALLEL = ("best_of_n",)
"""Programs whose units have nothing to do with each other: they are walked through one by one, but ran together."""


class Steps(Protocol):
    """One recorded question, as far as a policy can stop in it. `SampleSteps` and `WalkedSteps` are some."""

    @property
    def knob(self) -> Knob:
        """The dial and what was recorded of it."""
        ...

    @property
    def totals(self) -> tuple[int, ...]:
        """Units after which it can stop, in order."""
        ...

    def run(
        self, policy: AllocationPolicy, budget: int
    ) -> tuple[tuple[GrantRecord, ...], Decision, str | None, bool]:
        """What a policy is granted with this budget, its last word, the answer and whether it is right.

        Raises:
            InputError: It stops where nothing was recorded.
        """
        ...

    def read(self, total: int) -> Certaindex:
        """The reading after so many units, which must be one of `totals`."""
        ...

    def is_right(self, total: int) -> bool:
        """Whether the answer after so many units is right."""
        ...


class SampleSteps:
    """Recorded samples: they can stop anywhere, and every budget is exact."""

    def __init__(self, trace: ProgramTrace) -> None:
        self._samples = read_samples(trace)
        self._run = SampleRun(self._samples)
        self.knob = self._run.knob
        self.totals = tuple(range(1, self.knob.maximum + 1))

    def run(
        self, policy: AllocationPolicy, budget: int
    ) -> tuple[tuple[GrantRecord, ...], Decision, str | None, bool]:
        """See `Steps`."""
        part = SampleRun(self._samples, budget)
        records, decision = part.run(policy)
        total = records[-1].total
        answer, is_right = part.select(total) if part.read(total).num_paths else (None, False)
        return records, decision, answer, is_right

    def read(self, total: int) -> Certaindex:
        """See `Steps`."""
        return self._run.read(total)

    def is_right(self, total: int) -> bool:
        """See `Steps`."""
        return self._run.is_right(total)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    record: GrantRecord
    answer: str | None
    is_right: bool


class WalkedSteps:
    """A recorded program that is walked through once, in grants that change nothing about its requests.

    Args:
        trace: The record.
        sizes: Of the grants; the last one is repeated up to the budget, unless the sizes add up to it.

    Raises:
        InputError: The program does something else in these grants than it did when it was recorded.
    """

    def __init__(self, trace: ProgramTrace, sizes: Sequence[int]) -> None:
        walk = InGrants(sizes=_fill(sizes, trace.budget))
        program, _ = read_recipe(trace, walk, trace.budget).build(trace.question, label=trace.id)
        steps: list[_Step] = []

        def note(record: GrantRecord) -> None:
            answer = program.select_answer()
            steps.append(_Step(record=record, answer=answer, is_right=grade(trace, answer)))

        engine = ReplayEngine({item.request_id: item for item in trace.completions})
        run_program(program, engine, walk, on_grant=note)
        self.knob = program.knob
        self._is_parallel = trace.program in PARALLEL
        self._steps = {step.record.total: step for step in steps}
        self.totals = tuple(self._steps)

    def run(
        self, policy: AllocationPolicy, budget: int
    ) -> tuple[tuple[GrantRecord, ...], Decision, str | None, bool]:
        """See `Steps`."""
        knob = replace(self.knob, maximum=budget)
        records: tuple[GrantRecord, ...] = ()
        while (decision := policy.allocate(knob, records)).units:
            before = records[-1].total if records else 0
            total = before + decision.units
            if total not in self._steps:
                raise InputError(
                    f"Policy {policy.name!r} stops at {total} {knob.unit}, but the trace was recorded with stops at "
                    f"{', '.join(map(str, self.totals))} only. Record it in grants that end there."
                )
            records = (*records, self._record(records[-1] if records else None, total))
        step = self._steps[records[-1].total]
        return records, decision, step.answer, step.is_right

    def _record(self, last: GrantRecord | None, total: int) -> GrantRecord:
        """The walk's record with the size of this grant; what would have run side by side waits for its longest."""
        before = last.total if last else 0
        record = replace(self._steps[total].record, units=total - before)
        if not self._is_parallel:
            return record
        tokens = {end: step.record.usage.net_tokens for end, step in self._steps.items()} | {0: 0}
        longest = max(tokens[end] - tokens[end - 1] for end in range(before + 1, total + 1))
        waited = (last.sequential_tokens if last else 0) + longest
        return replace(record, sequential_tokens=waited)

    def read(self, total: int) -> Certaindex:
        """See `Steps`."""
        return self._steps[total].record.certaindex

    def is_right(self, total: int) -> bool:
        """See `Steps`."""
        return self._steps[total].is_right


def open_steps(trace: ProgramTrace, policy: str = "even") -> Steps:
    """One recorded question as far as it can be stopped exactly.

    Args:
        trace: The record.
        policy: The one that it was recorded under: `even`, or `in_grants:4,12`.
    """
    if trace.program == "self_consistency" and not policy.startswith(IN_GRANTS):
        return SampleSteps(trace)
    if policy.startswith(IN_GRANTS):
        return WalkedSteps(trace, parse_grants(policy))
    return WalkedSteps(trace, (_choose_size(trace),))


def parse_grants(policy: str) -> tuple[int, ...]:
    """The sizes in `in_grants:4,12`.

    Raises:
        InputError: There are none.
    """
    try:
        sizes = tuple(int(part) for part in policy.partition(":")[2].split(","))
    except ValueError:
        raise InputError(
            f"Got {policy!r} but expected in_grants: with sizes, such as in_grants:4,12."
        ) from None
    return sizes


def _choose_size(trace: ProgramTrace) -> int:
    """Units after which a program recorded in one grant stands where a smaller grant would have ended."""
    if trace.program == "mcts":
        return int(trace.recipe.get("program_options", {}).get("num_parallel", 4))
    return 1 if trace.program in PARALLEL else trace.budget


def _fill(sizes: Sequence[int], budget: int) -> tuple[int, ...]:
    filled = list(sizes)
    while sum(filled) < budget and len(sizes) == 1:
        filled.append(sizes[0])
    return tuple(filled)


__all__ = ["IN_GRANTS", "SampleSteps", "Steps", "WalkedSteps", "open_steps", "parse_grants"]
