"""The scheduler with an engine that is a formula: how long steps take, and which requests end when.

Time jumps from event to event: while nothing arrives, ends or falls due, the same batch decodes on, and all of its
steps are one addition.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from hf_dynasor.core import RequestKey
from hf_dynasor.scheduler.plans import PrefillChunk, StepPlan
from hf_dynasor.scheduler.shell import Scheduler
from hf_dynasor.scheduler.simulate.engine_model import EngineModel
from hf_dynasor.scheduler.views import RequestSpec


class VirtualEngine:
    """One engine and its clock. A request generates `max_tokens` tokens and ends.

    Args:
        scheduler: Decides; programs are told to it, requests here.
        model: How long a step takes.
        siblings_wait: Whether requests of a program wait a step for its prompt, as in an engine whose pages are shared
            once they are complete.
        on_plan: Is told every plan that starts, pauses or drops a request, with its time.

    Attributes:
        now: Seconds.
        num_steps: Steps that were run.
        num_requests: Requests that ended by themselves.
        num_preemptions: Requests that lost their place, or their memory, before they ended.
        busy_seconds: Time in which a step ran.
        started: When the first request of each program ran; whoever ends a program takes it out.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        model: EngineModel,
        *,
        siblings_wait: bool = False,
        on_plan: Callable[[float, StepPlan], None] | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.now = self.busy_seconds = 0.0
        self.num_steps = self.num_requests = self.num_preemptions = 0
        self.started: dict[str, float] = {}
        self._model = model
        self._siblings_wait = siblings_wait
        self._on_plan = on_plan
        self._targets: dict[RequestKey, int] = {}
        self._ends: dict[RequestKey, int] = {}
        self._heap: list[tuple[int, int, RequestKey]] = []
        self._serial = 0
        self._last_plan: StepPlan | None = None
        self._prepared: StepPlan | None = None

    def submit(self, request: RequestSpec, time: float) -> None:
        """A request arrives."""
        self._targets[request.key] = request.max_tokens
        self.scheduler.submitted(request, time)

    def give_up(self, key: RequestKey) -> int:
        """Cancel a request; returns the tokens that it has generated."""
        num_tokens = self.scheduler.count_generated(key)
        self.scheduler.cancelled(key, self.now)
        self._ends.pop(key, None)
        del self._targets[key]
        return num_tokens

    def step(self, until: float) -> bool:
        """Run the scheduler's next plan until something happens or that time is reached; whether there was any."""
        plan = self._prepare()
        if plan.is_empty:
            return False
        self._prepared = None
        self._run_plan(plan, until)
        return True

    def look_ahead(self) -> float:
        """When `step` would end if nothing came from outside; infinite where nothing is to be run.

        The plan is kept for that step, so nothing may be submitted or ended in between.
        """
        plan = self._prepare()
        return float("inf") if plan.is_empty else self.now + self._measure(plan, float("inf"))[1]

    def _prepare(self) -> StepPlan:
        """The next plan; noted once, however often it is looked at."""
        if self._prepared is None:
            plan = self.scheduler.plan_step(self.now)
            if plan.is_empty:
                return plan
            self._note_plan(plan)
            self._prepared = plan
        return self._prepared

    def pop_finished(self) -> RequestKey | None:
        """The next request that has ended, by now; the scheduler has been told."""
        heap = self._heap
        while heap and (heap[0][0] <= self.num_steps or self._ends.get(heap[0][2]) != heap[0][0]):
            step, _, key = heapq.heappop(heap)
            if self._ends.get(key) == step:  # else it was paused, dropped or given up since
                del self._ends[key]
                self.num_requests += 1
                self.scheduler.finished(key, self.now, self._targets.pop(key))
                return key
        return None

    def _note_plan(self, plan: StepPlan) -> None:
        is_known, self._last_plan = plan is self._last_plan, plan
        if is_known or not (plan.started or plan.paused or plan.dropped):
            return
        self.num_preemptions += len(plan.paused) + len(plan.dropped)
        for key in (*plan.paused, *plan.dropped):
            self._ends.pop(key, None)
        for key in plan.started:
            self.started.setdefault(key.program_id, self.now)
        prefilled = {chunk.key for chunk in plan.prefill}
        for key in plan.started:
            if key not in prefilled:  # it was paused before and decodes on
                self._expect_end(key)
        if self._on_plan is not None:
            self._on_plan(self.now, plan)

    def _run_plan(self, plan: StepPlan, until: float) -> None:
        num_steps, seconds = self._measure(plan, until)
        computed = self._list_computed(plan)
        self.scheduler.advance(num_steps, computed=computed)
        self.num_steps += num_steps
        self.now += seconds
        self.busy_seconds += seconds
        for chunk in computed:
            if chunk.is_last:
                self._expect_end(chunk.key)

    def _measure(self, plan: StepPlan, until: float) -> tuple[int, float]:
        """Steps for which a plan is run, and their seconds."""
        batch, context = len(plan.decode), self.scheduler.num_context_tokens
        if plan.prefill:
            num_tokens = sum(chunk.num_tokens for chunk in self._list_computed(plan))
            return 1, self._model.time_step(batch, context, num_tokens)
        num_steps = self._count_steps(batch, context, until)
        return num_steps, self._model.time_steps(batch, context, num_steps)

    def _list_computed(self, plan: StepPlan) -> tuple[PrefillChunk, ...]:
        if not self._siblings_wait:
            return plan.prefill
        has_prompt = {key.program_id for key in plan.decode}
        computed: dict[str, list[PrefillChunk]] = {}
        for chunk in plan.prefill:
            chunks = computed.setdefault(chunk.key.program_id, [])
            if not chunks or chunk.key.program_id in has_prompt:
                chunks.append(chunk)
        kept = {chunk.key for chunks in computed.values() for chunk in chunks}
        return tuple(chunk for chunk in plan.prefill if chunk.key in kept)

    def _count_steps(self, batch: int, context: int, until: float) -> int:
        """Steps until something happens: a request ends, memory runs short, that time comes, a rank is void."""
        while self._ends.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)  # it was paused or dropped since
        num_steps = min(self.scheduler.steps_left, self._heap[0][0] - self.num_steps)
        until = min(self.scheduler.next_change_at, until)
        if until == float("inf"):
            return num_steps
        return self._model.count_steps(batch, context, max(0.0, until - self.now), num_steps)

    def _expect_end(self, key: RequestKey) -> None:
        """From now on the request gains a token a step."""
        end = self.num_steps + self._targets[key] - self.scheduler.count_generated(key)
        self._serial += 1
        self._ends[key] = end
        heapq.heappush(self._heap, (end, self._serial, key))


__all__ = ["VirtualEngine"]
