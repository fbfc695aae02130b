"""Policies for recorded chains by the names that a command line or a policy file uses, and the default of each kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any, TypeVar

from hf_dynasor.errors import ConfigurationError, name_unknown
from hf_dynasor.evaluation.traces.records import TraceKind
from hf_dynasor.scheduler.depth import ConfidenceExit, ConsistencyExit, DepthPolicy, FullDepth
from hf_dynasor.scheduler.depth_evidence import EvidenceExit
from hf_dynasor.scheduler.joint import JointPolicy, SettledMajority
from hf_dynasor.scheduler.joint_baselines import (
    AdaptiveConsistency,
    EarlyStoppingWindows,
    FullWidth,
    ParallelConsensus,
)

DEPTH_POLICIES: Mapping[str, DepthPolicy] = MappingProxyType(
    {
        "full": FullDepth(),
        "mild": ConsistencyExit(window=8, interval=64, name="mild"),
        "low": ConsistencyExit(window=5, interval=64, name="low"),
        "mid": ConsistencyExit(window=3, interval=64, name="mid"),
        "high": ConsistencyExit(window=2, interval=64, name="high"),
        "crazy": ConsistencyExit(window=2, interval=32, name="crazy"),
        "consistency": ConsistencyExit(),
        "confidence": ConfidenceExit(),
        "evidence": EvidenceExit(),
    }
)
"""Policies for `depth` traces. The five levels are the paper's (§6); a trace that was probed every 64 tokens makes
`crazy` the same as `high`."""

JOINT_POLICIES: Mapping[str, JointPolicy] = MappingProxyType(
    {
        "full": FullWidth(),
        "self_consistency": FullWidth(width=16, name="self_consistency"),
        "adaptive_consistency": AdaptiveConsistency(),
        "early_stopping": EarlyStoppingWindows(),
        "parallel_consensus": ParallelConsensus(),
        "settled_majority": SettledMajority(),
    }
)
"""Policies for `width_depth` traces."""

DEFAULT_POLICIES: Mapping[TraceKind, str] = MappingProxyType(
    {"depth": "evidence", "width_depth": "settled_majority", "samples": "static"}
)
"""The best policy of the package for each kind of trace; `samples` names an allocation policy."""

PolicyT = TypeVar("PolicyT", DepthPolicy, JointPolicy)


def build_depth_policy(name: str, parameters: Mapping[str, Any] | None = None) -> DepthPolicy:
    """A policy for `depth` traces: a row of `DEPTH_POLICIES`, with other options where any are given.

    Raises:
        ConfigurationError: An unknown name or option, or a value that the policy refuses.

    Examples:
        >>> build_depth_policy("confidence", {"threshold": 0.98})
        ConfidenceExit(threshold=0.98, name='confidence')
    """
    return _build(DEPTH_POLICIES, "depth", name, parameters or {})


def build_joint_policy(name: str, parameters: Mapping[str, Any] | None = None) -> JointPolicy:
    """A policy for `width_depth` traces: a row of `JOINT_POLICIES`, with other options where any are given.

    Raises:
        ConfigurationError: An unknown name or option, or a value that the policy refuses.
    """
    return _build(JOINT_POLICIES, "width_depth", name, parameters or {})


def _build(table: Mapping[str, PolicyT], kind: str, name: str, parameters: Mapping[str, Any]) -> PolicyT:
    if name not in table:
        raise name_unknown(f"policy for traces of kind {kind!r}", name, table)
    policy: Any = table[name]
    known = [item.name for item in fields(policy) if item.name != "name"]
    for option in parameters:
        if option not in known:
            raise name_unknown(f"option of policy {name!r}", option, known)
    make: Callable[..., PolicyT] = type(policy)
    try:
        return make(**{item: getattr(policy, item) for item in known} | {"name": name} | dict(parameters))
    except TypeError as error:
        raise ConfigurationError(f"Policy {name!r} refuses {dict(parameters)}: {error}") from None
