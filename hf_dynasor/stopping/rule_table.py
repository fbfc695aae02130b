"""Rules by name: what a settings file says becomes a rule, and a rule becomes what a file can say. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from hf_dynasor.errors import ConfigurationError, name_unknown
from hf_dynasor.stopping.combinations import AllOf, AnyOf
from hf_dynasor.stopping.consistency import AnswerConsistency
from hf_dynasor.stopping.evidence import AccumulatedEvidence
from hf_dynasor.stopping.readings import StoppingRule
from hf_dynasor.stopping.rules import BoundaryConfidence, EntropyAfterThinking, ThinkingBudget

RULES: Mapping[str, Any] = MappingProxyType(
    {
        "all_of": AllOf,
        "answer_consistency": AnswerConsistency,
        "any_of": AnyOf,
        "boundary_confidence": BoundaryConfidence,
        "entropy_after_thinking": EntropyAfterThinking,
        "evidence": AccumulatedEvidence,
        "thinking_budget": ThinkingBudget,
    }
)
"""Every rule under the name that files use."""

NAMED_RULES = tuple(name for name in RULES if name not in ("all_of", "any_of", "thinking_budget"))
"""Those that stop something as they are: the others are nothing without their options."""

_MAX_DEPTH = 8


def build_rule(name: str, parameters: Mapping[str, Any] | None = None) -> StoppingRule:
    """Makes a rule from its name and its parameters, as `rule_to_dict` writes them.

    Args:
        name: A key of `RULES`.
        parameters: Its options; those left out keep their defaults. A combination has `rules`, a list of
            `{"name": ..., "parameters": {...}}`.

    Raises:
        ConfigurationError: An unknown name or parameter, or a value outside its range.

    Examples:
        >>> build_rule("boundary_confidence", {"threshold": 0.99}).threshold
        0.99
    """
    return _build(name, parameters, depth=0)


def rule_to_dict(rule: StoppingRule) -> dict[str, Any]:
    """The name and the parameters of a rule, ready for JSON; `build_rule(**...)` makes the same rule again.

    Raises:
        ConfigurationError: A rule of another class than those in `RULES`.

    Examples:
        >>> rule_to_dict(ThinkingBudget(maximum=64))
        {'name': 'thinking_budget', 'parameters': {'minimum': 0, 'maximum': 64}}
    """
    for name, kind in RULES.items():
        if type(rule) is kind:
            return {
                "name": name,
                "parameters": {key: _plain(getattr(rule, key)) for key in _list_options(kind)},
            }
    raise ConfigurationError(
        f"Got a rule of class {type(rule).__name__} but expected one that has a name: {', '.join(sorted(RULES))}."
    )


def _build(name: str, parameters: Mapping[str, Any] | None, *, depth: int) -> StoppingRule:
    if not isinstance(name, str) or name not in RULES:
        raise name_unknown("stopping rule", name, RULES)
    given = {} if parameters is None else parameters
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"Got {parameters = } but expected a table of the parameters of {name!r}.")
    kind = RULES[name]
    known = _list_options(kind)
    for unknown in sorted(set(given) - set(known), key=str):
        raise name_unknown(f"parameter of {name!r}", unknown, known)
    if issubclass(kind, (AllOf, AnyOf)):
        return _build_combination(kind, given.get("rules", ()), depth)
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    try:
        rule: StoppingRule = kind(**values)
    except TypeError as error:
        raise ConfigurationError(
            f"Got {dict(given)} for {name!r} but a value has the wrong type: {error}."
        ) from error
    return rule


def _build_combination(kind: type[AllOf] | type[AnyOf], parts: Any, depth: int) -> StoppingRule:
    if depth >= _MAX_DEPTH:
        raise ConfigurationError(
            f"Got combinations nested {depth} deep but expected at most {_MAX_DEPTH - 1}."
        )
    if not isinstance(parts, (list, tuple)) or not all(isinstance(part, Mapping) for part in parts):
        raise ConfigurationError(
            f"Got rules = {parts!r} but expected a list of tables with name and parameters."
        )
    for part in parts:
        for unknown in sorted(set(part) - {"name", "parameters"}, key=str):
            raise name_unknown("entry of a combined rule", unknown, ("name", "parameters"))
    return kind(
        tuple(_build(part.get("name", ""), part.get("parameters"), depth=depth + 1) for part in parts)
    )


def _list_options(kind: Any) -> list[str]:
    return list(kind.__dataclass_fields__)


def _plain(value: Any) -> Any:
    """A value of a rule, ready for JSON: tuples of texts become lists, tuples of rules lists of tables."""
    if isinstance(value, tuple):
        return [item if isinstance(item, str) else rule_to_dict(item) for item in value]
    return value
