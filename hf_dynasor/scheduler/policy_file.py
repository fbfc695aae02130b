"""Policies as JSON files: what `calibrate` writes and `solve`, `eval`, `replay` and `pipeline` read.

    {"schema": "hf_dynasor.policy/1", "kind": "width", "name": "static",
     "parameters": {"detect_at": 5, "thresholds": {"entropy": 0.7}}, "certificate": {...}}

`certificate` may be left out. A depth policy may have `exit`, `suffix` and `closing`, which say how a thought ends
once it is stopped (see `hf_dynasor.stopping`). A file is read strictly: an unknown key, a missing one or a value of the
wrong type is an error that names it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from hf_dynasor.certaindex import Thresholds
from hf_dynasor.errors import ConfigurationError, InputError, name_unknown
from hf_dynasor.grants import AllocationPolicy
from hf_dynasor.scheduler.allocation import POLICIES
from hf_dynasor.scheduler.calibration_certificate import Certificate, read_certificate, read_text

SCHEMA = "hf_dynasor.policy/1"
PolicyKind = Literal["width", "depth", "width_depth"]
KINDS: tuple[PolicyKind, ...] = get_args(PolicyKind)

_MAX_CHARACTERS = 1_000_000
_REQUIRED = ("schema", "kind", "name", "parameters")
_ENDINGS = ("exit", "suffix", "closing")
_OPTIONAL = ("certificate", *_ENDINGS)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFile:
    """A policy by name and parameters, with the certificate that it was chosen under.

    Args:
        kind: `width` (an allocation policy over samples), `depth` (a stopping rule inside one chain of thought) or
            `width_depth` (both at once).
        name: Of the policy or rule.
        parameters: Its options, as plain JSON.
        certificate: What was promised when it was calibrated; `None` for a policy written by hand.
        exit, suffix, closing: How a thought ends that a depth policy stops; `None` for the defaults.

    Examples:
        >>> PolicyFile(kind="width", name="static", parameters={"detect_at": 3}).build_policy().detect_at
        3
    """

    kind: PolicyKind
    name: str
    parameters: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    certificate: Certificate | None = None
    exit: str | None = None
    suffix: str | None = None
    closing: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise name_unknown("kind of policy", self.kind, KINDS)
        if not self.name or not isinstance(self.name, str):
            raise ConfigurationError(f"Got {self.name = } but expected the name of a policy.")
        if not isinstance(self.parameters, Mapping) or not all(
            isinstance(key, str) for key in self.parameters
        ):
            raise ConfigurationError(f"Got {self.parameters = } but expected options by name.")
        if self.kind == "width" and any(getattr(self, name) is not None for name in _ENDINGS):
            raise ConfigurationError(f"{', '.join(_ENDINGS)} belong to depth policies, but kind is 'width'.")

    def build_policy(self) -> AllocationPolicy:
        """The allocation policy of a `width` file.

        Raises:
            ConfigurationError: Another kind, an unknown name, or an option that the policy does not have.
        """
        if self.kind != "width":
            raise ConfigurationError(
                f"Got a policy of kind {self.kind!r} but expected 'width'. A depth policy is for early exits."
            )
        return build_width_policy(self.name, self.parameters)

    def to_dict(self) -> dict[str, Any]:
        """The file's content, ready for JSON."""
        row: dict[str, Any] = {
            "schema": SCHEMA,
            "kind": self.kind,
            "name": self.name,
            "parameters": dict(self.parameters),
        }
        if self.certificate is not None:
            row["certificate"] = self.certificate.to_dict()
        endings = {name: getattr(self, name) for name in _ENDINGS}
        return row | {name: text for name, text in endings.items() if text is not None}

    def save(self, path: str | Path) -> None:
        """Write the file.

        Raises:
            InputError: It cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"
        try:
            Path(path).write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"Cannot write {path}: {error.strerror}. Choose a file in a folder that exists."
            ) from None


def load_policy(path: str | Path) -> PolicyFile:
    """Read a policy file.

    Raises:
        InputError: It cannot be read, is no policy file, or breaks the schema; the message names where.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(_MAX_CHARACTERS + 1)
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}. Expected a policy file.") from None
    except UnicodeDecodeError:
        raise InputError(f"Cannot read {path}: not UTF-8. Expected a policy file.") from None
    if len(text) > _MAX_CHARACTERS:
        raise InputError(f"{path} has more than {_MAX_CHARACTERS} characters; expected a policy file.")
    try:
        row = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_refuse_repeats)
        return parse_policy(row)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON ({error}). Expected a policy file.") from None


def parse_policy(row: object) -> PolicyFile:
    """A policy from parsed JSON; see `load_policy`.

    Examples:
        >>> parse_policy({"schema": SCHEMA, "kind": "width", "name": "even", "parameters": {}}).name
        'even'
    """
    if not isinstance(row, Mapping):
        raise InputError(
            f"Got a JSON {type(row).__name__} but expected an object with the schema {SCHEMA!r}."
        )
    if row.get("schema") != SCHEMA:
        raise InputError(f"Got schema {row.get('schema')!r} but expected {SCHEMA!r}.")
    for name in row:
        if name not in (*_REQUIRED, *_OPTIONAL):
            raise InputError(f"Unknown key {name!r}. Known: {', '.join((*_REQUIRED, *_OPTIONAL))}.")
    missing = [name for name in _REQUIRED if name not in row]
    if missing:
        raise InputError(f"Missing: {', '.join(missing)}.")
    certificate = row.get("certificate")
    if certificate is not None and not isinstance(certificate, Mapping):
        raise InputError(f"Got certificate = {certificate!r} but expected an object.")
    try:
        return PolicyFile(
            kind=row["kind"],
            name=read_text(row["name"], "name"),
            parameters=_read_object(row["parameters"], "parameters"),
            certificate=read_certificate(certificate) if certificate else None,
            **{name: read_text(row[name], name) for name in _ENDINGS if row.get(name) is not None},
        )
    except ConfigurationError as error:
        raise InputError(str(error)) from None


def build_width_policy(name: str, parameters: Mapping[str, Any]) -> AllocationPolicy:
    """An allocation policy from its name and plain JSON options; thresholds are an object by signal.

    Raises:
        ConfigurationError: An unknown name or option, or a value that the policy refuses.
    """
    if name not in POLICIES:
        raise name_unknown("policy", name, POLICIES)
    policy = POLICIES[name]
    known = [item.name for item in fields(policy) if item.name != "name"]
    for option in parameters:
        if option not in known:
            raise name_unknown(f"option of policy {name!r}", option, known)
    try:
        return policy(**{option: _revive(option, value) for option, value in parameters.items()})
    except TypeError as error:
        raise ConfigurationError(f"Policy {name!r} refuses {dict(parameters)}: {error}") from None


def _revive(option: str, value: Any) -> Any:
    """From JSON to what policies hold: thresholds by signal, and tuples, since policies are frozen."""
    if option == "thresholds" or (option == "give_up" and value is not None):
        if not isinstance(value, Mapping):
            raise ConfigurationError(f"Got {option} = {value!r} but expected an object by signal.")
        return Thresholds(**value)
    return tuple(_revive("", item) for item in value) if isinstance(value, list) else value


def _read_object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"Got {where} = {value!r} but expected an object.")
    return MappingProxyType(dict(value))


def _refuse_constant(name: str) -> Any:
    raise InputError(f"Got the number {name} but expected finite numbers.")


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise InputError(f"Got a key twice in {sorted(key for key, _ in pairs)}. Expected each once.")
    return row
