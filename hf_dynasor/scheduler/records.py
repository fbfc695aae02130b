"""What the scheduler keeps of programs and requests: the mutable half of the views."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from hf_dynasor.certaindex import Certaindex
from hf_dynasor.scheduler.estimates import WorkEstimator, WorkSoFar
from hf_dynasor.scheduler.views import ProgramSpec, ProgramView, RequestSpec, RequestView


class RequestState(Enum):
    """Where a request is."""

    FRESH = "fresh"
    PAUSED = "paused"
    PREFILLING = "prefilling"
    DECODING = "decoding"


class RequestRecord:
    """One request: its state, its tokens and its memory."""

    __slots__ = (
        "base_step", "blocks", "key", "num_cached", "num_generated", "phase", "prefill_left", "program", "rank", "serial",
        "spec", "state", "submitted_at", "version", "waits_since",
    )  # fmt: skip

    def __init__(self, spec: RequestSpec, program: ProgramRecord, serial: int, now: float) -> None:
        self.spec = spec
        self.key = spec.key
        self.program = program
        self.serial = serial
        self.submitted_at = self.waits_since = now
        self.state = RequestState.FRESH
        self.num_generated = self.prefill_left = self.blocks = self.phase = self.base_step = self.version = 0
        self.num_cached: int | None = None
        self.rank: tuple[float, ...] = ()

    @property
    def is_running(self) -> bool:
        """Whether it has a place."""
        return self.state is RequestState.DECODING or self.state is RequestState.PREFILLING

    @property
    def num_shared(self) -> int:
        """Leading tokens of its prompt in whole blocks that its program keeps once for all."""
        shared = self.spec.shared_tokens
        prompt = self.spec.prompt_tokens
        return min(self.program.shared_tokens, prompt if shared is None else shared)

    def count_cached(self) -> int:
        """Leading tokens that need not be computed; the last one always is, for its logits."""
        known = self.num_shared if self.program.is_resident else 0
        return min(self.spec.prompt_tokens - 1, max(known, self.num_cached or 0))

    def view(self) -> RequestView:
        """As a policy sees it."""
        return RequestView(
            key=self.key,
            serial=self.serial,
            submitted_at=self.submitted_at,
            cached_tokens=self.count_cached(),
            is_running=self.is_running,
            is_paused=self.state is RequestState.PAUSED,
        )


class ProgramRecord:
    """One program: its requests by state, what it has spent, and its place in the order."""

    __slots__ = (
        "aged_at", "arrived_at", "certaindex", "fair_tag", "finished_tokens", "finished_units", "fresh", "granted_units",
        "has_alarm", "has_started", "idle_since", "is_plan_final", "is_resident", "paused", "planned_units", "rank", "readings",
        "running", "serial", "shared_tokens", "spec", "version",
    )  # fmt: skip

    def __init__(self, spec: ProgramSpec, serial: int, now: float) -> None:
        self.spec = spec
        self.serial = serial
        self.arrived_at = now
        self.idle_since: float | None = now
        self.fresh: dict[int, RequestRecord] = {}
        self.paused: dict[int, RequestRecord] = {}
        self.running: dict[int, RequestRecord] = {}
        self.planned_units = spec.planned_units
        self.granted_units = self.finished_units = self.finished_tokens = 0
        self.certaindex: Certaindex | None = None
        self.readings: list[tuple[Certaindex | None, int]] = []
        self.is_plan_final = self.has_started = self.is_resident = self.has_alarm = False
        self.aged_at: float | None = None
        self.fair_tag = 0.0
        self.shared_tokens = self.version = 0
        self.rank: tuple[float, ...] = ()

    @property
    def has_waiting(self) -> bool:
        """Whether any of its requests waits for a place."""
        return bool(self.fresh or self.paused)

    @property
    def has_requests(self) -> bool:
        """Whether it has any request at all."""
        return bool(self.fresh or self.paused or self.running)

    @property
    def waiting_since(self) -> float | None:
        """Since when its longest waiting request waits. Requests enter each dict in the order of time."""
        times = [next(iter(each.values())).waits_since for each in (self.fresh, self.paused) if each]
        return min(times) if times else None

    def next_waiting(self) -> RequestRecord:
        """Which of its waiting requests goes first: paused ones, which hold memory, then the oldest."""
        waiting = self.paused or self.fresh
        return waiting[min(waiting)]

    def add(self, request: RequestRecord, page_size: int) -> None:
        """A request of it was submitted. The first one says how long a prompt they share, in whole blocks."""
        if not self.is_resident and not self.has_requests:
            shared = request.spec.shared_tokens
            prompt = request.spec.prompt_tokens
            self.shared_tokens = (prompt if shared is None else shared) // page_size * page_size
        self.fresh[request.serial] = request
        self.granted_units += request.spec.units
        self.planned_units = max(self.planned_units, self.granted_units)
        self.idle_since = None

    def move(self, request: RequestRecord, where: dict[int, RequestRecord]) -> None:
        """The request is among `where` (`fresh`, `paused` or `running`) from now on."""
        self.forget(request)
        where[request.serial] = request

    def forget(self, request: RequestRecord) -> None:
        """The request is in none of its sets."""
        for each in (self.running, self.fresh, self.paused):
            if each.pop(request.serial, None) is not None:
                return

    def note_finished(self, request: RequestRecord, num_tokens: int, now: float) -> None:
        """A request of it ended by itself after so many tokens."""
        self.finished_units += request.spec.units
        self.finished_tokens += num_tokens
        self._note_idle(now)

    def note_cancelled(self, request: RequestRecord, now: float) -> None:
        """A request of it was given up: its units are not spent, and tell nothing about length."""
        self.granted_units -= request.spec.units
        self._note_idle(now)

    def _note_idle(self, now: float) -> None:
        if not self.has_requests:
            self.idle_since = now

    def learn(self, estimator: WorkEstimator) -> bool:
        """Teach an estimator what each reading foretold, now that it is known; returns whether it tells anew."""
        history = estimator.history(self.spec.kind)
        planned = self.spec.planned_units
        has_changed = False
        for certaindex, granted in self.readings:
            if planned > granted:
                share = min(1.0, (self.granted_units - granted) / (planned - granted))
                has_changed |= history.note_decision(certaindex, share)
        return has_changed

    def iter_waiting(self) -> Iterator[RequestRecord]:
        """Its waiting requests."""
        yield from self.paused.values()
        yield from self.fresh.values()

    def note_reading(self, certaindex: Certaindex | None) -> None:
        """Remember after how many units a reading was made, to learn what it foretold."""
        self.certaindex = certaindex
        self.readings.append((certaindex, self.granted_units))

    def view(self, estimator: WorkEstimator, step_seconds: float) -> ProgramView:
        """As a policy sees it."""
        spec = self.spec
        estimate = estimator.estimate(
            spec.kind,
            WorkSoFar(
                program_id=spec.program_id,
                planned_units=self.planned_units,
                granted_units=self.granted_units,
                finished_units=self.finished_units,
                finished_tokens=self.finished_tokens,
                certaindex=self.certaindex,
                is_plan_final=self.is_plan_final,
            ),
        )
        return ProgramView(
            program_id=spec.program_id,
            serial=self.serial,
            kind=spec.kind,
            tenant=spec.tenant,
            weight=spec.weight,
            priority=spec.priority,
            arrived_at=self.arrived_at,
            deadline=spec.deadline,
            num_waiting=len(self.fresh) + len(self.paused),
            num_running=len(self.running),
            num_unfinished=estimate.units,
            remaining_tokens=estimate.tokens,
            remaining_steps=estimate.steps,
            step_seconds=step_seconds,
            has_started=self.has_started,
            waiting_since=self.waiting_since,
            aged_at=self.aged_at,
            fair_tag=self.fair_tag,
        )


__all__ = ["ProgramRecord", "RequestRecord", "RequestState"]
