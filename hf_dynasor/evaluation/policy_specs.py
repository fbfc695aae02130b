"""Policies as people name them: a name with options, a row of the paper's Table 1, or a file.

static    static:entropy=0.6,detect_at=8    sc/gsm8k    policy.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_dynasor.certaindex import SIGNAL_NAMES, TABLE_1
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.grants import AllocationPolicy
from hf_dynasor.scheduler.policy_file import build_width_policy, load_policy


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySpec:
    """A policy by name and plain options, before anything is built.

    Args:
        kind: `width`, `depth` or `width_depth`; `None` where only the name was given.
        name: Of the policy or rule.
        parameters: Its options, as plain JSON.
        label: What to call it in tables; by default its name with its options.
    """

    kind: str | None = None
    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""

    @property
    def title(self) -> str:
        """What to call it in tables."""
        options = ",".join(_show(name, value) for name, value in self.parameters.items())
        return self.label or (f"{self.name}:{options}" if options else self.name)

    def build_width(self) -> AllocationPolicy:
        """The allocation policy.

        Raises:
            ConfigurationError: It is of another kind, or its name or an option is unknown.
        """
        if self.kind not in (None, "width"):
            raise ConfigurationError(
                f"Got {self.title!r}, a policy of kind {self.kind!r}, for traces of samples. Expected kind 'width'."
            )
        return build_width_policy(self.name, self.parameters)


def parse_policy_spec(text: str) -> PolicySpec:
    """A policy from `NAME`, `NAME:option=value,...`, a row of Table 1 such as `sc/gsm8k`, or `FILE.json`.

    A signal's name as an option is a threshold on it.

    Raises:
        ConfigurationError: An option is no `name=value`, or stands twice.
        InputError: The file cannot be read.

    Examples:
        >>> parse_policy_spec("static:entropy=0.6,detect_at=8").parameters
        {'thresholds': {'entropy': 0.6}, 'detect_at': 8}
        >>> parse_policy_spec("mcts/asdiv").title
        'mcts/asdiv'
    """
    if text in TABLE_1:
        preset = TABLE_1[text]
        parameters = {"thresholds": preset.thresholds.to_dict(), "detect_at": preset.detect_at}
        return PolicySpec(kind="width", name="static", parameters=parameters, label=text)
    if text.endswith(".json"):
        file = load_policy(text)
        return PolicySpec(kind=file.kind, name=file.name, parameters=file.parameters, label=Path(text).stem)
    name, _, options = text.partition(":")
    return PolicySpec(name=name, parameters=_parse_options(options) if options else {})


def _parse_options(text: str) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for option in text.split(","):
        name, is_pair, value = option.partition("=")
        if not (name and is_pair and value):
            raise ConfigurationError(f"Got the option {option!r} but expected name=value.")
        target = parameters.setdefault("thresholds", {}) if name in SIGNAL_NAMES else parameters
        if name in target:
            raise ConfigurationError(f"Got option {name!r} twice. Expected it once.")
        target[name] = _parse_value(value)
    return parameters


def _parse_value(text: str) -> Any:
    """A number, a truth or a list as JSON has it; anything else is a text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _show(name: str, value: Any) -> str:
    """An option as it is typed; limits of giving up cannot be typed and are shown in words."""
    if isinstance(value, Mapping):
        prefix = "" if name == "thresholds" else f"{name} "
        return ",".join(f"{prefix}{signal}={limit:g}" for signal, limit in value.items())
    return f"{name}={value}"
