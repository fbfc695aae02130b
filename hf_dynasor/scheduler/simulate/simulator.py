"""Runs the scheduler under a virtual clock: arrivals, programs, and an engine that is a formula.

Time jumps from event to event: while nothing arrives, ends or falls due, the same batch decodes on, and all of its
steps are one addition. So a million requests take minutes, and the decisions are those that a step-by-step run
of the same scheduler would make.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hf_dynasor.core import RequestKey
from hf_dynasor.errors import ConfigurationError, ProgramError
from hf_dynasor.grants import AllocationPolicy
from hf_dynasor.scheduler.ageing import Ageing
from hf_dynasor.scheduler.estimates import WorkEstimator
from hf_dynasor.scheduler.plans import Limits, StepPlan
from hf_dynasor.scheduler.policies import SchedulingPolicy
from hf_dynasor.scheduler.shell import Scheduler
from hf_dynasor.scheduler.simulate.arrivals import Arrivals
from hf_dynasor.scheduler.simulate.engine_model import EngineModel
from hf_dynasor.scheduler.simulate.oracle import Oracle
from hf_dynasor.scheduler.simulate.programs import SimulatedProgram
from hf_dynasor.scheduler.simulate.results import SimulatedOutcome, SimulationResult
from hf_dynasor.scheduler.simulate.virtual_engine import VirtualEngine
from hf_dynasor.scheduler.simulate.workload import RecordedBranch, RecordedQuestion, Workload
from hf_dynasor.scheduler.views import ProgramSpec, RequestSpec

MAX_EVENTS = 10**9
"""Most turns of the loop; a run that needs more is broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """What is simulated. `run` is a pure function of it.

    Args:
        workload: What programs cost and answer.
        arrivals: When they come.
        num_programs: How many; they take the questions in a random order, each as often as the others.
        scheduling: Who goes first.
        allocation: How much each is granted.
        engine: How long a step takes.
        limits: What a step may use.
        ageing: When a program has waited too long.
        slo_scale, slo_base: Deadline of a program: scale times difficulty times base seconds after arrival; only
            deadline-aware policies look at it. A scale of `None` gives no deadlines.
        seed: Of arrivals, questions and the order of branches. Two runs of one seed see the same programs, however
            they are scheduled.
        stop_decided: Whether programs give up branches that cannot change their vote.
        knows_lengths: The oracle: estimates are what the program will really cost.
        shrinkage, uses_certaindex: See `WorkEstimator`.
        keeps_order: Whether programs take the questions, and each its branches, in the order of the workload.
        siblings_wait: Whether requests of a program wait a step for its prompt, as in an engine whose pages are shared
            once they are complete.
    """

    workload: Workload
    arrivals: Arrivals
    num_programs: int
    scheduling: SchedulingPolicy
    allocation: AllocationPolicy
    engine: EngineModel
    limits: Limits = field(default_factory=Limits)
    ageing: Ageing = field(default_factory=Ageing)
    slo_scale: float | None = None
    slo_base: float = 1.0
    seed: int = 0
    stop_decided: bool = False
    knows_lengths: bool = False
    shrinkage: float = 2.0
    uses_certaindex: bool = True
    keeps_order: bool = False
    siblings_wait: bool = False

    def __post_init__(self) -> None:
        if self.num_programs < 1:
            raise ConfigurationError(f"Got {self.num_programs = } but expected at least 1.")

    def run(self, on_plan: Callable[[float, StepPlan], None] | None = None) -> SimulationResult:
        """Simulate to the last answer.

        Args:
            on_plan: Is told every plan that starts, pauses or drops a request, with its time.
        """
        return _Run(self, on_plan).run()


class _Run:
    """One simulation under way: programs come and go; what runs between is the engine's."""

    def __init__(self, simulation: Simulation, on_plan: Callable[[float, StepPlan], None] | None) -> None:
        self._simulation = simulation
        self._oracle = Oracle() if simulation.knows_lengths else None
        self._engine = VirtualEngine(
            _make_scheduler(simulation, self._oracle),
            simulation.engine,
            siblings_wait=simulation.siblings_wait,
            on_plan=on_plan,
        )
        rng = random.Random(f"{simulation.seed}/arrivals")
        self._times = simulation.arrivals.draw(simulation.num_programs, rng)
        self._questions = _draw_questions(simulation)
        self._num_arrived = 0
        self._programs: dict[str, SimulatedProgram] = {}
        self._outcomes: dict[int, SimulatedOutcome] = {}

    def run(self) -> SimulationResult:
        engine = self._engine
        for _ in range(MAX_EVENTS):
            self._admit()
            if engine.step(self._next_arrival):
                while (key := engine.pop_finished()) is not None:
                    self._finish(key)
            elif self._num_arrived == len(self._times):
                break
            else:
                engine.now = max(engine.now, self._next_arrival)
        if len(self._outcomes) != len(self._times):
            raise ProgramError(f"Only {len(self._outcomes)} of {len(self._times)} programs ended.")
        return SimulationResult(
            outcomes=tuple(self._outcomes[index] for index in range(len(self._times))),
            num_steps=engine.num_steps,
            num_requests=engine.num_requests,
            busy_seconds=engine.busy_seconds,
            num_preemptions=engine.num_preemptions,
        )

    @property
    def _next_arrival(self) -> float:
        return self._times[self._num_arrived] if self._num_arrived < len(self._times) else float("inf")

    def _admit(self) -> None:
        while self._next_arrival <= self._engine.now:
            index = self._num_arrived
            self._num_arrived += 1
            self._arrive(index, self._times[index])

    def _arrive(self, index: int, time: float) -> None:
        name, simulation = str(index), self._simulation
        question = simulation.workload.questions[self._questions[index]]
        branches = _draw_branches(simulation, question, index)
        program = self._programs[name] = _make_program(simulation, question, branches)
        if self._oracle is not None:
            self._oracle.foresee(name, _make_program(simulation, question, branches))
        spec = ProgramSpec(
            program_id=name,
            kind=simulation.workload.name,
            planned_units=len(branches),
            deadline=_find_deadline(simulation, question, time),
        )
        self._engine.scheduler.program_submitted(spec, time)
        self._submit(name, program, program.ask(), time)

    def _submit(self, name: str, program: SimulatedProgram, indices: range, time: float) -> None:
        for index in indices:
            spec = RequestSpec(
                key=RequestKey(program_id=name, request_id=str(index)),
                prompt_tokens=program.question.prompt_tokens,
                max_tokens=program.branches[index].num_tokens,
            )
            self._engine.submit(spec, time)

    def _finish(self, key: RequestKey) -> None:
        name, engine = key.program_id, self._engine
        program = self._programs[name]
        if not program.note_finished(int(key.request_id)):
            return
        for index in sorted(program.open):  # a decided vote leaves them open; what they generated counts
            program.give_up(index, engine.give_up(RequestKey(program_id=name, request_id=str(index))))
        engine.scheduler.certaindex_updated(name, program.certaindex, engine.now)
        if indices := program.ask():
            self._submit(name, program, indices, engine.now)
        else:
            self._end(name, self._programs.pop(name))

    def _end(self, name: str, program: SimulatedProgram) -> None:
        engine, index = self._engine, int(name)
        engine.scheduler.program_finished(name, engine.now)
        self._outcomes[index] = SimulatedOutcome(
            question_id=program.question.id,
            difficulty=program.question.difficulty,
            arrived_at=self._times[index],
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


def _draw_questions(simulation: Simulation) -> list[int]:
    """Which question each program answers: all of them in a random order, again and again."""
    rng = random.Random(f"{simulation.seed}/questions")
    count = len(simulation.workload.questions)
    if simulation.keeps_order:
        return [index % count for index in range(simulation.num_programs)]
    drawn: list[int] = []
    while len(drawn) < simulation.num_programs:
        drawn.extend(rng.sample(range(count), count))
    return drawn[: simulation.num_programs]


__all__ = ["Simulation"]
