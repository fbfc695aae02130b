"""Stopping inside a chain of thought: rules, probes, and their faces for transformers' `generate`.

The rules and markers are pure and import without torch; what runs on a model is loaded on first use.
"""

from typing import TYPE_CHECKING, Any

from hf_dynasor.stopping.combinations import AllOf, AnyOf
from hf_dynasor.stopping.consistency import EFFORTS, HESITATION_WORDS, AnswerConsistency
from hf_dynasor.stopping.evidence import AccumulatedEvidence
from hf_dynasor.stopping.markers import Phase, RowThinking, ThinkMarkers, find_think_markers
from hf_dynasor.stopping.policy import (
    DEFAULT_RULE,
    POLICY_FILE,
    DepthPolicy,
    find_policy,
    resolve_policy,
)
from hf_dynasor.stopping.readings import (
    Need,
    Progress,
    Reading,
    RuleState,
    StoppingRule,
    TraceEntry,
    Verdict,
    Vote,
)
from hf_dynasor.stopping.rows import RowReport, WatchedRow
from hf_dynasor.stopping.rule_table import build_rule, rule_to_dict
from hf_dynasor.stopping.rules import BoundaryConfidence, EntropyAfterThinking, ThinkingBudget
from hf_dynasor.stopping.texts import EXIT_CLOSINGS, PROBE_SUFFIXES
from hf_dynasor.stopping.watch_driver import run_watches
from hf_dynasor.stopping.watcher import StreamWatch, WatchSettings

if TYPE_CHECKING:
    from hf_dynasor.stopping.batch_certaindex import BatchCertaindexCriteria, QuestionOutcome
    from hf_dynasor.stopping.criteria import ProbingCriteria
    from hf_dynasor.stopping.early_exit import EarlyExit, EarlyExitOutput
    from hf_dynasor.stopping.guided import CutCriteria, GuidedProcessor
    from hf_dynasor.stopping.probe import Prober, ProbeResult
    from hf_dynasor.stopping.thinking_budget import ThinkingBudgetProcessor

__all__ = [
    "DEFAULT_RULE",
    "EFFORTS",
    "EXIT_CLOSINGS",
    "HESITATION_WORDS",
    "POLICY_FILE",
    "PROBE_SUFFIXES",
    "AccumulatedEvidence",
    "AllOf",
    "AnswerConsistency",
    "AnyOf",
    "BatchCertaindexCriteria",
    "BoundaryConfidence",
    "CutCriteria",
    "DepthPolicy",
    "EarlyExit",
    "EarlyExitOutput",
    "EntropyAfterThinking",
    "GuidedProcessor",
    "Need",
    "Phase",
    "ProbeResult",
    "Prober",
    "ProbingCriteria",
    "Progress",
    "QuestionOutcome",
    "Reading",
    "RowReport",
    "RowThinking",
    "RuleState",
    "StoppingRule",
    "StreamWatch",
    "ThinkMarkers",
    "ThinkingBudget",
    "ThinkingBudgetProcessor",
    "TraceEntry",
    "Verdict",
    "Vote",
    "WatchSettings",
    "WatchedRow",
    "build_rule",
    "find_policy",
    "find_think_markers",
    "resolve_policy",
    "rule_to_dict",
    "run_watches",
]

_NEED_TORCH = {
    "BatchCertaindexCriteria": "hf_dynasor.stopping.batch_certaindex",
    "CutCriteria": "hf_dynasor.stopping.guided",
    "EarlyExit": "hf_dynasor.stopping.early_exit",
    "EarlyExitOutput": "hf_dynasor.stopping.early_exit",
    "GuidedProcessor": "hf_dynasor.stopping.guided",
    "ProbeResult": "hf_dynasor.stopping.probe",
    "Prober": "hf_dynasor.stopping.probe",
    "ProbingCriteria": "hf_dynasor.stopping.criteria",
    "QuestionOutcome": "hf_dynasor.stopping.batch_certaindex",
    "ThinkingBudgetProcessor": "hf_dynasor.stopping.thinking_budget",
}


def __getattr__(name: str) -> Any:
    if name in _NEED_TORCH:
        from importlib import import_module

        return getattr(import_module(_NEED_TORCH[name]), name)
    raise AttributeError(f"module 'hf_dynasor.stopping' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_NEED_TORCH})
