"""What a stopping rule is told and what it says; programs speak of the same things, so it lives in `certaindex`."""

from hf_dynasor.certaindex.readings import (
    Need,
    Progress,
    Reading,
    RuleState,
    StoppingRule,
    TraceEntry,
    Verdict,
    Vote,
    check_at_least,
    check_unit_interval,
)

__all__ = [
    "Need",
    "Progress",
    "Reading",
    "RuleState",
    "StoppingRule",
    "TraceEntry",
    "Verdict",
    "Vote",
    "check_at_least",
    "check_unit_interval",
]
