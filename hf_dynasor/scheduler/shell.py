"""`Scheduler`: the one class that mutates. It is told what happens and says what the next step runs.

The same object runs under the engine and under the simulator's virtual clock: it knows no model and no time but
what it is told. Each call costs log n of what waits; views and ranks are made anew only for programs to which
something happened.
"""

from __future__ import annotations

from collections.abc import Sequence

from hf_dynasor.certaindex import Certaindex
from hf_dynasor.core import RequestKey
from hf_dynasor.errors import ConfigurationError, ProgramError
from hf_dynasor.scheduler.ageing import Ageing
from hf_dynasor.scheduler.estimates import WorkEstimator
from hf_dynasor.scheduler.order_keeper import OrderKeeper
from hf_dynasor.scheduler.pace import Pace
from hf_dynasor.scheduler.plans import Limits, PrefillChunk, StepPlan
from hf_dynasor.scheduler.policies import SchedulingPolicy
from hf_dynasor.scheduler.records import ProgramRecord, RequestRecord, RequestState
from hf_dynasor.scheduler.residency import Residency
from hf_dynasor.scheduler.roll import Roll
from hf_dynasor.scheduler.step_planner import StepPlanner
from hf_dynasor.scheduler.tenants import Tenants
from hf_dynasor.scheduler.views import ProgramSpec, RequestSpec, Snapshot


class Scheduler:
    """Admission, order, budgets, preemption and memory of the requests of many programs.

    Tell it what happens (`program_submitted`, `submitted`, `finished`, `cancelled`, `certaindex_updated`,
    `grant_planned`, `program_finished`), ask for a plan (`plan_step`), run the plan, and tell how many steps of it
    were run (`advance`) before telling what came of them. Not thread-safe: an engine calls it from its loop.

    Args:
        policy: Who goes first.
        limits: What a step may use.
        ageing: When a program has waited too long.
        estimator: Estimates remaining work, and learns; a new one by default.

    Examples:
        >>> from hf_dynasor.scheduler.policies import GangSjf
        >>> scheduler = Scheduler(GangSjf(), limits=Limits(max_requests=2, max_tokens=64))
        >>> key = RequestKey(program_id="p", request_id="sample-0")
        >>> scheduler.submitted(RequestSpec(key=key, prompt_tokens=10), now=0.0)
        >>> scheduler.plan_step(now=0.0).num_prefill_tokens
        10
        >>> scheduler.advance()
        >>> scheduler.plan_step(now=0.1).decode == (key,)
        True
    """

    def __init__(
        self,
        policy: SchedulingPolicy,
        *,
        limits: Limits | None = None,
        ageing: Ageing | None = None,
        estimator: WorkEstimator | None = None,
    ) -> None:
        self.policy = policy
        self.limits = limits or Limits()
        self.ageing = ageing or Ageing()
        self.estimator = estimator or WorkEstimator()
        self._roll = Roll(self.limits)
        self._order = OrderKeeper(self.policy, self.ageing, self.estimator)
        self._memory = Residency(self.limits)
        self._planner = StepPlanner(self.policy, self.limits, self._memory, self._order.queue)
        self._tenants = Tenants()
        self._plan: StepPlan | None = None
        self._pace, self._is_stale, self._steps_run = Pace(), True, 0

    # --- what happens to programs -------------------------------------------------------------------------------

    def program_submitted(self, program: ProgramSpec, now: float) -> None:
        """A program arrives; its requests follow.

        Raises:
            ProgramError: A program of that id is here already.
        """
        record = self._roll.enter_program(program, now)
        work = record.view(self.estimator, self._pace.step_seconds).remaining_tokens
        record.fair_tag = self._tenants.tag(program.tenant, work / program.weight)

    def certaindex_updated(self, program_id: str, certaindex: Certaindex, now: float) -> None:
        """A program made a reading after a grant."""
        if record := self._roll.programs.get(program_id):
            record.note_reading(certaindex)
            self._change(record)

    def grant_planned(
        self, program_id: str, planned_units: int, now: float, *, is_final: bool = True
    ) -> None:
        """A program's policy says how many units it will be granted in all, those granted so far included.

        Without `is_final` it is the most that it may be granted: the certaindex tells how many of them will be.
        """
        if planned_units < 0:
            raise ConfigurationError(f"Got {planned_units = } but expected 0 or more.")
        if record := self._roll.programs.get(program_id):
            record.planned_units = planned_units
            record.is_plan_final = is_final
            self._change(record)

    def program_finished(self, program_id: str, now: float) -> tuple[RequestKey, ...]:
        """A program has its answer or was given up: its memory is free at once.

        Returns:
            Requests of it that were still here; they are gone.
        """
        record = self._roll.programs.pop(program_id, None)
        if record is None:
            return ()
        left = [*record.fresh.values(), *record.paused.values(), *record.running.values()]
        for request in left:
            self._remove(request)
        self._memory.evict(record)
        self._order.forget(record)
        if record.learn(self.estimator):
            self._change_kind(record.spec.kind)
        self._is_stale = True
        return tuple(request.key for request in left)

    # --- what happens to requests -------------------------------------------------------------------------------

    def can_admit(self, num_requests: int) -> bool:
        """Whether so many more requests may queue."""
        return self.num_waiting + num_requests <= self.limits.max_waiting

    def submitted(self, request: RequestSpec, now: float) -> None:
        """A request arrives. A program that was not announced is entered with what the request tells.

        Raises:
            ConfigurationError: The key is in use, or the request could never fit into the memory.
            EngineError: Too many requests wait; ask `can_admit` first.
        """
        self._roll.check_request(request, self.num_waiting)
        program_id = request.key.program_id
        if program_id not in self._roll.programs:
            self.program_submitted(ProgramSpec(program_id=program_id), now)
        record = self._roll.enter_request(request, now)
        self._change(record.program, record)

    def prefix_found(self, key: RequestKey, num_tokens: int) -> None:
        """An engine with a cache of its own found so many leading tokens of a waiting request in it."""
        record = self._roll.requests.get(key)
        if record is not None and not record.is_running:
            record.num_cached = num_tokens
            self._change(record.program, record)

    def finished(self, key: RequestKey, now: float, num_tokens: int | None = None) -> None:
        """A request ended by itself after so many tokens (`None`: as counted here)."""
        record = self._roll.requests.get(key)
        if record is None:
            return
        self._remove(record)
        tokens = record.num_generated if num_tokens is None else num_tokens  # written down by removing it
        record.program.note_finished(record, tokens, now)
        kind = record.program.spec.kind
        if self.estimator.history(kind).note_unit(record.spec.units, tokens):
            self._change_kind(kind)
        self._after_removal(record.program, now)

    def cancelled(self, key: RequestKey, now: float) -> None:
        """A request was given up, or failed."""
        record = self._roll.requests.get(key)
        if record is not None:
            self._remove(record)
            record.program.note_cancelled(record, now)
            self._after_removal(record.program, now)

    def lost(self, key: RequestKey, now: float) -> None:
        """An engine that keeps its own account of memory took a request's: it waits, and is computed again."""
        record = self._roll.requests.get(key)
        if record is not None and record.state is not RequestState.FRESH:
            self._planner.lose(record, now)
            self._change(record.program, record)

    # --- steps --------------------------------------------------------------------------------------------------

    def plan_step(self, now: float) -> StepPlan:
        """What the next step runs. The same plan comes back as long as nothing happened to change it."""
        self._pace.note(now)
        while (idle := self._roll.pop_idle(now)) is not None:
            self.program_finished(idle, now)
        if self._order.wake(now):
            self._is_stale = True
        if self._plan is not None and not self._is_stale and self.steps_left and not self._plan.prefill:
            return self._plan
        self._order.rank_changed(now, self._pace.step_seconds)
        plan = self._planner.plan(now, self._order.next_time)
        self._order.note_planned(self._planner.touched, self._planner.moved)
        self._tenants.advance(self._planner.touched.values())
        self._plan, self._steps_run, self._is_stale = plan, 0, False
        return plan

    def advance(self, num_steps: int = 1, *, computed: Sequence[PrefillChunk] | None = None) -> None:
        """So many steps of the last plan were run.

        Args:
            num_steps: How many.
            computed: Parts of prompts that were really computed, where an engine could not do all that was planned or
                needed less; `None` for those of the plan.

        Raises:
            ProgramError: The plan does not hold for that many.
        """
        if not 1 <= num_steps <= self.steps_left:
            raise ProgramError(
                f"Got {num_steps = } but the last plan holds for {self.steps_left} steps more."
            )
        self._planner.advance(num_steps, computed)
        self._pace.count(num_steps)
        self._steps_run += num_steps

    # --- what can be asked --------------------------------------------------------------------------------------

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a place, paused ones included."""
        return len(self._roll.requests) - self._planner.num_running

    @property
    def num_running(self) -> int:
        """Requests that have a place."""
        return self._planner.num_running

    @property
    def num_raised(self) -> int:
        """Programs that were raised for waiting too long so far."""
        return self._order.num_raised

    @property
    def num_programs(self) -> int:
        """Programs that have not ended."""
        return len(self._roll.programs)

    @property
    def num_blocks_used(self) -> int:
        """Blocks of keys and values that are held."""
        return self._memory.ledger.num_used

    @property
    def num_context_tokens(self) -> int:
        """Tokens that the decoding requests look back at, in all."""
        return self._memory.num_context_tokens

    @property
    def last_paused(self) -> RequestKey | None:
        """The paused request that is last in the order: whose memory an engine takes first."""
        return self._planner.last_paused

    @property
    def steps_left(self) -> int:
        """Steps for which the last plan still holds."""
        return 0 if self._plan is None else self._plan.max_steps - self._steps_run

    @property
    def next_change_at(self) -> float:
        """When the order may change by the passing of time alone, in seconds; infinite if never."""
        return self._order.next_time

    def count_generated(self, key: RequestKey) -> int:
        """Tokens that a request has generated."""
        return self._planner.count_generated(self._roll.requests[key])

    def snapshot(self, now: float) -> Snapshot:
        """Frozen views of everything that waits or runs."""
        programs = (record for record in self._roll.programs.values() if record.has_requests)
        return Snapshot(
            now=now,
            programs=tuple(record.view(self.estimator, self._pace.step_seconds) for record in programs),
            requests=tuple(record.view() for record in self._roll.requests.values()),
        )

    # --- how it is kept -----------------------------------------------------------------------------------------

    def _change(self, program: ProgramRecord, *requests: RequestRecord) -> None:
        self._order.note_changed(program, *requests)
        self._is_stale = True

    def _change_kind(self, kind: str) -> None:
        """The estimates of all programs of a kind are new."""
        for program in self._roll.iter_kind(kind):
            self._change(program)

    def _remove(self, record: RequestRecord) -> None:
        del self._roll.requests[record.key]
        self._planner.remove(record)
        self._order.forget_request(record)
        self._is_stale = True

    def _after_removal(self, program: ProgramRecord, now: float) -> None:
        self._change(program)
        if not program.has_requests:
            self._roll.note_idle(program, now)


__all__ = ["Scheduler"]
