"""Inter-program scheduling: who runs next (paper §4). Pure functions of frozen views to ranks.

A policy ranks; the lowest rank goes first. A rank holds until something happens to its program, or until a time
that the policy names (a deadline that can no longer be met), so a scheduler keeps ranks in a heap and makes anew
only those that changed. `order_requests` is the same order written plainly; tests hold the two together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from hf_dynasor.core import RequestKey
from hf_dynasor.errors import ConfigurationError, name_unknown
from hf_dynasor.scheduler.ageing import Ageing
from hf_dynasor.scheduler.views import ProgramView, RequestView, Snapshot

NEVER = math.inf


class Rank(NamedTuple):
    """A place in the order.

    Args:
        key: Compared as a tuple; the lowest goes first.
        valid_until: When the key changes by the passing of time alone, in seconds.
    """

    key: tuple[float, ...]
    valid_until: float = NEVER


class SchedulingPolicy(Protocol):
    """Ranks programs, or requests one by one."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def ranks_requests(self) -> bool:
        """Whether each request has a rank of its own; else those of a program go together, oldest first."""
        ...

    @property
    def is_preemptive(self) -> bool:
        """Whether a running request waits where all places are taken by later ranks; it keeps its memory."""
        ...

    def rank(self, program: ProgramView, request: RequestView | None, now: float) -> Rank:
        """The rank of a program, or of one of its requests where `ranks_requests`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Fcfs:
    """Requests in the order of submission: a program's later grants queue behind everybody's earlier ones."""

    name: str = "fcfs"
    ranks_requests: bool = True
    is_preemptive: bool = False

    def rank(self, program: ProgramView, request: RequestView | None, now: float) -> Rank:
        """By submission."""
        return Rank((float(_need(request).serial),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Lpm:
    """SGLang's longest prefix match: the request with most of its prompt in memory first, then by submission."""

    name: str = "lpm"
    ranks_requests: bool = True
    is_preemptive: bool = False

    def rank(self, program: ProgramView, request: RequestView | None, now: float) -> Rank:
        """By cached tokens, most first."""
        request = _need(request)
        return Rank((-float(request.cached_tokens), float(request.serial)))


@dataclass(frozen=True, slots=True, kw_only=True)
class AppFifo:
    """Parrot: programs in the order of arrival, all requests of one together, its later grants too."""

    name: str = "app_fifo"
    ranks_requests: bool = False
    is_preemptive: bool = False

    def rank(self, program: ProgramView, request: RequestView | None, now: float) -> Rank:
        """By arrival."""
        return Rank((float(program.serial),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Gang:
    """Programs that have started before those that have not, the one with fewest units left first (paper §4).

    What was begun is brought to an end before anything is begun; those not started go by arrival.
    """

    name: str = "gang"
    ranks_requests: bool = False
    is_preemptive: bool = False

    def rank(self, program: ProgramView, request: RequestView | None, now: float) -> Rank:
        """By having started, then by units left or by arrival."""
        if program.has_started:
            return Rank((0.0, program.num_unfinished, float(program.serial)))
        return Rank((1.0, 0.0, float(program.serial)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sjf:
    """The program with least estimated work left, per weight, first; it takes the place of longer ones."""

    name: str = "sjf"
    ranks_requests: bool = False
    is_preemptive: bool = True

    def rank(self, program: ProgramView, request: RequestView | None, now: float) -> Rank:
        """By remaining tokens over weight."""
        return Rank((program.remaining_tokens / program.weight, float(program.serial)))


@dataclass(frozen=True, slots=True, kw_only=True)
class GangSjf:
    """Shortest program first, all requests of one together; what runs is not interrupted (paper §4).

    Args:
        hold: What a started program's remaining work counts, in [0, 1]: 1, the default, lets a shorter newcomer
            go before its next grant; 0 is strict (all started programs before all others), which costs much
            where a first grant is short and a second one long.
    """

    hold: float = 1.0
    name: str = "gang_sjf"
    ranks_requests: bool = False
    is_preemptive: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.hold <= 1:
            raise ConfigurationError(f"Got {self.hold = } but expected a value in [0, 1].")

    def rank(self, program: ProgramView, request: RequestView | None, now: float) -> Rank:
        """By remaining tokens over weight, those of a started program times `hold`."""
        work = program.remaining_tokens / program.weight
        return Rank((work * self.hold if program.has_started else work, work, float(program.serial)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """Ours: least slack first among programs that can still meet their deadline; the others after, shortest first.

    Slack is the deadline less now less the steps that the program still needs at the engine's pace. A program
    without a deadline has no slack to lose: it goes with the second group. Work that comes too late anyway thus
    never makes another program late.
    """

    name: str = "deadline"
    ranks_requests: bool = False
    is_preemptive: bool = True

    def rank(self, program: ProgramView, request: RequestView | None, now: float) -> Rank:
        """By the latest time at which it must run without a break; void once that time is past."""
        late = (1.0, program.remaining_tokens / program.weight, float(program.serial))
        if program.deadline is None:
            return Rank(late)
        latest_start = program.deadline - program.remaining_steps * program.step_seconds
        if now >= latest_start:
            return Rank(late)
        return Rank((0.0, latest_start, float(program.serial)), latest_start)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fair:
    """Ours: start-time fair queueing over tenants by weight; within a tenant by arrival, programs together.

    A tenant that asks for little is served at once, whatever another one has queued.
    """

    name: str = "fair"
    ranks_requests: bool = False
    is_preemptive: bool = False

    def rank(self, program: ProgramView, request: RequestView | None, now: float) -> Rank:
        """By the virtual start."""
        return Rank((program.fair_tag, float(program.serial)))


SCHEDULING_POLICIES: dict[str, type[SchedulingPolicy]] = {
    "app_fifo": AppFifo,
    "deadline": Deadline,
    "fair": Fair,
    "fcfs": Fcfs,
    "gang": Gang,
    "gang_sjf": GangSjf,
    "lpm": Lpm,
    "sjf": Sjf,
}
"""Scheduling policies by the names that a command line or a request uses."""


def make_scheduling_policy(name: str) -> SchedulingPolicy:
    """The policy of that name with its defaults.

    Raises:
        ConfigurationError: The name is unknown.

    Examples:
        >>> make_scheduling_policy("gang_sjf").name
        'gang_sjf'
    """
    if name not in SCHEDULING_POLICIES:
        raise name_unknown("scheduling policy", name, SCHEDULING_POLICIES)
    return SCHEDULING_POLICIES[name]()


def rank_aged(
    policy: SchedulingPolicy, ageing: Ageing, program: ProgramView, request: RequestView | None, now: float
) -> Rank:
    """A policy's rank behind those that have waited too long and behind higher priorities.

    Raised programs go by the time they were raised, whatever the policy: nothing that comes later passes them.
    """
    raised_at = ageing.find_raised_at(program, now)
    if raised_at is not None:
        return Rank((0.0, raised_at, float(program.serial)))
    rank = policy.rank(program, request, now)
    valid_until = min(rank.valid_until, ageing.find_due(program))
    return Rank((1.0, -float(program.priority), *rank.key), valid_until)


def order_requests(
    policy: SchedulingPolicy, snapshot: Snapshot, ageing: Ageing | None = None
) -> tuple[RequestKey, ...]:
    """All requests of a snapshot in the order in which they are given places.

    Running requests come first, oldest first, unless the policy is preemptive. Equal ranks (requests of one
    program) go: running, paused, then by submission. The order of the snapshot's tuples changes nothing.
    """
    ageing = ageing or Ageing()
    programs = {program.program_id: program for program in snapshot.programs}

    def place(request: RequestView) -> tuple[object, ...]:
        if request.is_running and not policy.is_preemptive:
            return (0, (), 0, request.serial)
        program = programs[request.key.program_id]
        ranked = request if policy.ranks_requests else None
        rank = rank_aged(policy, ageing, program, ranked, snapshot.now)
        state = 0 if request.is_running else 1 if request.is_paused else 2
        return (1, rank.key, state, request.serial)

    return tuple(request.key for request in sorted(snapshot.requests, key=place))


def _need(request: RequestView | None) -> RequestView:
    if request is None:
        raise ConfigurationError("This policy ranks requests: expected a request view.")
    return request


__all__ = [
    "NEVER",
    "SCHEDULING_POLICIES",
    "AppFifo",
    "Deadline",
    "Fair",
    "Fcfs",
    "Gang",
    "GangSjf",
    "Lpm",
    "Rank",
    "SchedulingPolicy",
    "Sjf",
    "make_scheduling_policy",
    "order_requests",
    "rank_aged",
]
