"""Recorded runs of real models, read from files: which kind they are, and which policy is the default for it."""

from hf_dynasor.evaluation.traces.policies import (
    DEFAULT_POLICIES,
    DEPTH_POLICIES,
    JOINT_POLICIES,
    build_depth_policy,
    build_joint_policy,
)
from hf_dynasor.evaluation.traces.reading import read_traces
from hf_dynasor.evaluation.traces.records import (
    DepthTrace,
    RecordedBranch,
    RecordedProbe,
    RecordedSample,
    SamplesTrace,
    Trace,
    TraceKind,
    TraceSet,
    WidthDepthTrace,
)

__all__ = [
    "DEFAULT_POLICIES",
    "DEPTH_POLICIES",
    "JOINT_POLICIES",
    "DepthTrace",
    "RecordedBranch",
    "RecordedProbe",
    "RecordedSample",
    "SamplesTrace",
    "Trace",
    "TraceKind",
    "TraceSet",
    "WidthDepthTrace",
    "build_depth_policy",
    "build_joint_policy",
    "read_traces",
]
