"""Runs the scheduler under a virtual clock: arrivals, programs, and an engine that is a formula.

Time jumps from event to event: while nothing arrives, ends or falls due, the same batch decodes on, and all of its
steps are one addition. So a million requests take minutes, and the decisions are those that a step-by-step run
of the same scheduler would make.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from hf_dynasor.errors import ConfigurationError, ProgramError
from hf_dynasor.grants import AllocationPolicy
from hf_dynasor.scheduler.ageing import Ageing
from hf_dynasor.scheduler.plans import Limits, StepPlan
from hf_dynasor.scheduler.policies import SchedulingPolicy
from hf_dynasor.scheduler.simulate.arrivals import Arrivals
from hf_dynasor.scheduler.simulate.engine_model import EngineModel
from hf_dynasor.scheduler.simulate.results import SimulationResult
from hf_dynasor.scheduler.simulate.served_programs import ServedPrograms
from hf_dynasor.scheduler.simulate.workload import Workload

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
    """One simulation under way: programs come; what runs between is the engine's."""

    def __init__(self, simulation: Simulation, on_plan: Callable[[float, StepPlan], None] | None) -> None:
        self._served = ServedPrograms(simulation, on_plan)
        self._times = draw_times(simulation)
        self._questions = draw_questions(simulation)
        self._num_arrived = 0

    def run(self) -> SimulationResult:
        served, engine = self._served, self._served.engine
        for _ in range(MAX_EVENTS):
            self._admit()
            if engine.step(self._next_arrival):
                served.finish_due()
            elif self._num_arrived == len(self._times):
                break
            else:
                engine.now = max(engine.now, self._next_arrival)
        if len(served.outcomes) != len(self._times):
            raise ProgramError(f"Only {len(served.outcomes)} of {len(self._times)} programs ended.")
        return SimulationResult(
            outcomes=tuple(served.outcomes[index] for index in range(len(self._times))),
            num_steps=engine.num_steps,
            num_requests=engine.num_requests,
            busy_seconds=engine.busy_seconds,
            num_preemptions=engine.num_preemptions,
        )

    @property
    def _next_arrival(self) -> float:
        return self._times[self._num_arrived] if self._num_arrived < len(self._times) else float("inf")

    def _admit(self) -> None:
        while self._next_arrival <= self._served.engine.now:
            index = self._num_arrived
            self._num_arrived += 1
            self._served.arrive(index, self._questions[index], self._times[index])


def draw_times(simulation: Simulation) -> list[float]:
    """When programs arrive."""
    return simulation.arrivals.draw(simulation.num_programs, random.Random(f"{simulation.seed}/arrivals"))


def draw_questions(simulation: Simulation) -> list[int]:
    """Which question each program answers: all of them in a random order, again and again."""
    rng = random.Random(f"{simulation.seed}/questions")
    count = len(simulation.workload.questions)
    if simulation.keeps_order:
        return [index % count for index in range(simulation.num_programs)]
    drawn: list[int] = []
    while len(drawn) < simulation.num_programs:
        drawn.extend(rng.sample(range(count), count))
    return drawn[: simulation.num_programs]


__all__ = ["MAX_EVENTS", "Simulation", "draw_questions", "draw_times"]
