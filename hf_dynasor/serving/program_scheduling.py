"""Between an engine's loop and the scheduler: requests by name, programs by what they tell.

The scheduler is the one that the simulator runs. It is touched by the engine's loop only; what programs tell from other
threads is kept until the loop's next step.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hf_dynasor.clock import Clock
from hf_dynasor.core import RequestKey
from hf_dynasor.program_plan import ProgramPlan
from hf_dynasor.scheduler.plans import PrefillChunk, StepPlan
from hf_dynasor.scheduler.shell import Scheduler
from hf_dynasor.scheduler.simulate.engine_model import StepRow
from hf_dynasor.scheduler.views import ProgramSpec, RequestSpec

MAX_NOTES = 64
"""Most notes of one program that wait for the next step; the oldest go first."""

MAX_KINDS = 1024
"""Most kinds of programs whose requests are counted; beyond, the oldest is forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """Prompt tokens of one request that a step computes.

    Args:
        name: The request, as the engine's loop knows it.
        num_tokens: How many.
        is_last: Whether the prompt is complete with them.
    """

    name: str
    num_tokens: int
    is_last: bool


@dataclass(slots=True)
class _Known:
    """A program that the scheduler knows."""

    plan: ProgramPlan | None = None
    num_live: int = 0
    num_requests: int = 0
    is_ending: bool = False


class ProgramScheduling:
    """Tells the scheduler what happens, and the loop which requests run next.

    A program that tells what it plans is known from then to its end. Requests of one that never does are scheduled
    too: as a program of a single request each time.

    Args:
        scheduler: Decides.
        clock: Its time.
        num_rows: Steps to remember in `rows`, how long they took with them; none by default.

    Attributes:
        rows: The last steps that ended, for fitting an engine model.
        num_lost: How often the engine took a request's memory.
        on_plan: Called with each new plan that starts, pauses or drops a request, and its time, from the loop.
    """

    def __init__(self, scheduler: Scheduler, clock: Clock, *, num_rows: int = 0) -> None:
        self.scheduler = scheduler
        self.rows: deque[StepRow] = deque(maxlen=num_rows)
        self.num_lost = 0
        self.on_plan: Callable[[float, StepPlan], None] = _ignore
        self._clock = clock
        self._lock = threading.Lock()
        self._notes: dict[str, deque[ProgramPlan]] = {}
        self._ends: dict[str, None] = {}
        self._programs: dict[str, _Known] = {}
        self._keys: dict[str, RequestKey] = {}
        self._names: dict[RequestKey, str] = {}
        self._ratios: dict[str, tuple[int, int]] = {}
        self._plan = StepPlan()
        self._chosen_at = 0.0
        self._running: StepRow | None = None

    @property
    def gang_size(self) -> float:
        """Requests of a program that run together, on average over the programs of the last step; 0 without any."""
        plan = self._plan
        programs = [key.program_id for key in plan.decode] + [chunk.key.program_id for chunk in plan.prefill]
        return len(programs) / len(set(programs)) if programs else 0.0

    # --- from any thread -------------------------------------------------------------------------------------------

    def note_program(self, program_id: str, plan: ProgramPlan) -> None:
        """A program begins or stands elsewhere now."""
        with self._lock:
            self._notes.setdefault(program_id, deque(maxlen=MAX_NOTES)).append(plan)

    def note_end(self, program_id: str) -> None:
        """A program is over; what is left of its requests runs to its own end."""
        with self._lock:
            if program_id in self._programs:
                self._ends[program_id] = None
            else:
                self._notes.pop(program_id, None)

    # --- from the loop ---------------------------------------------------------------------------------------------

    def enqueue(self, name: str, key: RequestKey, num_prompt_tokens: int, max_tokens: int) -> None:
        """A request waits from now on; or again, after the engine took its memory."""
        now = self._clock.now()
        if name in self._keys:
            self.num_lost += 1
            self.scheduler.lost(key, now)
            return
        self._hear_notes(now)
        self._keys[name], self._names[key] = key, name
        self._programs.setdefault(key.program_id, _Known()).num_live += 1
        self._programs[key.program_id].num_requests += 1
        spec = RequestSpec(key=key, prompt_tokens=num_prompt_tokens, max_tokens=max_tokens)
        self.scheduler.submitted(spec, now)

    def choose(self) -> list[str]:
        """The requests that the next step runs, those that decode first."""
        now = self._clock.now()
        self._end_step(now)
        self._hear_notes(now)
        plan = self.scheduler.plan_step(now)
        if plan is not self._plan and (plan.started or plan.paused or plan.dropped):
            self.on_plan(now, plan)
        self._plan, self._chosen_at = plan, now
        keys = (*plan.decode, *(chunk.key for chunk in plan.prefill))
        return [self._names[key] for key in keys]

    def note_run(self, computed: Sequence[Computed]) -> None:
        """The step that was chosen runs, with these parts of prompts."""
        context = self.scheduler.num_context_tokens
        self.scheduler.advance(
            computed=[
                PrefillChunk(key=self._keys[part.name], num_tokens=part.num_tokens, is_last=part.is_last)
                for part in computed
            ]
        )
        if self.rows.maxlen:
            self._running = StepRow(
                num_requests=len(self._plan.decode),
                num_context_tokens=context,
                num_prefill_tokens=sum(part.num_tokens for part in computed),
                seconds=0.0,
            )

    def finished(self, name: str, num_tokens: int) -> None:
        """A request ended by itself."""
        if (key := self._forget(name)) is not None:
            self.scheduler.finished(key, self._clock.now(), num_tokens)
            self._end_if_over(key.program_id)

    def cancelled(self, name: str) -> None:
        """A request was given up; one that has ended is ignored."""
        if (key := self._forget(name)) is not None:
            self.scheduler.cancelled(key, self._clock.now())
            self._end_if_over(key.program_id)

    def find_parked(self) -> str | None:
        """The paused request whose memory goes first; `None` if none is paused."""
        key = self.scheduler.last_paused
        return None if key is None else self._names[key]

    # --- how it is kept ---------------------------------------------------------------------------------------------

    def _hear_notes(self, now: float) -> None:
        with self._lock:
            notes, self._notes = self._notes, {}
            ends, self._ends = self._ends, {}
        for program_id, plans in notes.items():
            for plan in plans:
                self._hear(program_id, plan, now)
        for program_id in ends:
            self._programs[program_id].is_ending = True
            self._end_if_over(program_id)

    def _hear(self, program_id: str, plan: ProgramPlan, now: float) -> None:
        known = self._programs.get(program_id)
        planned = self._count_planned(plan, known)
        if known is None:
            self._programs[program_id] = _Known(plan=plan)
            self.scheduler.program_submitted(_specify(program_id, plan, planned, now), now)
            return
        known.plan = plan
        if plan.certaindex is not None:
            self.scheduler.certaindex_updated(program_id, plan.certaindex, now)
        is_final = plan.predicted_units is not None
        self.scheduler.grant_planned(program_id, planned, now, is_final=is_final)

    def _count_planned(self, plan: ProgramPlan, known: _Known | None) -> int:
        """Requests that a program may make in all: units of its knob, at its own rate so far or its kind's."""
        num_requests = 0 if known is None else known.num_requests
        seen = (num_requests, plan.granted_units)
        if not all(seen):
            seen = self._ratios.get(plan.kind, (1, plan.planned_units if plan.unit == "tokens" else 1))
        units = plan.planned_units
        if plan.predicted_units is not None:
            units = plan.granted_units + plan.predicted_units
        return max(1, num_requests, round(units * seen[0] / seen[1]))

    def _forget(self, name: str) -> RequestKey | None:
        key = self._keys.pop(name, None)
        if key is not None:
            del self._names[key]
            self._programs[key.program_id].num_live -= 1
        if not self._keys:
            self._running = None  # the time to the next step is not this one's
        return key

    def _end_if_over(self, program_id: str) -> None:
        known = self._programs[program_id]
        if known.num_live or not (known.is_ending or known.plan is None):
            return
        del self._programs[program_id]
        self.scheduler.program_finished(program_id, self._clock.now())
        if known.plan is not None and known.num_requests and known.plan.granted_units:
            self._learn_ratio(known.plan, known.num_requests)

    def _learn_ratio(self, plan: ProgramPlan, num_requests: int) -> None:
        requests, units = self._ratios.pop(plan.kind, (0, 0))
        if len(self._ratios) >= MAX_KINDS:
            self._ratios.pop(next(iter(self._ratios)))
        self._ratios[plan.kind] = (requests + num_requests, units + plan.granted_units)

    def _end_step(self, now: float) -> None:
        if self._running is not None and now > self._chosen_at:
            self.rows.append(replace(self._running, seconds=now - self._chosen_at))
        self._running = None


def _specify(program_id: str, plan: ProgramPlan, num_requests: int, now: float) -> ProgramSpec:
    terms = plan.terms
    return ProgramSpec(
        program_id=program_id,
        kind=plan.kind,
        planned_units=num_requests,
        deadline=None if terms.deadline_s is None else now + terms.deadline_s,
        priority=terms.priority,
        tenant=terms.tenant,
        weight=terms.weight,
    )


def _ignore(now: float, plan: StepPlan) -> None:
    pass


__all__ = ["Computed", "ProgramScheduling"]
