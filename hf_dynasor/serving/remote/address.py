"""Where a remote server is, and the key that it asks for. Sends nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from hf_dynasor.errors import ConfigurationError

API_KEY_VARIABLE = "HF_DYNASOR_BACKEND_API_KEY"
"""Where the key is looked for if none is given."""
OPENAI_HOST, OPENAI_VARIABLE = "api.openai.com", "OPENAI_API_KEY"
"""OpenAI's own key is shown to OpenAI alone, however many other servers are asked with it set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An OpenAI-compatible server.

    Args:
        base_url: With the path of the API, such as `http://127.0.0.1:8000/v1`, without a slash at its end.
        api_key: Shown to the server; never in a message, a log or a `repr`.
    """

    base_url: str
    api_key: str | None = field(default=None, repr=False)

    @property
    def root(self) -> str:
        """The address without `/v1`, where servers keep what OpenAI's API has not."""
        return self.base_url.removesuffix("/v1")

    @property
    def headers(self) -> dict[str, str]:
        """What every request brings."""
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    @property
    def label(self) -> str:
        """Host and port, for names."""
        return urlsplit(self.base_url).netloc


def is_url(text: object) -> bool:
    """Whether something is meant as an address."""
    return isinstance(text, str) and text.startswith(("http://", "https://"))


def read_address(url: str, api_key: str | None = None) -> Address:
    """An address that can work.

    Args:
        url: `http://HOST:PORT/v1` or `https://…/v1`.
        api_key: `None` takes it from the variable `API_KEY_VARIABLE`, for OpenAI's own host else from its variable.

    Raises:
        ConfigurationError: The address is none, holds a key or a query, or does not end in `/v1`.
    """
    parts = _split(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"Got the backend {url!r} but expected an address such as {_fix(url)}.")
    if parts.username or parts.password:
        raise ConfigurationError(
            f"Got a backend with a name or password before {parts.hostname!r}, where logs would show it. Expected a "
            f"plain address; a key belongs into the variable {API_KEY_VARIABLE}."
        )
    if parts.query or parts.fragment:
        raise ConfigurationError(
            f"Got the backend {url!r} with a query or a fragment. Expected it to end in /v1."
        )
    path = parts.path.rstrip("/")
    if not path.endswith("/v1"):
        raise ConfigurationError(
            f"Got the backend {url!r} but expected the address of the API, which ends in /v1: "
            f"{parts.scheme}://{parts.netloc}{_drop_route(path)}/v1."
        )
    return Address(
        base_url=f"{parts.scheme}://{parts.netloc}{path}", api_key=api_key or _find_key(parts.hostname)
    )


def _split(url: str) -> _Parts:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is no number
    except ValueError as error:
        raise ConfigurationError(
            f"Got the backend {url!r}, which cannot be read ({error}). Expected an address such as "
            "http://127.0.0.1:8000/v1."
        ) from None
    return _Parts(
        parts.scheme, parts.netloc, parts.hostname, parts.path, parts.query, parts.fragment,
        parts.username, parts.password,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Parts:
    scheme: str
    netloc: str
    hostname: str | None
    path: str
    query: str
    fragment: str
    username: str | None
    password: str | None


def _drop_route(path: str) -> str:
    """What stands before a route that was pasted along."""
    return path.split("/v1", 1)[0] if "/v1" in path else path


def _fix(url: str) -> str:
    is_bare = "://" not in url and url.strip("/") and " " not in url
    return f"http://{url.strip('/').removesuffix('/v1')}/v1" if is_bare else "http://127.0.0.1:8000/v1"


def _find_key(host: str) -> str | None:
    own = os.environ.get(OPENAI_VARIABLE) if host == OPENAI_HOST else None
    return os.environ.get(API_KEY_VARIABLE) or own
