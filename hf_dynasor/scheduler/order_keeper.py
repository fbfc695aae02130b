"""Keeps what waits in the order of a policy, making anew only the ranks of what changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hf_dynasor.scheduler.ageing import Ageing
from hf_dynasor.scheduler.estimates import WorkEstimator
from hf_dynasor.scheduler.policies import SchedulingPolicy, rank_aged
from hf_dynasor.scheduler.queues import Alarms, WaitingQueue
from hf_dynasor.scheduler.records import ProgramRecord, RequestRecord


class OrderKeeper:
    """Ranks in a heap, and the times at which a rank changes by itself.

    A policy that ranks requests has a request's rank made when it is submitted, sent back to wait, raised, or when
    its prompt comes into memory or leaves it; one that ranks programs, at every event of the program.

    Args:
        policy: Who goes first.
        ageing: When a program has waited too long.
        estimator: For the views.

    Attributes:
        queue: What waits.
        num_raised: Programs that were raised for waiting too long so far.
    """

    def __init__(self, policy: SchedulingPolicy, ageing: Ageing, estimator: WorkEstimator) -> None:
        self.queue: WaitingQueue[ProgramRecord | RequestRecord] = WaitingQueue()
        self.num_raised = 0
        self._policy = policy
        self._ageing = ageing
        self._estimator = estimator
        self._changed: dict[int, ProgramRecord] = {}
        self._changed_requests: dict[int, RequestRecord] = {}
        self._waits: Alarms[ProgramRecord] = Alarms()
        self._ranks: Alarms[tuple[ProgramRecord, int]] = Alarms()

    @property
    def next_time(self) -> float:
        """When the order may change by the passing of time alone."""
        return min(self._waits.next_time, self._ranks.next_time)

    def note_changed(self, program: ProgramRecord, *requests: RequestRecord) -> None:
        """Something happened to a program, and to these of its requests."""
        self._changed[program.serial] = program
        self._changed_requests.update({request.serial: request for request in requests})

    def note_planned(self, programs: Mapping[int, ProgramRecord], requests: Iterable[RequestRecord]) -> None:
        """A plan did something to these programs and requests."""
        self._changed.update(programs)
        self._changed_requests.update({request.serial: request for request in requests})

    def forget(self, program: ProgramRecord) -> None:
        """The program is gone."""
        self.queue.discard(program)
        self._changed.pop(program.serial, None)

    def forget_request(self, request: RequestRecord) -> None:
        """The request is gone."""
        self.queue.discard(request)
        self._changed_requests.pop(request.serial, None)

    def wake(self, now: float) -> bool:
        """Raise who has waited too long, and note whose rank is no longer valid; returns whether there was any."""
        has_changed = False
        while (program := self._waits.pop_due(now)) is not None:
            program.has_alarm = False
            has_changed |= self._raise_if_due(program, now)
        while (due := self._ranks.pop_due(now)) is not None:
            program, version = due
            if program.version == version and program.has_requests:
                self.note_changed(program)
                has_changed = True
        return has_changed

    def rank_changed(self, now: float, step_seconds: float) -> None:
        """Make the ranks of what changed, and put what waits into the queue."""
        for program in self._changed.values():
            self._watch(program)
            if not self._policy.ranks_requests:
                self._rank_program(program, now, step_seconds)
        if self._policy.ranks_requests:
            for request in self._changed_requests.values():
                self._rank_request(request, now, step_seconds)
        self._changed.clear()
        self._changed_requests.clear()

    def _rank_program(self, program: ProgramRecord, now: float, step_seconds: float) -> None:
        view = program.view(self._estimator, step_seconds)
        program.rank, valid_until = rank_aged(self._policy, self._ageing, view, None, now)
        if program.has_waiting:
            self.queue.push(program)
        else:
            self.queue.discard(program)
        if valid_until < self._ageing.find_due(view):
            self._ranks.set(valid_until, (program, program.version))

    def _rank_request(self, request: RequestRecord, now: float, step_seconds: float) -> None:
        if request.is_running:
            return
        view = request.program.view(self._estimator, step_seconds)
        request.rank = rank_aged(self._policy, self._ageing, view, request.view(), now).key
        self.queue.push(request)

    def _raise_if_due(self, program: ProgramRecord, now: float) -> bool:
        since = program.waiting_since
        if since is None or program.aged_at is not None:
            return False
        due = since + self._ageing.max_wait_s
        if due > now:
            self._watch(program)
            return False
        program.aged_at = due
        self.num_raised += 1
        self.note_changed(program, *program.iter_waiting())
        return True

    def _watch(self, program: ProgramRecord) -> None:
        """Look at a waiting program when its longest wait is over."""
        since = program.waiting_since
        if since is not None and not program.has_alarm and program.aged_at is None:
            program.has_alarm = True
            self._waits.set(since + self._ageing.max_wait_s, program)


__all__ = ["OrderKeeper"]
