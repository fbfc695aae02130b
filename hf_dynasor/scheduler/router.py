"""`Router`: what a routing policy looks at, kept up to date. The one class of routing that mutates."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from hf_dynasor.errors import ConfigurationError, EngineError
from hf_dynasor.scheduler.routing import ReplicaView, Routed, RoutingPolicy

MAX_KINDS = 1024
"""Most kinds of programs whose real work is remembered."""

MAX_PREFIXES = 100_000
"""Most beginnings that are remembered of one replica, whatever their tokens."""

_SHRINKAGE = 4.0
"""Programs that a kind's plan counts for beside what its programs really did."""


@dataclass(slots=True)
class _Placed:
    """A program on its replica."""

    replica: str
    kind: str
    planned: float
    work: float


@dataclass(slots=True)
class _Replica:
    """What is believed of one replica."""

    work: float = 0.0
    num_programs: int = 0
    prefixes: OrderedDict[str, int] = field(default_factory=OrderedDict)
    prefix_tokens: int = 0


@dataclass(slots=True)
class _Kind:
    """Tokens that programs of a kind planned, and what they really generated."""

    planned: float = 0.0
    real: float = 0.0
    count: float = 0.0


class Router:
    """Sends each program to a replica and keeps account of what that leaves to do. Not thread-safe.

    Args:
        policy: Chooses.
        seed: Of its dice.
        cache_tokens: Tokens of beginnings that a replica is believed to keep; the oldest are forgotten first.

    Examples:
        >>> from hf_dynasor.scheduler.routing import LeastWork
        >>> router = Router(LeastWork())
        >>> router.add_replica("a"), router.add_replica("b")
        (None, None)
        >>> router.route("p", Routed(planned_tokens=10)), router.route("q", Routed(planned_tokens=30))
        ('a', 'b')
        >>> router.ended("p", tokens=4)
        >>> router.view("a").work
        0.0
    """

    def __init__(self, policy: RoutingPolicy, *, seed: int = 0, cache_tokens: int = 100_000) -> None:
        if cache_tokens < 0:
            raise ConfigurationError(f"Got {cache_tokens = } but expected at least 0.")
        self.policy = policy
        self._cache_tokens = cache_tokens
        self._rng = random.Random(f"{seed}/routing")
        self._replicas: dict[str, _Replica] = {}
        self._placed: dict[str, _Placed] = {}
        self._kinds: dict[str, _Kind] = {}

    @property
    def replicas(self) -> tuple[str, ...]:
        """Those that programs are sent to."""
        return tuple(self._replicas)

    @property
    def num_programs(self) -> int:
        """Programs that have not ended."""
        return len(self._placed)

    def add_replica(self, name: str) -> None:
        """A replica is there from now on, with nothing to do; one that is there already stays as it is."""
        self._replicas.setdefault(name, _Replica())

    def remove_replica(self, name: str) -> tuple[str, ...]:
        """A replica is gone; returns the programs that were on it, which have to go elsewhere."""
        self._replicas.pop(name, None)
        lost = tuple(program for program, placed in self._placed.items() if placed.replica == name)
        for program in lost:
            del self._placed[program]
        return lost

    def route(self, program_id: str, program: Routed, among: Sequence[str] | None = None) -> str:
        """Choose a replica for a program, and count its work there.

        Args:
            program_id: Its name; one that is placed already stays where it is if it can.
            program: What is known of it.
            among: The replicas that may take it; all by default.

        Raises:
            EngineError: There is none.
        """
        names = [name for name in (among if among is not None else self._replicas) if name in self._replicas]
        if not names:
            raise EngineError("No replica is there to take the program.")
        placed = self._placed.get(program_id)
        if placed is not None:
            if placed.replica in names:
                return placed.replica
            self._take_off(program_id)
        chosen = self.policy.choose(program, [self.view(name, program.prefix) for name in names], self._rng)
        work = program.planned_tokens * self._find_ratio(program.kind)
        self._placed[program_id] = _Placed(chosen, program.kind, program.planned_tokens, work)
        replica = self._replicas[chosen]
        replica.work += work
        replica.num_programs += 1
        if program.prefix is not None:
            self._remember(replica, program.prefix, program.prefix_tokens)
        return chosen

    def ended(self, program_id: str, tokens: float | None = None) -> None:
        """A program is over after so many tokens, or was given up (`None`), which teaches nothing."""
        placed = self._take_off(program_id)
        if placed is not None and tokens is not None:
            self._learn(placed, tokens)

    def find(self, program_id: str) -> str | None:
        """The replica that a program is on."""
        placed = self._placed.get(program_id)
        return None if placed is None else placed.replica

    def view(self, name: str, prefix: str | None = None) -> ReplicaView:
        """A replica, as a policy sees it for a program with that beginning."""
        replica = self._replicas[name]
        cached = 0 if prefix is None else replica.prefixes.get(prefix, 0)
        # Sums of estimates come back to 0 only up to rounding.
        work = replica.work if replica.num_programs else 0.0
        return ReplicaView(name=name, num_programs=replica.num_programs, work=work, cached_tokens=cached)

    def _take_off(self, program_id: str) -> _Placed | None:
        placed = self._placed.pop(program_id, None)
        replica = None if placed is None else self._replicas.get(placed.replica)
        if placed is not None and replica is not None:
            replica.work -= placed.work
            replica.num_programs -= 1
        return placed

    def _find_ratio(self, kind: str) -> float:
        """Share of its plan that a program of a kind is expected to use."""
        known = self._kinds.get(kind)
        if known is None or not known.planned:
            return 1.0
        mean_plan = known.planned / known.count
        return (known.real + _SHRINKAGE * mean_plan) / (known.planned + _SHRINKAGE * mean_plan)

    def _learn(self, placed: _Placed, tokens: float) -> None:
        known = self._kinds.pop(placed.kind, None) or _Kind()
        while len(self._kinds) >= MAX_KINDS:
            self._kinds.pop(next(iter(self._kinds)))
        self._kinds[placed.kind] = _Kind(known.planned + placed.planned, known.real + tokens, known.count + 1)

    def _remember(self, replica: _Replica, prefix: str, num_tokens: int) -> None:
        replica.prefix_tokens += num_tokens - replica.prefixes.pop(prefix, 0)
        replica.prefixes[prefix] = num_tokens
        while len(replica.prefixes) > MAX_PREFIXES or replica.prefix_tokens > self._cache_tokens:
            _, dropped = replica.prefixes.popitem(last=False)
            replica.prefix_tokens -= dropped


__all__ = ["MAX_KINDS", "MAX_PREFIXES", "Router"]
