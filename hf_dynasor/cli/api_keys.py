"""API keys of a server, and the tenants that they stand for: from a file and from the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_dynasor.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from hf_dynasor.serving.http.settings import Tenant

API_KEY_VARIABLE = "HF_DYNASOR_API_KEY"


def read_api_keys(path: str | None) -> dict[str, Any]:
    """The keys of a file, one a line, and the environment's, as `ServerSettings` takes them: `api_keys`, `tenants`.

    A line is `KEY`, `KEY TENANT` or `KEY TENANT WEIGHT`; a key without a tenant is a tenant of its own.

    Raises:
        InputError: The file cannot be read, holds no key, or a line is none of these.
    """
    keys = [key] if (key := os.environ.get(API_KEY_VARIABLE)) else []
    tenants: dict[str, Tenant] = {}
    for number, line in _list_lines(path):
        key, *told = line.split()
        if told:
            tenants[key] = _read_tenant(told, f"Line {number} of {path}")
        keys.append(key)
    _check_weights(tenants)
    return {"api_keys": tuple(keys), "tenants": tenants}


def _list_lines(path: str | None) -> list[tuple[int, str]]:
    if path is None:
        return []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read the API keys in {path}: {error}.") from None
    found = [
        (number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")
    ]
    if not found:
        raise InputError(f"{path} holds no API key. Write one a line, or leave --api-key-file out.")
    return found


def _read_tenant(told: list[str], where: str) -> Tenant:
    from hf_dynasor.serving.http.settings import Tenant

    name, weight, *rest = [*told, "1"] if len(told) == 1 else told
    try:
        if not rest:
            return Tenant(name=name, weight=float(weight))
    except (ValueError, ConfigurationError):
        pass  # the line holds a key: it is not shown
    raise InputError(
        f"{where} is no key. Expected KEY, KEY TENANT or KEY TENANT WEIGHT, with a weight above 0."
    )


def _check_weights(tenants: dict[str, Tenant]) -> None:
    weights: dict[str, float] = {}
    for tenant in tenants.values():
        if weights.setdefault(tenant.name, tenant.weight) != tenant.weight:
            raise InputError(
                f"Tenant {tenant.name!r} has two weights. Write the same one on each of its lines."
            )


__all__ = ["API_KEY_VARIABLE", "read_api_keys"]
