"""Runs a server until it is told to end: SIGTERM drains, a second signal forces. Knows sockets, no routes."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import signal
import socket
import ssl
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from hf_dynasor.errors import ConfigurationError
from hf_dynasor.serving.http.settings import ServerSettings

logger = logging.getLogger(__name__)

# Longer than clients keep idle connections (5 s in httpx): else a request may meet a connection that is being closed.
_KEEP_ALIVE_S = 75


class DrainingServer(uvicorn.Server):
    """A uvicorn server that first refuses new requests, lets running ones finish, and then ends."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, settings: ServerSettings) -> None:
        super().__init__(config)
        self._served, self._drain_timeout_s = app, settings.drain_timeout_s
        self._drain: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the next one forces."""
        state = getattr(self._served.state, "server", None)
        if state is None or state.is_draining or not self.started:
            self.should_exit, self.force_exit = True, state is not None and state.is_draining
            return
        state.is_draining = True
        logger.info("%s: draining for at most %g s.", signal.Signals(sig).name, self._drain_timeout_s)
        # A signal may interrupt any line: what follows belongs to the loop.
        state.pump.call_soon(self._begin_drain)

    def _begin_drain(self) -> None:
        self._drain = asyncio.ensure_future(self._wait_until_idle())

    async def _wait_until_idle(self) -> None:
        state = self._served.state.server
        deadline = state.clock.now() + self._drain_timeout_s
        while (state.admission.num_running or state.admission.num_waiting) and state.clock.now() < deadline:
            await asyncio.sleep(0.05)
        self.should_exit = True


def run_server(
    app: FastAPI,
    settings: ServerSettings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    tls_certificate: str | None = None,
    tls_key: str | None = None,
    on_ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        app: See `create_app`.
        settings: For the time to drain.
        host, port: Where to listen; port 0 takes a free one.
        tls_certificate, tls_key: Files for HTTPS, both or neither.
        on_ready: Called with the address once it listens.

    Raises:
        ConfigurationError: The address is taken, or the TLS files cannot be used.
    """
    if (tls_certificate is None) != (tls_key is None):
        raise ConfigurationError("HTTPS needs a certificate and its key. Name both files, or neither.")
    if tls_certificate is not None:
        _check_tls(tls_certificate, tls_key)
    listener = _listen(host, port)
    config = uvicorn.Config(
        app,
        http=choose_http(),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=max(1, round(settings.drain_timeout_s)),
        ssl_certfile=tls_certificate,
        ssl_keyfile=tls_key,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
    )
    scheme = "https" if tls_certificate else "http"
    with listener:
        bound = listener.getsockname()
        shown = f"[{bound[0]}]" if listener.family == socket.AF_INET6 else bound[0]
        on_ready(f"{scheme}://{shown}:{bound[1]}")
        DrainingServer(config, app, settings).run(sockets=[listener])


def choose_http() -> Any:
    """uvicorn's parser of HTTP: the quick one with a bound on heads, or its own choice, which has one, without httptools."""
    if importlib.util.find_spec("httptools") is None:
        return "auto"
    from hf_dynasor.serving.http.bounded_head import BoundedHeadProtocol

    return BoundedHeadProtocol


def _check_tls(certificate: str, key: str | None) -> None:
    """Read the files once before anything listens, so that a wrong one is a sentence and not a stack."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except OSError as error:
        raise ConfigurationError(
            f"Cannot use the TLS files {certificate} and {key}: {error.strerror or error}. "
            "Expected a certificate and its key, both in PEM."
        ) from None


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        raise ConfigurationError(
            f"Cannot listen on {host}:{port}: {error.strerror}. Choose another --host or --port."
        ) from None
    return listener
