"""What a remote engine is made of, chosen once: whose tokenizer, which form of prompts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from hf_dynasor.errors import ConfigurationError, MissingExtraError, ModelLoadError
from hf_dynasor.serving.loading import LoadedModel
from hf_dynasor.serving.remote.address import Address
from hf_dynasor.serving.remote.exchange import Bounds
from hf_dynasor.serving.remote.probing import Found
from hf_dynasor.serving.remote.prompts import LocalWriter, PlainWriter, PromptWriter, ServerWriter
from hf_dynasor.serving.remote.tracks import RemoteTrack
from hf_dynasor.serving.remote.weightless import load_tokenizer
from hf_dynasor.serving.remote.wire import build_body

logger = logging.getLogger(__name__)

SAMPLE = "What is 17*6+4? Straße, naïve; x_1 = \\boxed{106}.\n"
"""Encoded here and there, to tell whether two tokenizers are one."""

TokenizerSource = str | Path | LoadedModel | None


def find_tokenizer(asked: TokenizerSource, found: Found) -> LoadedModel | None:
    """The tokenizer that was asked for.

    Args:
        asked: Where it is; `auto` looks for the server's own name of the model, unless the server encodes by itself;
            `None` does without.
        found: What the server is.

    Raises:
        ModelLoadError: The one that was named is not there.
    """
    if asked is None or isinstance(asked, LoadedModel):
        return asked
    if asked != "auto":
        return load_tokenizer(asked)
    return None if _encodes_itself(found) else find_by_name(found)


def find_by_name(found: Found) -> LoadedModel | None:
    """The tokenizer that goes by the name under which the server loaded the model; none where there is none."""
    for name in dict.fromkeys((found.root, found.model)):
        try:
            return load_tokenizer(name)
        except (ModelLoadError, MissingExtraError) as error:
            logger.info("No tokenizer by the server's name %r: %s", name, error)
    return None


def choose_writer(
    loaded: LoadedModel | None, found: Found, engine_name: str, *, asked: TokenizerSource
) -> PromptWriter:
    """What writes prompts for a server.

    Raises:
        ConfigurationError: The server's ids were asked for in vain.
    """
    if loaded is not None:
        return LocalWriter(loaded, found.dialect)
    if asked == "auto" and _encodes_itself(found):
        return ServerWriter()
    return PlainWriter(found.dialect, engine_name)


def check_agreement(
    loaded: LoadedModel | None, found: Found, address: Address, *, timeout_s: float, transport: Any = None
) -> None:
    """Have the server encode a sentence, where it can: ids of another tokenizer would be answered with nonsense.

    Raises:
        ConfigurationError: The tokenizer at hand is another one.
    """
    if loaded is None or not _encodes_itself(found):
        return
    body = {"model": found.model, "prompt": SAMPLE, "add_special_tokens": False}
    with httpx.Client(headers=address.headers, timeout=timeout_s, transport=transport) as client:
        try:
            theirs = client.post(f"{address.root}/tokenize", json=body).json()["tokens"]
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            logger.info("Could not compare the tokenizers: %s", error)
            return
    ours = loaded.tokenizer.encode(SAMPLE, add_special_tokens=False)
    if list(theirs) != list(ours):
        raise ConfigurationError(
            f"The tokenizer {loaded.name!r} is not the one of {found.model!r} at {address.base_url}: it encodes "
            f"{SAMPLE!r} as {ours[:8]}…, the server as {list(theirs)[:8]}…. Name the model's own: tokenizer= (--tokenizer)."
        )


def check_tokenizer(engine_name: str, loaded: LoadedModel | None) -> LoadedModel:
    """The tokenizer, for what cannot do without.

    Raises:
        ConfigurationError: There is none.
    """
    if loaded is None:
        raise ConfigurationError(
            f"{engine_name} runs without a tokenizer here, which this needs. Name the model's: tokenizer= "
            "(--tokenizer), a hub name, a folder or a .gguf file."
        )
    return loaded


def _encodes_itself(found: Found) -> bool:
    """Whether the server has `/tokenize` in a shape that is known; one that documents its routes must list it."""
    is_listed = not found.routes or "/tokenize" in found.routes
    return found.dialect.has_tokenize and found.dialect.takes_ids and is_listed


class BodyBuilder:
    """The JSON of a request, for one server."""

    def __init__(self, found: Found, loaded: LoadedModel | None) -> None:
        self._found = found
        self._eos = sorted(loaded.eos_token_ids) if loaded is not None else []
        self._pad = loaded.pad_token_id if loaded is not None else None

    def __call__(self, track: RemoteTrack) -> Mapping[str, Any]:
        """The body; the prompt must be written."""
        assert track.wire is not None  # written before
        return build_body(
            track.wire,
            track.request.sampling,
            self._found.dialect,
            model=self._found.model,
            priority=track.priority,
            eos_token_ids=self._eos,
            pad_token_id=self._pad,
        )


def open_client(address: Address, bounds: Bounds, max_in_flight: int, transport: Any) -> httpx.AsyncClient:
    """Connections of the engine's own; a few more than requests, for what is asked beside them."""
    most = max_in_flight + 4
    limits = httpx.Limits(max_connections=most, max_keepalive_connections=most)
    return httpx.AsyncClient(
        headers=address.headers, timeout=bounds.timeout, limits=limits, transport=transport
    )
