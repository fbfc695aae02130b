"""What a router reads off a request before any replica has seen it: how much work, how it begins, who must take it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_dynasor.scheduler.routing import Routed, name_prefix

SESSION_HEADER = "x-session-id"
"""Requests with the same value begin alike, whatever their text."""

_ID = re.compile(r"\b(?:resp_[0-9a-f]+|(?:chatcmpl|cmpl)-[0-9a-f]+)\b")
_PATH_WITH_ID = re.compile(r"^/v1/responses/([^/]+)")
_CHARACTERS_PER_TOKEN = 4
_MAX_PREFIX_CHARACTERS = 8192
_DEFAULT_TOKENS = 256
_DEFAULT_PROGRAM_TOKENS = 512
_DEFAULT_BUDGET = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """What is known of a request.

    Args:
        key: The router's name for it.
        routed: Its work and its beginning.
        known_id: An answer that it continues or ends, which one replica remembers.
        replica: The replica that it must go to, if that is there.
        avoid: Replicas that were lost under it; it goes elsewhere while there is an elsewhere.
    """

    key: str
    routed: Routed
    known_id: str | None = None
    replica: str | None = None
    avoid: tuple[str, ...] = ()


def read_hint(key: str, serial: int, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Hint:
    """The hint of a request; a body that cannot be read has none, and is refused by whoever gets it.

    Args:
        key: The router's name for it.
        serial: How many came before it.
        method, path: Of the request.
        headers: With lower-case names.
        body: As it came.
    """
    fields = _read_object(body) if method == "POST" and path.startswith("/v1/") else {}
    kind, planned = _plan(path, fields)
    beginning = headers.get(SESSION_HEADER) or _find_beginning(fields)
    return Hint(
        key=key,
        routed=Routed(
            serial=serial,
            kind=kind,
            planned_tokens=planned,
            prefix=name_prefix(beginning) if beginning else None,
            prefix_tokens=len(beginning) // _CHARACTERS_PER_TOKEN if beginning else 0,
        ),
        known_id=_find_known_id(path, fields),
    )


def find_answer_id(chunk: bytes) -> str | None:
    """The id of an answer, in the first bytes of its body."""
    found = _ID.search(chunk[:4096].decode("utf-8", "replace"))
    return found.group() if found else None


def _plan(path: str, fields: Mapping[str, Any]) -> tuple[str, float]:
    """What is like this request, and the tokens that it may generate."""
    dynasor = fields.get("dynasor")
    options = dynasor if isinstance(dynasor, dict) else fields
    name = options.get("program")
    if path == "/v1/programs" or isinstance(name, str):
        budget = _read_number(options.get("budget"), _DEFAULT_BUDGET)
        most = _read_number(fields.get("max_new_tokens") or fields.get("max_tokens"), _DEFAULT_PROGRAM_TOKENS)
        return f"program {name or 'default'}", budget * most
    if not fields:
        return "plain", 1.0
    most = _read_number(fields.get("max_completion_tokens") or fields.get("max_tokens"), _DEFAULT_TOKENS)
    return path, most * _read_number(fields.get("n"), 1)


def _find_beginning(fields: Mapping[str, Any]) -> str:
    """How the prompt begins: a conversation by its first two messages, so that its later turns begin alike."""
    messages = fields.get("messages", fields.get("input"))
    if isinstance(messages, list) and messages:
        first = messages[: 2 if _is_system(messages[0]) else 1]
        return json.dumps(first, sort_keys=True, default=str)[:_MAX_PREFIX_CHARACTERS]
    for name in ("prompt", "input", "question"):
        if isinstance(text := fields.get(name), str):
            return text[:_MAX_PREFIX_CHARACTERS]
    return ""


def _is_system(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") in ("system", "developer")


def _find_known_id(path: str, fields: Mapping[str, Any]) -> str | None:
    if found := _PATH_WITH_ID.match(path):
        return found[1]
    name = "id" if path == "/v1/chat/completions/control" else "previous_response_id"
    known = fields.get(name)
    return known if isinstance(known, str) else None


def _read_object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _read_number(value: Any, default: int) -> float:
    """A number above 0 as it was sent; nonsense is refused later, by whoever gets the request."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e9
    return float(value) if is_number else float(default)


__all__ = ["SESSION_HEADER", "Hint", "find_answer_id", "read_hint"]
