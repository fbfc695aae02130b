"""Replicas on this machine alone: starts Ray, serves on one address, ends with the process that began it."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

from hf_dynasor.errors import EngineError
from hf_dynasor.serving.model_source import first_line

OBJECT_STORE_BYTES = 80 * 2**20
"""Ray's smallest shared memory is enough: what replicas exchange are texts."""


_DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "30",
    "RAY_worker_niceness": "0",
}
"""Ray gives its node 30 s and its proxy 5 to begin, which is short on a machine that loads models beside them; and it runs
its workers at a niceness of 15, so that a server gives way to whatever else the machine does."""


def prepare_ray() -> None:
    """Settle Ray's environment before it is imported: a token that nobody else has, since its own ports are not on
    loopback only, and patience. What is set already stays."""
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


def run_replicas(
    application: Any,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    num_cpus: int | None = None,
    on_ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve an application until SIGTERM or Ctrl-C, in a Ray of its own.

    Args:
        application: See `build_application`.
        host, port: Where to listen; port 0 takes a free one.
        num_cpus: What Ray may give to replicas; by default what the machine has.
        on_ready: Called with the address once every replica answers.

    Raises:
        EngineError: Ray did not start.
    """
    import ray
    from ray import serve

    port = port or _find_free_port(host)
    done = threading.Event()
    _start_ray(num_cpus)
    try:
        serve.start(http_options={"host": host, "port": port})
        serve.run(application, name="hf_dynasor", route_prefix="/")
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, lambda number, frame: done.set())
        on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        done.wait()
    finally:
        serve.shutdown()
        ray.shutdown()


def _start_ray(num_cpus: int | None) -> None:
    import ray

    try:
        ray.init(
            num_cpus=num_cpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
        )
    except Exception as error:  # Ray raises plain ones: its own processes did not come up in time
        raise EngineError(f"Ray did not start: {first_line(error)}") from error


def _find_free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


__all__ = ["OBJECT_STORE_BYTES", "prepare_ray", "run_replicas"]
