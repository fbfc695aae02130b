"""What the tests of scheduling share: a driver that runs a scheduler step by step and checks it as it goes."""

from __future__ import annotations

from hf_dynasor.core import RequestKey
from hf_dynasor.scheduler.plans import Limits
from hf_dynasor.scheduler.policies import order_requests
from hf_dynasor.scheduler.shell import Scheduler
from hf_dynasor.scheduler.views import ProgramSpec, RequestSpec


def key(program, request):
    return RequestKey(program_id=str(program), request_id=str(request))


class Driver:
    """One token a step for every decoding request, one second a step; ends requests at their lengths.

    Args:
        scheduler: What is driven.
        checks: Called with the scheduler and each plan.

    Attributes:
        plans: Each new plan.
    """

    def __init__(self, scheduler: Scheduler, checks=()):
        self.scheduler = scheduler
        self.checks = checks
        self.now = 0.0
        self.lengths = {}
        self.open = {}
        self.started = {}
        self.finished = {}
        self.plans = []

    def submit(self, program, lengths, *, prompt=8, **spec):
        """A program whose requests generate so many tokens each."""
        spec = {"planned_units": len(lengths)} | spec
        self.scheduler.program_submitted(ProgramSpec(program_id=str(program), **spec), self.now)
        self.open[str(program)] = len(lengths)
        for index, length in enumerate(lengths):
            self.submit_request(program, index, length, prompt=prompt)

    def submit_request(self, program, index, length, *, prompt=8):
        request = RequestSpec(key=key(program, index), prompt_tokens=prompt, max_tokens=length)
        self.lengths[request.key] = length
        self.scheduler.submitted(request, self.now)

    def step(self):
        plan = self.scheduler.plan_step(self.now)
        if not self.plans or plan is not self.plans[-1]:  # a plan that still holds comes back
            self.plans.append(plan)
        for check in self.checks:
            check(self.scheduler, plan)
        for item in plan.started:
            self.started.setdefault(item.program_id, self.now)
        self.now += 1.0
        if not plan.is_empty:
            self.scheduler.advance()
            self._finish(plan)
        return plan

    def run(self, max_steps=10_000):
        for _ in range(max_steps):
            if self.step().is_empty:
                return
        raise AssertionError("The driver did not end.")

    def _finish(self, plan):
        ran = [*plan.decode, *(chunk.key for chunk in plan.prefill if chunk.is_last)]
        for item in ran:
            if self.scheduler.count_generated(item) >= self.lengths[item]:
                self.scheduler.finished(item, self.now)
                self.open[item.program_id] -= 1
                if not self.open[item.program_id]:
                    self.finished[item.program_id] = self.now
                    self.scheduler.program_finished(item.program_id, self.now)


def make_limits(**limits):
    return Limits(**{"max_requests": 4, "max_tokens": 32, "page_size": 4} | limits)


def list_order(scheduler, now):
    """The order of what waits, by the pure function."""
    snapshot = scheduler.snapshot(now)
    waiting = {request.key for request in snapshot.requests if not request.is_running}
    order = order_requests(scheduler.policy, snapshot, scheduler.ageing)
    return [item for item in order if item in waiting]
