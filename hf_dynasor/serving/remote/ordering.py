"""Which programs' requests go to the server first, and what it is told of their priority."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import fields, is_dataclass, replace
from typing import Any

from hf_dynasor.clock import Clock
from hf_dynasor.scheduler.plans import Limits
from hf_dynasor.scheduler.policies import make_scheduling_policy
from hf_dynasor.scheduler.shell import Scheduler
from hf_dynasor.serving.program_scheduling import ProgramScheduling

DEFAULT_SCHEDULER = "gang_sjf"
MAX_PROGRAMS = 100_000
"""Programs whose priority is remembered; beyond, the oldest is forgotten."""
_NO_LIMIT = 2**40
"""Tokens of a step: how they are computed is the server's own affair."""


def make_scheduling(policy: str, max_in_flight: int, clock: Clock) -> ProgramScheduling:
    """The package's scheduler over places at a server.

    Its steps are the moments at which a place is given; a request that has one keeps it, since a server cannot be asked
    to pause.

    Raises:
        ConfigurationError: An unknown policy.
    """
    chosen: Any = make_scheduling_policy(policy)
    if is_dataclass(chosen) and "is_preemptive" in {item.name for item in fields(chosen)}:
        chosen = replace(chosen, is_preemptive=False)  # type: ignore[type-var]
    limits = Limits(max_requests=max_in_flight, max_tokens=_NO_LIMIT)
    return ProgramScheduling(Scheduler(chosen, limits=limits), clock)


class Priorities:
    """The priorities of programs that told one."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, int] = OrderedDict()

    def note(self, program_id: str, priority: int) -> None:
        """A program tells its own."""
        if priority:
            self._known[program_id] = priority
            if len(self._known) > MAX_PROGRAMS:
                self._known.popitem(last=False)

    def get(self, program_id: str) -> int:
        """A program's; 0 where it told none."""
        return self._known.get(program_id, 0)

    def forget(self, program_id: str) -> None:
        """A program is over."""
        self._known.pop(program_id, None)
