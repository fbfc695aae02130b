"""Compares ways of scheduling in the simulator: sustained rates, tightest deadlines, accuracy (paper §5).

A contender is an order together with an allocation. All contenders see the same programs, arrivals and recorded
branches. Deadline of a program: SLO scale times difficulty times base, where the base is the mean latency of a
program that has the engine to itself at its full budget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from hf_dynasor.errors import ConfigurationError
from hf_dynasor.evaluation.scheduling_calibration import MAX_LOSS, calibrate_static, split_positions
from hf_dynasor.grants import AllocationPolicy, Decision, GrantRecord, Knob, StopReason
from hf_dynasor.scheduler import Ageing, Even, Limits, StaticThreshold, make_scheduling_policy
from hf_dynasor.scheduler.policies import SchedulingPolicy
from hf_dynasor.scheduler.simulate import (
    LARGE_MODEL,
    EngineModel,
    Poisson,
    Simulation,
    SimulationResult,
    Workload,
)
from hf_dynasor.scheduler.simulate.programs import replay_allocation

MAX_WAIT_IN_BASES = 50.0
"""Ageing in the study: so many times the base. Long, so that the orders themselves are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvenInWaves:
    """The full budget for every program, one wave after another, as a program that reads certaindex would ask.

    Args:
        wave: Units of a wave.
    """

    wave: int = 5
    name: str = "even_in_waves"

    def allocate(self, knob: Knob, trace: Sequence[GrantRecord]) -> Decision:
        """The next wave, as long as units are left."""
        left = knob.maximum - (trace[-1].total if trace else 0)
        if left:
            return Decision(units=min(self.wave, left))
        return Decision(units=0, stop_reason=StopReason.BUDGET, explanation="the budget is spent")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way of serving.

    Args:
        name: For tables, such as `gang_sjf + certaindex`.
        scheduling: Who goes first.
        allocation: How much each program is granted.
        knows_lengths: Whether it is the oracle.
        workload: The same questions with the same branches, where they end earlier under this contender (an exit
            inside the chain of thought); `None` for those of the study.
        stop_decided: Whether branches that cannot change a program's vote are given up.
    """

    name: str
    scheduling: SchedulingPolicy
    allocation: AllocationPolicy
    knows_lengths: bool = False
    workload: Workload | None = None
    stop_decided: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Where contenders meet.

    Args:
        workload: What programs cost and answer.
        base: Seconds of a deadline at scale 1 and difficulty 1.
        num_programs: Programs of a run.
        engine: How long a step takes.
        limits: What a step may use.
        seed: Of arrivals and draws.
    """

    workload: Workload
    base: float
    num_programs: int = 800
    engine: EngineModel = LARGE_MODEL
    limits: Limits = field(default_factory=lambda: Limits(max_requests=64, num_blocks=25_000))
    seed: int = 0

    def run(self, contender: Contender, rate: float, scale: float | None = None) -> SimulationResult:
        """All programs at a rate of arrivals a second; deadlines of a scale are shown to the scheduler."""
        return Simulation(
            workload=contender.workload or self.workload,
            arrivals=Poisson(rate=rate),
            num_programs=self.num_programs,
            scheduling=contender.scheduling,
            allocation=contender.allocation,
            engine=self.engine,
            limits=self.limits,
            ageing=Ageing(max_wait_s=MAX_WAIT_IN_BASES * self.base),
            slo_scale=scale,
            slo_base=self.base,
            seed=self.seed,
            stop_decided=contender.stop_decided,
            knows_lengths=contender.knows_lengths,
        ).run()

    def attainment(self, contender: Contender, rate: float, scale: float) -> float:
        """Share of the programs that meet their deadlines."""
        return self.run(contender, rate, scale).attainment(scale, self.base)

    def accuracies(self, contender: Contender, *, draws: int) -> tuple[float, ...]:
        """For each question the share of so many programs that are right; order and arrivals change no answer.

        Where a program is one branch, all recorded branches are counted instead of drawing.
        """
        workload = contender.workload or self.workload
        if workload.budget == 1:
            return tuple(
                sum(branch.is_correct for branch in question.branches) / len(question.branches)
                for question in workload.questions
            )
        replayed = replay_allocation(
            workload, contender.allocation, draws=draws, seed=self.seed, stop_decided=contender.stop_decided
        )
        return replayed.accuracies

    def sustained_rate(
        self, contender: Contender, scale: float, *, share: float = 0.9, start: float, precision: float = 0.03
    ) -> float | None:
        """The highest rate at which this share meets its deadlines; `None` where none does.

        Args:
            contender: Who serves.
            scale: SLO scale.
            share: Of the programs.
            start: Where to begin to look.
            precision: Relative width at which the search ends.
        """
        low, high = start, start
        is_met = self.attainment(contender, start, scale) >= share
        for _ in range(12):
            if is_met:
                low, high = high, high * 1.6
                if self.attainment(contender, high, scale) < share:
                    break
            else:
                low, high = low / 1.6, low
                if self.attainment(contender, low, scale) >= share:
                    break
        else:
            return None
        while high / low > 1 + precision:
            middle = math.sqrt(low * high)
            if self.attainment(contender, middle, scale) >= share:
                low = middle
            else:
                high = middle
        return low


def measure_alone(workload: Workload, engine: EngineModel, limits: Limits, *, seed: int = 0) -> float:
    """Mean latency of a program that has the engine to itself, at its full budget, in seconds."""
    slow = Simulation(
        workload=workload,
        arrivals=Poisson(rate=1e-9),
        num_programs=min(100, len(workload.questions)),
        scheduling=make_scheduling_policy("fcfs"),
        allocation=Even(),
        engine=engine,
        limits=limits,
        ageing=Ageing(max_wait_s=math.inf),
        seed=seed,
    )
    return slow.run().mean_latency


def make_contenders(certain: AllocationPolicy, names: Sequence[str] = ()) -> dict[str, Contender]:
    """The paper's baselines and ablations, ours, and the oracle, by name.

    Args:
        certain: The allocation of those with certaindex.
        names: Which of them; all by default.
    """
    plain: list[tuple[str, str, AllocationPolicy, bool]] = [
        (name, name, Even(), False) for name in ("lpm", "app_fifo", "gang", "gang_sjf")
    ]
    in_waves = [(f"{name} in waves", name, EvenInWaves(), False) for name in ("lpm", "gang", "gang_sjf")]
    with_certaindex = [
        (f"{name} + certaindex", name, certain, False)
        for name in ("lpm", "app_fifo", "gang", "gang_sjf", "sjf", "deadline")
    ]
    oracle = [("oracle + certaindex", "sjf", certain, True)]
    made = {
        name: Contender(
            name=name,
            scheduling=make_scheduling_policy(policy),
            allocation=allocation,
            knows_lengths=knows,
        )
        for name, policy, allocation, knows in (*plain, *in_waves, *with_certaindex, *oracle)
    }
    unknown = [name for name in names if name not in made]
    if unknown:
        raise ConfigurationError(f"Unknown contender {unknown[0]!r}. Known: {', '.join(made)}.")
    return {name: made[name] for name in (names or made)}


def prepare_study(
    workload: Workload,
    *,
    num_programs: int = 800,
    engine: EngineModel = LARGE_MODEL,
    limits: Limits | None = None,
    seed: int = 0,
) -> tuple[Study, StaticThreshold]:
    """A study on one half of a workload's questions, and the allocation that the other half calibrated.

    Raises:
        ConfigurationError: No threshold keeps the bound on the loss.
    """
    calibration, test = split_positions(len(workload.questions), seed=seed)
    certain = calibrate_static(workload.keep(calibration, ""))
    if certain is None:
        raise ConfigurationError(
            f"No threshold bounds the loss of accuracy by {MAX_LOSS} on {workload.name!r}."
        )
    study = make_study(
        workload.keep(test, ""), num_programs=num_programs, engine=engine, limits=limits, seed=seed
    )
    return study, certain


def make_study(
    workload: Workload,
    *,
    num_programs: int = 800,
    engine: EngineModel = LARGE_MODEL,
    limits: Limits | None = None,
    seed: int = 0,
) -> Study:
    """A study whose base is what a program takes alone."""
    limits = limits or Limits(max_requests=64, num_blocks=25_000)
    base = measure_alone(workload, engine, limits, seed=seed)
    return Study(
        workload=workload, base=base, num_programs=num_programs, engine=engine, limits=limits, seed=seed
    )


__all__ = [
    "Contender",
    "EvenInWaves",
    "Study",
    "make_contenders",
    "make_study",
    "measure_alone",
    "prepare_study",
]
