"""How much a program may spend (allocation). Pure; knows no program and no engine."""

from hf_dynasor.scheduler.allocation import POLICIES, Even, Length, StaticThreshold

__all__ = ["POLICIES", "Even", "Length", "StaticThreshold"]
