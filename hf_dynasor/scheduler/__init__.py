"""How much a program may spend (allocation). Pure; knows no program and no engine."""

from hf_dynasor.scheduler.allocation import POLICIES, Even, Length, StaticThreshold
from hf_dynasor.scheduler.calibration_certificate import Certificate
from hf_dynasor.scheduler.policy_file import PolicyFile, load_policy

__all__ = ["POLICIES", "Certificate", "Even", "Length", "PolicyFile", "StaticThreshold", "load_policy"]
