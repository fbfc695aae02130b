"""Certaindex: how certain a program is of its answer. Pure; knows no program and no engine."""

from hf_dynasor.certaindex.certaindex import SIGNAL_NAMES, TABLE_1, Certaindex, Preset, Thresholds
from hf_dynasor.certaindex.signals import (
    agreement,
    answer_probability,
    max_signal,
    mean_signal,
    normalised_entropy,
)

__all__ = [
    "SIGNAL_NAMES",
    "TABLE_1",
    "Certaindex",
    "Preset",
    "Thresholds",
    "agreement",
    "answer_probability",
    "max_signal",
    "mean_signal",
    "normalised_entropy",
]
