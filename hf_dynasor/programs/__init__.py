"""The reasoning programs. Pure: they yield requests and are sent completions."""

from hf_dynasor.programs.self_consistency import DEFAULT_SAMPLING, Sample, SelfConsistency

PROGRAMS = {SelfConsistency.name: SelfConsistency}
"""Programs by the names that a command line or a request uses."""

__all__ = ["DEFAULT_SAMPLING", "PROGRAMS", "Sample", "SelfConsistency"]
