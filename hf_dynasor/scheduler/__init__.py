"""How much a program may spend (allocation), and who runs next (scheduling). Pure; knows no program and no engine."""

from hf_dynasor.scheduler.ageing import Ageing
from hf_dynasor.scheduler.allocation import (
    POLICIES,
    AdaptiveConsistency,
    ConsistentWindow,
    DynamicCurve,
    Even,
    FiveStep,
    InitialStepCurve,
    Length,
    SingleStep,
    StaticThreshold,
    VoteForecast,
    list_read_signals,
)
from hf_dynasor.scheduler.allocation_curves import fit_curve
from hf_dynasor.scheduler.calibration_certificate import Certificate
from hf_dynasor.scheduler.plans import Limits, PrefillChunk, StepPlan
from hf_dynasor.scheduler.policies import SCHEDULING_POLICIES, make_scheduling_policy
from hf_dynasor.scheduler.policy_file import PolicyFile, load_policy
from hf_dynasor.scheduler.shell import Scheduler
from hf_dynasor.scheduler.views import ProgramSpec, RequestSpec

__all__ = [
    "POLICIES",
    "SCHEDULING_POLICIES",
    "AdaptiveConsistency",
    "Ageing",
    "Certificate",
    "ConsistentWindow",
    "DynamicCurve",
    "Even",
    "FiveStep",
    "InitialStepCurve",
    "Length",
    "Limits",
    "PolicyFile",
    "PrefillChunk",
    "ProgramSpec",
    "RequestSpec",
    "Scheduler",
    "SingleStep",
    "StaticThreshold",
    "StepPlan",
    "VoteForecast",
    "fit_curve",
    "list_read_signals",
    "load_policy",
    "make_scheduling_policy",
]
