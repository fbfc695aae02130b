"""Runs the scheduler under a virtual clock: arrivals, programs, and an engine that is a formula.

Time jumps from event to event: while nothing arrives, ends or falls due, the same batch decodes on, and all of its
steps are one addition. So a million requests take minutes, and the decisions are those that a step-by-step run
of the same scheduler would make.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hf_dynasor.core import RequestKey
from hf_dynasor.errors import ConfigurationError, ProgramError
from hf_dynasor.grants import AllocationPolicy
from hf_dynasor.scheduler.ageing import Ageing
from hf_dynasor.scheduler.estimates import WorkEstimator
from hf_dynasor.scheduler.plans import Limits, PrefillChunk, StepPlan
from hf_dynasor.scheduler.policies import SchedulingPolicy
from hf_dynasor.scheduler.shell import Scheduler
from hf_dynasor.scheduler.simulate.arrivals import Arrivals
from hf_dynasor.scheduler.simulate.engine_model import EngineModel
from hf_dynasor.scheduler.simulate.oracle import Oracle
from hf_dynasor.scheduler.simulate.programs import SimulatedProgram
from hf_dynasor.scheduler.simulate.results import SimulatedOutcome, SimulationResult
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
    """One simulation under way."""

    def __init__(self, simulation: Simulation, on_plan: Callable[[float, StepPlan], None] | None) -> None:
        self._simulation = simulation
        self._on_plan = on_plan
        workload = simulation.workload
        prior = workload.mean_branch_tokens
        self._oracle = Oracle() if simulation.knows_lengths else None
        self._scheduler = Scheduler(
            simulation.scheduling,
            limits=simulation.limits,
            ageing=simulation.ageing,
            estimator=self._oracle
            or WorkEstimator(
                shrinkage=simulation.shrinkage, prior_tokens=prior, uses_certaindex=simulation.uses_certaindex
            ),
        )
        self._now = 0.0
        self._step = 0
        self._busy = 0.0
        self._num_requests = self._num_preemptions = self._num_arrived = 0
        self._times = simulation.arrivals.draw(
            simulation.num_programs, random.Random(f"{simulation.seed}/arrivals")
        )
        self._questions = _draw_questions(simulation)
        self._programs: dict[str, SimulatedProgram] = {}
        self._started: dict[str, float] = {}
        self._outcomes: dict[int, SimulatedOutcome] = {}
        self._targets: dict[RequestKey, int] = {}
        self._ends: dict[RequestKey, int] = {}
        self._heap: list[tuple[int, int, RequestKey]] = []
        self._serial = 0
        self._last_plan: StepPlan | None = None

    def run(self) -> SimulationResult:
        for _ in range(MAX_EVENTS):
            self._admit()
            plan = self._scheduler.plan_step(self._now)
            if plan.is_empty:
                if self._num_arrived == len(self._times):
                    break
                self._now = max(self._now, self._times[self._num_arrived])
            else:
                self._note_plan(plan)
                self._run_plan(plan)
                self._finish_due()
        if len(self._outcomes) != len(self._times):
            raise ProgramError(f"Only {len(self._outcomes)} of {len(self._times)} programs ended.")
        return SimulationResult(
            outcomes=tuple(self._outcomes[index] for index in range(len(self._times))),
            num_steps=self._step,
            num_requests=self._num_requests,
            busy_seconds=self._busy,
            num_preemptions=self._num_preemptions,
        )

    def _admit(self) -> None:
        while self._num_arrived < len(self._times) and self._times[self._num_arrived] <= self._now:
            index = self._num_arrived
            self._num_arrived += 1
            self._arrive(index, self._times[index])

    def _arrive(self, index: int, time: float) -> None:
        simulation = self._simulation
        question = simulation.workload.questions[self._questions[index]]
        rng = random.Random(f"{simulation.seed}/{index}")
        budget = simulation.workload.budget
        branches = (
            question.branches[:budget] if simulation.keeps_order else rng.sample(question.branches, budget)
        )
        program = self._make_program(question, branches)
        name = str(index)
        self._programs[name] = program
        if self._oracle is not None:
            self._oracle.foresee(name, self._make_program(question, branches))
        deadline = None
        if simulation.slo_scale is not None:
            deadline = time + simulation.slo_scale * question.difficulty * simulation.slo_base
        spec = ProgramSpec(
            program_id=name, kind=simulation.workload.name, planned_units=len(branches), deadline=deadline
        )
        self._scheduler.program_submitted(spec, time)
        self._submit(name, program, program.ask(), time)

    def _make_program(
        self, question: RecordedQuestion, branches: Sequence[RecordedBranch]
    ) -> SimulatedProgram:
        simulation = self._simulation
        return SimulatedProgram(
            question,
            branches,
            simulation.allocation,
            simulation.workload.unit,
            stop_decided=simulation.stop_decided,
        )

    def _submit(self, name: str, program: SimulatedProgram, indices: range, time: float) -> None:
        prompt_tokens = program.question.prompt_tokens
        for index in indices:
            key = RequestKey(program_id=name, request_id=str(index))
            num_tokens = program.branches[index].num_tokens
            self._targets[key] = num_tokens
            spec = RequestSpec(key=key, prompt_tokens=prompt_tokens, max_tokens=num_tokens)
            self._scheduler.submitted(spec, time)

    def _note_plan(self, plan: StepPlan) -> None:
        is_known, self._last_plan = plan is self._last_plan, plan
        if is_known or not (plan.started or plan.paused or plan.dropped):
            return
        self._num_preemptions += len(plan.paused) + len(plan.dropped)
        for key in (*plan.paused, *plan.dropped):
            self._ends.pop(key, None)
        for key in plan.started:
            self._started.setdefault(key.program_id, self._now)
        prefilled = {chunk.key for chunk in plan.prefill}
        for key in plan.started:
            if key not in prefilled:  # it was paused before and decodes on
                self._expect_end(key)
        if self._on_plan is not None:
            self._on_plan(self._now, plan)

    def _run_plan(self, plan: StepPlan) -> None:
        engine, batch = self._simulation.engine, len(plan.decode)
        context = self._scheduler.num_context_tokens
        computed = self._list_computed(plan)
        if plan.prefill:
            num_steps = 1
            seconds = engine.time_step(batch, context, sum(chunk.num_tokens for chunk in computed))
        else:
            num_steps = self._count_steps(batch, context)
            seconds = engine.time_steps(batch, context, num_steps)
        self._scheduler.advance(num_steps, computed=computed)
        self._step += num_steps
        self._now += seconds
        self._busy += seconds
        for chunk in computed:
            if chunk.is_last:
                self._expect_end(chunk.key)

    def _list_computed(self, plan: StepPlan) -> tuple[PrefillChunk, ...]:
        if not self._simulation.siblings_wait:
            return plan.prefill
        has_prompt = {key.program_id for key in plan.decode}
        computed: dict[str, list[PrefillChunk]] = {}
        for chunk in plan.prefill:
            chunks = computed.setdefault(chunk.key.program_id, [])
            if not chunks or chunk.key.program_id in has_prompt:
                chunks.append(chunk)
        kept = {chunk.key for chunks in computed.values() for chunk in chunks}
        return tuple(chunk for chunk in plan.prefill if chunk.key in kept)

    def _count_steps(self, batch: int, context: int) -> int:
        """Steps until something happens: a request ends, memory runs short, a program comes, a rank is void."""
        while self._ends.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)  # it was paused or dropped since
        num_steps = min(self._scheduler.steps_left, self._heap[0][0] - self._step)
        until = self._scheduler.next_change_at
        if self._num_arrived < len(self._times):
            until = min(until, self._times[self._num_arrived])
        if until == float("inf"):
            return num_steps
        return self._simulation.engine.count_steps(batch, context, max(0.0, until - self._now), num_steps)

    def _expect_end(self, key: RequestKey) -> None:
        """From now on the request gains a token a step."""
        left = self._targets[key] - self._scheduler.count_generated(key)
        self._serial += 1
        self._ends[key] = self._step + left
        heapq.heappush(self._heap, (self._step + left, self._serial, key))

    def _finish_due(self) -> None:
        heap = self._heap
        while heap and (heap[0][0] <= self._step or self._ends.get(heap[0][2]) != heap[0][0]):
            step, _, key = heapq.heappop(heap)
            if self._ends.get(key) == step:  # else it was paused, dropped or given up since
                self._finish(key)

    def _finish(self, key: RequestKey) -> None:
        del self._ends[key]
        num_tokens = self._targets.pop(key)
        self._num_requests += 1
        self._scheduler.finished(key, self._now, num_tokens)
        name = key.program_id
        program = self._programs[name]
        if program.note_finished(int(key.request_id)):
            self._give_up(name, program)
            self._scheduler.certaindex_updated(name, program.certaindex, self._now)
            self._go_on(name, program)

    def _give_up(self, name: str, program: SimulatedProgram) -> None:
        """Cancel the branches that a decided vote leaves open; what they generated counts."""
        for index in sorted(program.open):
            key = RequestKey(program_id=name, request_id=str(index))
            program.give_up(index, self._scheduler.count_generated(key))
            self._scheduler.cancelled(key, self._now)
            self._ends.pop(key, None)
            del self._targets[key]

    def _go_on(self, name: str, program: SimulatedProgram) -> None:
        """The next grant of a program, or its end."""
        if indices := program.ask():
            self._submit(name, program, indices, self._now)
            return
        self._scheduler.program_finished(name, self._now)
        del self._programs[name]
        index = int(name)
        self._outcomes[index] = SimulatedOutcome(
            question_id=program.question.id,
            difficulty=program.question.difficulty,
            arrived_at=self._times[index],
            started_at=self._started.pop(name),
            finished_at=self._now,
            num_tokens=program.num_tokens,
            num_units=program.num_units,
            is_correct=program.is_right(),
        )


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
