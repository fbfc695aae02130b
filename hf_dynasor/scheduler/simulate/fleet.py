"""Many replicas under one virtual clock: programs are routed when they come, replicas fail and come back.

Each replica is the engine of a single simulation, with a scheduler of its own. The clock goes from event to event:
the next arrival, or the next end of a step on whichever replica that is. What is decided on a replica between two of
its events is what it would decide alone.
"""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass, field

from hf_dynasor.errors import ConfigurationError, ProgramError
from hf_dynasor.scheduler.router import Router
from hf_dynasor.scheduler.routing import Routed, RoutingPolicy
from hf_dynasor.scheduler.simulate.fleet_results import FleetResult, ReplicaFigures
from hf_dynasor.scheduler.simulate.results import SimulatedOutcome, SimulationResult
from hf_dynasor.scheduler.simulate.served_programs import ServedPrograms
from hf_dynasor.scheduler.simulate.simulator import MAX_EVENTS, Simulation, draw_questions, draw_times

NEVER = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedBeginnings:
    """Prompts that begin alike: system prompts, documents, conversations.

    Args:
        number: How many different ones there are.
        tokens: Tokens of each.
        skew: Exponent of their popularity; 0 makes all alike, 1 is Zipf's law.
        cache_tokens: Tokens of them that a replica keeps, the latest used.
    """

    number: int = 100
    tokens: int = 1000
    skew: float = 1.0
    cache_tokens: int = 20_000

    def __post_init__(self) -> None:
        if self.number < 1 or self.tokens < 0 or self.skew < 0 or self.cache_tokens < 0:
            raise ConfigurationError(f"Got {self} but expected at least 1 beginning and no negative value.")

    def draw(self, num_programs: int, rng: random.Random) -> list[int]:
        """The beginning of each program."""
        weights = [(rank + 1) ** -self.skew for rank in range(self.number)]
        return rng.choices(range(self.number), weights, k=num_programs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A replica dies with all it was doing, and another takes its place.

    Args:
        replica: Which.
        at: Seconds.
        detected_s: Seconds until the router knows; meanwhile programs still go there. What was there, and what came
            since, is begun anew elsewhere then.
        repaired_s: Seconds until its successor serves, empty.
    """

    replica: int
    at: float
    detected_s: float = 5.0
    repaired_s: float = 60.0

    def __post_init__(self) -> None:
        if not 0 <= self.detected_s <= self.repaired_s:
            raise ConfigurationError(f"Got {self} but expected 0 <= detected_s <= repaired_s.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Replicas and the programs that come to them. `run` is a pure function of it.

    Args:
        simulation: The programs, and each replica's engine and scheduling.
        num_replicas: How many.
        routing: Who goes where.
        beginnings: What prompts share; `None` if nothing.
        failures: Replicas that die.
    """

    simulation: Simulation
    num_replicas: int
    routing: RoutingPolicy
    beginnings: SharedBeginnings | None = None
    failures: tuple[Failure, ...] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        if self.num_replicas < 1:
            raise ConfigurationError(f"Got {self.num_replicas = } but expected at least 1.")
        for failure in self.failures:
            if not 0 <= failure.replica < self.num_replicas:
                raise ConfigurationError(
                    f"Got a failure of replica {failure.replica} but expected 0 to {self.num_replicas - 1}."
                )

    def run(self) -> FleetResult:
        """Simulate to the last answer.

        Raises:
            EngineError: A program came while no replica was left.
        """
        return _FleetRun(self).run()


class _Slot:
    """A replica's place: the programs that it serves now, and the figures of all that have served here."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self.figures = ReplicaFigures()
        self.version = 0
        self.is_dead = False
        self.served = ServedPrograms(simulation)

    def close(self) -> dict[int, SimulatedOutcome]:
        """Count what the present one did; its outcomes."""
        engine = self.served.engine
        self.figures = self.figures.plus(engine)
        return self.served.outcomes

    def renew(self, now: float) -> None:
        """A successor, empty."""
        self.served = ServedPrograms(self._simulation)
        self.served.engine.now = now
        self.is_dead = False


class _FleetRun:
    """One fleet under way. Events are (time, order, what, replica, version); those of an old version are void."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        simulation = fleet.simulation
        self._times = draw_times(simulation)
        self._questions = draw_questions(simulation)
        shared = fleet.beginnings
        rng = random.Random(f"{simulation.seed}/beginnings")
        self._beginnings = shared.draw(simulation.num_programs, rng) if shared else []
        self._router = Router(
            fleet.routing, seed=simulation.seed, cache_tokens=shared.cache_tokens if shared else 0
        )
        self._slots = [_Slot(simulation) for _ in range(fleet.num_replicas)]
        for number in range(fleet.num_replicas):
            self._router.add_replica(str(number))
        self._outcomes: dict[int, SimulatedOutcome] = {}
        self._serials = itertools.count()
        self._heap: list[tuple[float, int, str, int, int]] = []
        self._num_arrived = self._num_cached = self._num_lost = self._lost_tokens = 0
        for failure in fleet.failures:
            self._expect(failure.at, "fail", failure.replica)
            self._expect(failure.at + failure.detected_s, "detect", failure.replica)
            self._expect(failure.at + failure.repaired_s, "repair", failure.replica)

    def run(self) -> FleetResult:
        for _ in range(MAX_EVENTS):
            arrival = self._times[self._num_arrived] if self._num_arrived < len(self._times) else NEVER
            event = self._heap[0][0] if self._heap else NEVER
            if arrival == event == NEVER:
                break
            if arrival <= event:
                self._num_arrived += 1
                self._place(self._num_arrived - 1, arrival)
            else:
                self._handle(*heapq.heappop(self._heap))
        return self._report()

    def _handle(self, time: float, _: int, what: str, number: int, version: int) -> None:
        slot = self._slots[number]
        if what in ("plan", "step"):
            if version == slot.version:
                self._plan(number) if what == "plan" else self._step(number, NEVER)
        elif what == "fail":
            self._fail(slot)
        elif what == "detect":
            self._detect(number, time)
        else:
            slot.renew(time)
            self._router.add_replica(str(number))

    def _expect(self, time: float, what: str, number: int) -> None:
        """An event, which voids those of the replica's engine that were expected before."""
        slot = self._slots[number]
        if what in ("plan", "step"):
            slot.version += 1
        heapq.heappush(self._heap, (time, next(self._serials), what, number, slot.version))

    def _plan(self, number: int) -> None:
        """Everything that comes by now has come: the next step is clear, as far as nothing comes meanwhile."""
        end = self._slots[number].served.engine.look_ahead()
        if end < NEVER:
            self._expect(end, "step", number)

    def _step(self, number: int, until: float) -> None:
        served = self._slots[number].served
        if served.engine.step(until):
            for index in served.finish_due():
                self._router.ended(str(index), served.outcomes[index].num_tokens)
            self._expect(served.engine.now, "plan", number)

    def _place(self, index: int, now: float) -> None:
        """Send a program to a replica; one that is dead, which nobody knows yet, does nothing with it."""
        program = self._describe(index)
        cached_by = {name: self._router.view(name, program.prefix) for name in self._router.replicas}
        name = self._router.route(str(index), program)
        slot = self._slots[int(name)]
        if slot.is_dead:
            return
        engine = slot.served.engine
        if engine.now < now:
            self._step(int(name), now)  # what runs goes on to the arrival, at most to the end of a step
        engine.now = max(engine.now, now)
        cached = cached_by[name].cached_tokens
        self._num_cached += cached
        slot.served.arrive(
            index,
            self._questions[index],
            self._times[index],
            now=now,
            shared_tokens=program.prefix_tokens,
            cached_tokens=cached,
        )
        self._expect(engine.now, "plan", int(name))

    def _describe(self, index: int) -> Routed:
        workload, shared = self._fleet.simulation.workload, self._fleet.beginnings
        return Routed(
            serial=index,
            kind=workload.name,
            planned_tokens=workload.budget * workload.mean_branch_tokens,
            prefix=None if shared is None else str(self._beginnings[index]),
            prefix_tokens=0 if shared is None else shared.tokens,
        )

    def _fail(self, slot: _Slot) -> None:
        self._lost_tokens += slot.served.count_generated()
        self._outcomes |= slot.close()
        slot.version += 1
        slot.is_dead = True

    def _detect(self, number: int, now: float) -> None:
        """What was on the dead replica is begun anew elsewhere, in the order in which it came."""
        lost = sorted(int(program) for program in self._router.remove_replica(str(number)))
        self._num_lost += len(lost)
        for index in lost:
            self._place(index, now)

    def _report(self) -> FleetResult:
        for slot in self._slots:
            if not slot.is_dead:
                self._outcomes |= slot.close()
        if len(self._outcomes) != len(self._times):
            raise ProgramError(f"Only {len(self._outcomes)} of {len(self._times)} programs ended.")
        figures = [slot.figures for slot in self._slots]
        result = SimulationResult(
            outcomes=tuple(self._outcomes[index] for index in range(len(self._times))),
            num_steps=sum(each.num_steps for each in figures),
            num_requests=sum(each.num_requests for each in figures),
            busy_seconds=sum(each.busy_seconds for each in figures),
            num_preemptions=sum(each.num_preemptions for each in figures),
        )
        return FleetResult(
            result=result,
            replicas=tuple(figures),
            num_shared_tokens=len(self._beginnings)
            * (self._fleet.beginnings.tokens if self._fleet.beginnings else 0),
            num_cached_tokens=self._num_cached,
            num_restarted=self._num_lost,
            num_lost_tokens=self._lost_tokens,
        )


__all__ = ["Failure", "Fleet", "SharedBeginnings"]
