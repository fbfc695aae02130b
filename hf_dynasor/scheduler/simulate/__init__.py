"""A simulator that runs the scheduler under a virtual clock, on real lengths and answers. Pure."""

from hf_dynasor.scheduler.simulate.arrivals import Arrivals, Bursts, Poisson, RecordedArrivals, at_once
from hf_dynasor.scheduler.simulate.engine_model import (
    LARGE_MODEL,
    EngineFit,
    EngineModel,
    StepRow,
    fit_engine,
    read_step_rows,
)
from hf_dynasor.scheduler.simulate.fleet import Failure, Fleet, SharedBeginnings
from hf_dynasor.scheduler.simulate.fleet_results import FleetResult, ReplicaFigures
from hf_dynasor.scheduler.simulate.results import SimulatedOutcome, SimulationResult, quantile
from hf_dynasor.scheduler.simulate.simulator import Simulation
from hf_dynasor.scheduler.simulate.workload import (
    RecordedBranch,
    RecordedQuestion,
    Workload,
    read_workload,
    write_workload,
)

__all__ = [
    "LARGE_MODEL",
    "Arrivals",
    "Bursts",
    "EngineFit",
    "EngineModel",
    "Failure",
    "Fleet",
    "FleetResult",
    "Poisson",
    "RecordedArrivals",
    "RecordedBranch",
    "RecordedQuestion",
    "ReplicaFigures",
    "SharedBeginnings",
    "SimulatedOutcome",
    "Simulation",
    "SimulationResult",
    "StepRow",
    "Workload",
    "at_once",
    "fit_engine",
    "quantile",
    "read_step_rows",
    "read_workload",
    "write_workload",
]
