"""The programs that one engine of a simulation serves: they come, ask for more, vote, and end."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hf_dynasor.core import RequestKey
from hf_dynasor.scheduler.estimates import WorkEstimator
from hf_dynasor.scheduler.plans import StepPlan
from hf_dynasor.scheduler.shell import Scheduler
from hf_dynasor.scheduler.simulate.oracle import Oracle
from hf_dynasor.scheduler.simulate.programs import SimulatedProgram
from hf_dynasor.scheduler.simulate.results import SimulatedOutcome
from hf_dynasor.scheduler.simulate.virtual_engine import VirtualEngine
from hf_dynasor.scheduler.simulate.workload import RecordedBranch, RecordedQuestion
from hf_dynasor.scheduler.views import ProgramSpec, RequestSpec

if TYPE_CHECKING:
    from hf_dynasor.scheduler.simulate.simulator import Simulation


class ServedPrograms:
    """Programs on one virtual engine.

    Args:
        simulation: What they are, and how they are scheduled.
        on_plan: Is told every plan that starts, pauses or drops a request, with its time.

    Attributes:
        engine: Where they run.
        outcomes: How those went that have ended, by their number.
    """

    def __init__(
        self, simulation: Simulation, on_plan: Callable[[float, StepPlan], None] | None = None
    ) -> None:
        self._simulation = simulation
        self._oracle = Oracle() if simulation.knows_lengths else None
        self.engine = VirtualEngine(
            _make_scheduler(simulation, self._oracle),
            simulation.engine,
            siblings_wait=simulation.siblings_wait,
            on_plan=on_plan,
        )
        self.outcomes: dict[int, SimulatedOutcome] = {}
        self._programs: dict[str, SimulatedProgram] = {}
        self._arrived: dict[str, float] = {}
        self._shared: dict[str, tuple[int, int]] = {}

    def arrive(
        self,
        index: int,
        question_index: int,
        time: float,
        *,
        now: float | None = None,
        shared_tokens: int = 0,
        cached_tokens: int = 0,
    ) -> None:
        """A program comes.

        Args:
            index: Its number.
            question_index: What it answers.
            time: When it came first.
            now: When it comes to this engine, where that is later.
            shared_tokens: Tokens of its prompt before the question, which other programs share.
            cached_tokens: How many of them this engine holds.
        """
        name, simulation = str(index), self._simulation
        question = simulation.workload.questions[question_index]
        branches = _draw_branches(simulation, question, index)
        program = self._programs[name] = _make_program(simulation, question, branches)
        self._arrived[name], self._shared[name] = time, (shared_tokens, cached_tokens)
        if self._oracle is not None:
            self._oracle.foresee(name, _make_program(simulation, question, branches))
        spec = ProgramSpec(
            program_id=name,
            kind=simulation.workload.name,
            planned_units=len(branches),
            deadline=_find_deadline(simulation, question, time),
        )
        now = time if now is None else now
        self.engine.scheduler.program_submitted(spec, now)
        self._submit(name, program, program.ask(), now)

    def finish_due(self) -> list[int]:
        """Tell programs of their requests that have ended; the numbers of the programs that ended with it."""
        ended = []
        while (key := self.engine.pop_finished()) is not None:
            if self._finish(key):
                ended.append(int(key.program_id))
        return ended

    def count_generated(self) -> int:
        """Tokens that programs which have not ended have generated so far."""
        return sum(
            program.num_tokens
            + sum(
                self.engine.scheduler.count_generated(RequestKey(program_id=name, request_id=str(index)))
                for index in program.open
            )
            for name, program in self._programs.items()
        )

    def _submit(self, name: str, program: SimulatedProgram, indices: range, time: float) -> None:
        shared, cached = self._shared[name]
        for index in indices:
            spec = RequestSpec(
                key=RequestKey(program_id=name, request_id=str(index)),
                prompt_tokens=shared + program.question.prompt_tokens,
                max_tokens=program.branches[index].num_tokens,
            )
            self.engine.submit(spec, time)
            if cached:
                self.engine.scheduler.prefix_found(spec.key, cached)

    def _finish(self, key: RequestKey) -> bool:
        """A request ended; whether its program did."""
        name, engine = key.program_id, self.engine
        program = self._programs[name]
        if not program.note_finished(int(key.request_id)):
            return False
        for index in sorted(program.open):  # a decided vote leaves them open; what they generated counts
            program.give_up(index, engine.give_up(RequestKey(program_id=name, request_id=str(index))))
        engine.scheduler.certaindex_updated(name, program.certaindex, engine.now)
        if indices := program.ask():
            self._submit(name, program, indices, engine.now)
            return False
        self._end(name, self._programs.pop(name))
        return True

    def _end(self, name: str, program: SimulatedProgram) -> None:
        engine = self.engine
        engine.scheduler.program_finished(name, engine.now)
        del self._shared[name]
        self.outcomes[int(name)] = SimulatedOutcome(
            question_id=program.question.id,
            difficulty=program.question.difficulty,
            arrived_at=self._arrived.pop(name),
            started_at=engine.started.pop(name),
            finished_at=engine.now,
            num_tokens=program.num_tokens,
            num_units=program.num_units,
            is_correct=program.is_right(),
        )


def _make_scheduler(simulation: Simulation, oracle: Oracle | None) -> Scheduler:
    estimator = oracle or WorkEstimator(
        shrinkage=simulation.shrinkage,
        prior_tokens=simulation.workload.mean_branch_tokens,
        uses_certaindex=simulation.uses_certaindex,
    )
    return Scheduler(
        simulation.scheduling, limits=simulation.limits, ageing=simulation.ageing, estimator=estimator
    )


def _make_program(
    simulation: Simulation, question: RecordedQuestion, branches: Sequence[RecordedBranch]
) -> SimulatedProgram:
    return SimulatedProgram(
        question,
        branches,
        simulation.allocation,
        simulation.workload.unit,
        stop_decided=simulation.stop_decided,
    )


def _find_deadline(simulation: Simulation, question: RecordedQuestion, time: float) -> float | None:
    if simulation.slo_scale is None:
        return None
    return time + simulation.slo_scale * question.difficulty * simulation.slo_base


def _draw_branches(
    simulation: Simulation, question: RecordedQuestion, index: int
) -> Sequence[RecordedBranch]:
    budget = simulation.workload.budget
    if simulation.keeps_order:
        return question.branches[:budget]
    return random.Random(f"{simulation.seed}/{index}").sample(question.branches, budget)


__all__ = ["ServedPrograms"]
