"""Looks at a server once, before anything is sent: is it there, what is it, which model, which routes. Costs no token."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from hf_dynasor.errors import ConfigurationError, EngineError, HFDynasorError
from hf_dynasor.serving.remote.address import Address
from hf_dynasor.serving.remote.dialects import DIALECTS, Dialect, get_dialect
from hf_dynasor.serving.remote.failures import (
    RemoteFailure,
    looks_like_html,
    read_status,
    read_transport_error,
)

_OWNERS = {"vllm": "vllm", "sglang": "sglang", "hf_dynasor": "hf_dynasor", "llamacpp": "llama.cpp"}
_SIGNS = (
    ("tgi", "/info", "max_total_tokens"),
    ("sglang", "/get_model_info", "model_path"),
    ("llama.cpp", "/props", "default_generation_settings"),
)
"""A route that only one kind of server has, and a field of its answer."""
MAX_NAMED = 8
MIN_READ_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a server is.

    Args:
        dialect: How it is spoken to.
        model: What it calls the model.
        root: The name under which the server itself loaded the model, where it tells.
        max_length: Tokens of prompt and answer together, where it tells.
        routes: The paths that it documents; empty where it does not.
    """

    dialect: Dialect
    model: str
    root: str
    max_length: int | None
    routes: frozenset[str]


def look_at_server(
    address: Address,
    *,
    model: str | None,
    dialect: str,
    timeout_s: float,
    transport: httpx.BaseTransport | None = None,
) -> Found:
    """Ask a server what it is.

    Args:
        address: Where it is.
        model: What it is asked to call the model; `None` takes its only one.
        dialect: A name, or `auto`.
        timeout_s: To connect; a busy server has half a minute for each of a handful of answers.
        transport: For tests.

    Raises:
        EngineError: It is not there, or not now.
        ConfigurationError: It is no such server, refuses the key, or has not that model.
    """
    named = None if dialect == "auto" else get_dialect(dialect)
    timeout = httpx.Timeout(max(timeout_s, MIN_READ_S), connect=timeout_s)
    # A connection for each question: some servers close one after an error, just as the next question is sent.
    headers = {**address.headers, "Connection": "close"}
    with httpx.Client(headers=headers, timeout=timeout, transport=transport) as client:
        rows, routes, failure = _list_models(client, address)
        if failure is not None and (named or _detect(client, address, [], routes)).name != "transformers":
            raise _as_error(
                failure
            ) from None  # `transformers serve` lists models only where it has a cache of the hub's
        chosen = named or _detect(client, address, rows, routes)
    row = _choose(rows, model, address, chosen)
    return Found(
        dialect=chosen,
        model=str(row["id"]),
        root=str(row.get("root") or row.get("id") or model),
        max_length=_read_length(row),
        routes=routes,
    )


def _list_models(
    client: httpx.Client, address: Address
) -> tuple[list[Mapping[str, Any]], frozenset[str], RemoteFailure | None]:
    """The models, the routes, and what went wrong with the models where the server is there all the same."""
    failure = None
    rows: list[Mapping[str, Any]] = []
    try:
        rows = _read_models(_get(client, address, f"{address.base_url}/models"), address)
    except RemoteFailure as found:
        if found.status is None or found.status < 500:
            raise _as_error(found) from None
        failure = found
    return rows, _list_routes(client, address), failure


def _as_error(failure: RemoteFailure) -> HFDynasorError:
    return EngineError(str(failure)) if failure.is_transient else ConfigurationError(str(failure))


def _get(client: httpx.Client, address: Address, url: str) -> Any:
    """The JSON at an address.

    Raises:
        RemoteFailure: There is none.
    """
    try:
        reply = client.get(url)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        failure = read_transport_error(error, address.base_url)
        if isinstance(error, (httpx.RemoteProtocolError, httpx.ReadError)) and url.startswith("http://"):
            raise RemoteFailure(
                f"{failure} If it is a TLS server, write https:// for http://.", is_transient=True
            ) from None
        raise failure from None
    if reply.status_code >= 300:
        failure = read_status(reply.status_code, reply.headers, reply.text, address.base_url, now=time.time())
        if reply.status_code in (404, 405):
            raise RemoteFailure(
                f"{failure} There is no API at {address.base_url}. Name the address that ends in /v1.",
                status=reply.status_code,
            )
        raise failure
    try:
        return reply.json()
    except ValueError:
        kind = "a page of HTML" if looks_like_html(reply.text) else "no JSON"
        raise RemoteFailure(
            f"The backend {address.base_url} answers {url} with {kind}: that is no OpenAI-compatible API. Name the "
            "address of the API itself, which ends in /v1."
        ) from None


def _try_get(client: httpx.Client, address: Address, route: str) -> Any:
    """The JSON at a route that only some servers have; `None` where it is not there.

    Raises:
        EngineError: No answer came, from which nothing can be told.
    """
    try:
        return _get(client, address, f"{address.root}{route}")
    except RemoteFailure as failure:
        if failure.status is None and failure.is_transient:
            raise _as_error(failure) from None
        return None


def _read_models(answer: Any, address: Address) -> list[Mapping[str, Any]]:
    rows = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "id" in row for row in rows):
        raise RemoteFailure(
            f"The backend {address.base_url} answers /models with {str(answer)[:100]!r} but a list of models was "
            "expected. Is it an OpenAI-compatible server?"
        )
    return rows


def _list_routes(client: httpx.Client, address: Address) -> frozenset[str]:
    """The paths of `/openapi.json`, which most servers have; none where it cannot be read."""
    document = _try_get(client, address, "/openapi.json")
    paths = document.get("paths") if isinstance(document, dict) else None
    return frozenset(paths) if isinstance(paths, dict) else frozenset()


def _detect(
    client: httpx.Client, address: Address, rows: list[Mapping[str, Any]], routes: frozenset[str]
) -> Dialect:
    owners = {str(row.get("owned_by", "")).lower() for row in rows}
    for owner, name in _OWNERS.items():
        if owner in owners:
            return DIALECTS[name]
    if "/v1/systemone" in routes or {"/load_model", "/reset"} <= routes:
        return DIALECTS["transformers"]
    if "/extras/tokenize" in routes:  # llama-cpp-python's server
        return DIALECTS["llama.cpp"]
    for name, route, sign in _SIGNS:
        answer = _try_get(client, address, route)
        if isinstance(answer, dict) and sign in answer:
            return DIALECTS[name]
    return DIALECTS["openai"]


def _choose(
    rows: list[Mapping[str, Any]], model: str | None, address: Address, dialect: Dialect
) -> Mapping[str, Any]:
    names = [str(row["id"]) for row in rows]
    told = ", ".join(names[:MAX_NAMED]) + (", …" if len(names) > MAX_NAMED else "") or "none"
    if model is None:
        if len(rows) != 1:
            raise ConfigurationError(
                f"The backend {address.base_url} lists {len(rows)} models ({told}). Name the one to use: model= (--model)."
            )
        return rows[0]
    for row in rows:
        if model in (row["id"], row.get("root")):
            return row
    if dialect.name == "transformers" or not rows:  # it lists what is in its cache, not what it can run
        return {"id": model}
    raise ConfigurationError(f"The backend {address.base_url} has no model {model!r}. It has: {told}.")


def _read_length(row: Mapping[str, Any]) -> int | None:
    meta = row.get("meta")
    found = row.get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, dict) else None)
    return found if isinstance(found, int) and found > 0 else None
