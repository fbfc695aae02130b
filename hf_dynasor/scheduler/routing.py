"""Which replica a program goes to. Policies are pure functions of views; `Router` is the one class that mutates.

A program stays on its replica: its branches share a prompt and run as a gang. So the choice is made once, when it
comes, from what is known then. The same router decides in front of real replicas and in the simulator.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from hf_dynasor.errors import ConfigurationError, name_unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """What is known of a program, or of a plain request, when it comes.

    Args:
        serial: How many came before it.
        kind: What is like it: its real work tells what theirs will be.
        planned_tokens: Tokens that it may generate at most, over all branches.
        prefix: A name for how its prompt begins, equal for equal beginnings; `None` if that is unknown.
        prefix_tokens: Tokens of that beginning.
    """

    serial: int = 0
    kind: str = "request"
    planned_tokens: float = 1.0
    prefix: str | None = None
    prefix_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaView:
    """A replica, as the router knows it.

    Args:
        name: The replica.
        num_programs: Programs that it was given and that have not ended.
        work: Tokens that they are still expected to generate.
        cached_tokens: Tokens of the new program's beginning that it is believed to hold.
    """

    name: str
    num_programs: int = 0
    work: float = 0.0
    cached_tokens: int = 0


class RoutingPolicy(Protocol):
    """Chooses among replicas, at least one."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    def choose(self, program: Routed, replicas: Sequence[ReplicaView], rng: random.Random) -> str:
        """The name of the replica that the program goes to."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Random:
    """Any of them."""

    name: str = "random"

    def choose(self, program: Routed, replicas: Sequence[ReplicaView], rng: random.Random) -> str:
        """By a throw of the dice."""
        return rng.choice(replicas).name


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRobin:
    """One after the other."""

    name: str = "round_robin"

    def choose(self, program: Routed, replicas: Sequence[ReplicaView], rng: random.Random) -> str:
        """By serial number."""
        return replicas[program.serial % len(replicas)].name


@dataclass(frozen=True, slots=True, kw_only=True)
class LeastWork:
    """The one that is expected to have least left to generate."""

    name: str = "least_work"

    def choose(self, program: Routed, replicas: Sequence[ReplicaView], rng: random.Random) -> str:
        """By outstanding work, then by programs."""
        return min(replicas, key=lambda each: (each.work, each.num_programs, each.name)).name


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerOfTwo:
    """The one with fewer programs of two that are drawn: Ray Serve's own rule."""

    name: str = "power_of_two"

    def choose(self, program: Routed, replicas: Sequence[ReplicaView], rng: random.Random) -> str:
        """Of two, by programs."""
        drawn = rng.sample(replicas, min(2, len(replicas)))
        return min(drawn, key=lambda each: each.num_programs).name


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixAffinity:
    """Equal beginnings always to the same replica, however busy it is; the others by least work.

    The replica is found by rendezvous hashing: when one comes or goes, only its own beginnings move.
    """

    name: str = "prefix_affinity"

    def choose(self, program: Routed, replicas: Sequence[ReplicaView], rng: random.Random) -> str:
        """By the hash of beginning and replica."""
        prefix = program.prefix
        if prefix is None:
            return LeastWork().choose(program, replicas, rng)
        return max(replicas, key=lambda each: (_hash(prefix, each.name), each.name)).name


@dataclass(frozen=True, slots=True, kw_only=True)
class LeastCost:
    """Ours: least outstanding work, where a beginning that must be computed anew counts as work, too.

    So a program follows its beginning as long as that costs less than waiting, and leaves when its replica is behind.

    Args:
        prompt_weight: What computing a prompt token costs, in generated tokens.
    """

    prompt_weight: float = 0.25
    name: str = "least_cost"

    def __post_init__(self) -> None:
        if not 0 <= self.prompt_weight < float("inf"):
            raise ConfigurationError(f"Got {self.prompt_weight = } but expected 0 or more.")

    def choose(self, program: Routed, replicas: Sequence[ReplicaView], rng: random.Random) -> str:
        """By work and what is not cached, then by programs."""

        def cost(each: ReplicaView) -> tuple[float, int, str]:
            missing = program.prefix_tokens - each.cached_tokens
            return (each.work + self.prompt_weight * missing, each.num_programs, each.name)

        return min(replicas, key=cost).name


ROUTING_POLICIES: dict[str, Callable[[], RoutingPolicy]] = {
    "least_cost": LeastCost,
    "least_work": LeastWork,
    "power_of_two": PowerOfTwo,
    "prefix_affinity": PrefixAffinity,
    "random": Random,
    "round_robin": RoundRobin,
}


def make_routing_policy(name: str) -> RoutingPolicy:
    """The policy of a name.

    Raises:
        ConfigurationError: There is none; the message lists them.

    Examples:
        >>> make_routing_policy("least_cost").name
        'least_cost'
    """
    if name not in ROUTING_POLICIES:
        raise name_unknown("routing policy", name, ROUTING_POLICIES)
    return ROUTING_POLICIES[name]()


def name_prefix(text: str) -> str:
    """A short name for a beginning, equal for equal texts in every process."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _hash(prefix: str, replica: str) -> bytes:
    return hashlib.blake2b(f"{prefix}\0{replica}".encode(), digest_size=8).digest()


__all__ = [
    "ROUTING_POLICIES",
    "LeastCost",
    "LeastWork",
    "PowerOfTwo",
    "PrefixAffinity",
    "Random",
    "ReplicaView",
    "RoundRobin",
    "Routed",
    "RoutingPolicy",
    "make_routing_policy",
    "name_prefix",
]
