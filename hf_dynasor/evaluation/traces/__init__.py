"""Recorded runs of real models, read from files: which kind they are, and which policy is the default for it."""

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
    "DepthTrace",
    "RecordedBranch",
    "RecordedProbe",
    "RecordedSample",
    "SamplesTrace",
    "Trace",
    "TraceKind",
    "TraceSet",
    "WidthDepthTrace",
    "read_traces",
]
