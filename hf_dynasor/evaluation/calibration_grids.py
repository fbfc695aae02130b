"""The settings that a calibration tries, by kind of trace and name of policy.

A path goes from conservative to aggressive and is fixed before any trace is seen: Learn-then-Test rests on that.
Every further path takes its share of the error, so a policy has few.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from hf_dynasor.errors import ConfigurationError, name_unknown
from hf_dynasor.evaluation.policy_specs import PolicySpec, parse_policy_spec
from hf_dynasor.scheduler.policy_file import PolicyKind

Parameters = Mapping[str, Any]
Grid = Callable[[int | None], list[list[Parameters]]]
"""Paths of parameters for a full budget in units of the knob; `None` where there is no knob."""

_CONFIDENCES = (0.9999, 0.9995, 0.999, 0.998, 0.995, 0.99, 0.98, 0.97, 0.95, 0.92, 0.9, 0.85, 0.8, 0.7, 0.6)
_CHANCES = (0.0, 0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.5)
_DETECT_AT = (32, 24, 20, 16, 12, 10, 8, 7, 6, 5, 4, 3, 2)
_EVIDENCE = (20.0, 16.0, 14.0, 13.0, 12.0, 11.0, 10.0, 9.5, 9.0, 8.5, 8.25, 8.0, 7.5, 7.0, 6.5, 6.0, 5.0)
_SETTLED: tuple[Parameters, ...] = tuple(
    {"width": width, "confidence": confidence, "share": share}
    for width, confidence, share in (
        (64, 0.9999, 1.0),
        (64, 0.999, 0.9),
        (64, 0.99, 0.75),
        (48, 0.99, 0.75),
        (32, 0.99, 0.75),
        (32, 0.98, 0.5),
        (24, 0.97, 0.5),
        (16, 0.95, 0.5),
        (12, 0.95, 0.5),
        (8, 0.9, 0.5),
        (4, 0.8, 0.5),
    )
)
_WINDOWS = (64, 48, 32, 24, 20, 16, 12, 10, 8, 7, 6, 5, 4, 3, 2)


def list_settings(kind: PolicyKind, policies: Sequence[str], *, budget: int | None) -> list[list[PolicySpec]]:
    """The paths of settings to test.

    Args:
        kind: Of the policies that fit the traces.
        policies: The name of one policy, for its own grid; or settings `NAME:option=value,...`, from conservative
            to aggressive, which are one path. Empty for the default.
        budget: Full budget in units of the knob: settings that could never stop before it are left out.

    Raises:
        ConfigurationError: A name without a grid, or a name among settings.

    Examples:
        >>> [spec.parameters for spec in list_settings("depth", ["consistency"], budget=None)[0]][:2]
        [{'window': 64, 'interval': 64}, {'window': 48, 'interval': 64}]
    """
    specs = [parse_policy_spec(text) for text in policies] or [PolicySpec(name=DEFAULTS[kind])]
    if len(specs) > 1 or specs[0].parameters:
        if any(not spec.parameters for spec in specs):
            raise ConfigurationError(
                f"Got the policies {', '.join(policies)} but expected one name, or settings with their options from "
                "conservative to aggressive."
            )
        return [specs]
    name = specs[0].name
    if name not in GRIDS[kind]:
        raise name_unknown(
            f"policy with a grid for kind {kind!r} (give settings NAME:option=value for others)",
            name,
            GRIDS[kind],
        )
    paths = GRIDS[kind][name](budget)
    return [[PolicySpec(kind=kind, name=name, parameters=item) for item in path] for path in paths if path]


def _vary(option: str, values: Sequence[Any], **others: Any) -> Grid:
    return lambda budget: [[{option: value, **others} for value in values]]


def _vary_units(option: str, values: Sequence[int], **others: Any) -> Grid:
    """Units of the knob: those that reach the budget stop nothing."""
    return lambda budget: [
        [{option: value, **others} for value in values if budget is None or value < budget]
    ]


def _static(budget: int | None) -> list[list[Parameters]]:
    """One path for each entropy that is asked for (0.99 is unanimity), read earlier and earlier."""
    return [
        _vary_units("detect_at", _DETECT_AT, thresholds={"entropy": entropy})(budget)[0]
        for entropy in (0.99, 0.8, 0.65)
    ]


GRIDS: Mapping[PolicyKind, Mapping[str, Grid]] = MappingProxyType(
    {
        "width": MappingProxyType(
            {
                "adaptive_consistency": _vary("confidence", _CONFIDENCES),
                "five_step": _vary_units("detect_at", _DETECT_AT, thresholds={"entropy": 0.99}),
                "forecast": _vary("risk", _CHANCES),
                "single_step": _vary_units("detect_at", _DETECT_AT, thresholds={"entropy": 0.99}),
                "static": _static,
                "window": _vary_units("window", _WINDOWS),
            }
        ),
        "depth": MappingProxyType(
            {
                "answer_consistency": _vary("window", _WINDOWS, interval=64),
                "boundary_confidence": _vary("threshold", _CONFIDENCES, statistic="minimum", min_gap=64),
                "confidence": _vary("threshold", _CONFIDENCES),
                "consistency": _vary("window", _WINDOWS, interval=64),
                "evidence": _vary("threshold", _EVIDENCE),
            }
        ),
        "width_depth": MappingProxyType(
            {
                "adaptive_consistency": _vary("confidence", _CONFIDENCES),
                "early_stopping": _vary_units("window", _WINDOWS),
                "settled_majority": lambda budget: [[*_SETTLED]],
                "parallel_consensus": _vary("hold", (32, 24, 20, 16, 12, 10, 8, 7, 6, 5, 4, 3, 2)),
            }
        ),
    }
)
"""Grids by kind and name of policy."""

DEFAULTS: Mapping[PolicyKind, str] = MappingProxyType(
    {"width": "forecast", "depth": "evidence", "width_depth": "settled_majority"}
)
"""What is calibrated where nobody named a policy; the rule for chains is one that `generate` loads."""
