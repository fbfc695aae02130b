"""Replicas behind one address, for tests: by `hf-dynasor serve --replicas K`, or by `serve run` with a config file."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "serve_replicas.yaml"
START_WITHIN_S = 400.0

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'hf-dynasor[ray]'"
)


@contextlib.contextmanager
def start_replicas(
    folder: Path, *options: str, replicas: int = 2, seconds: float = 500
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`hf-dynasor serve --replicas K` on a free port; ended with everything that it started."""
    command = [sys.executable, "-m", "hf_dynasor", "serve", "--port", "0", "--replicas", str(replicas)]
    command += ["--job-store", str(folder / "jobs.sqlite"), *options]
    with (folder / "stderr.txt").open("w") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    watchdog = threading.Timer(seconds, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert " on http" in line, f"{line}\n{(folder / 'stderr.txt').read_text()[-4000:]}"
        watchdog.cancel()
        yield process, line.rsplit(" on ", 1)[1].strip()
    finally:
        watchdog.cancel()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()


def read_replicas(address: str) -> dict[str, int]:
    """The process of each replica that answers."""
    rows = httpx.get(f"{address}/replicas", timeout=60).json()["replicas"]
    return {row["replica"]: row["pid"] for row in rows}


def count_running(address: str) -> int:
    """Requests that run on any replica."""
    rows = httpx.get(f"{address}/replicas", timeout=60).json()["replicas"]
    return sum(row["load"]["num_running"] for row in rows)


def wait_for_replicas(address: str, number: int, seconds: float) -> dict[str, int]:
    """Wait until so many answer."""
    deadline = time.monotonic() + seconds
    while len(found := read_replicas(address)) != number:
        assert time.monotonic() < deadline, f"{found} after {seconds} s"
        time.sleep(0.5)
    return found


class Cluster:
    """`serve run` in a folder of its own, and `serve deploy` beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.variables = os.environ | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_raylet_start_wait_time_s": "120",
            "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
            "RAY_worker_niceness": "0",
        }

    def write(self, **changes: dict[str, Any]) -> Path:
        """The example's file with another port, and other values in its sections."""
        yaml = pytest.importorskip("yaml")
        content = yaml.safe_load(EXAMPLE.read_text())
        content["http_options"]["port"] = self.port
        arguments = content["applications"][0]["args"]
        for section, values in changes.items():
            arguments[section] = {**arguments[section], **values}
        path = self.folder / "serve.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    def command(self, *words: object) -> list[str]:
        return [str(Path(sys.executable).parent / "serve"), *map(str, words)]

    def deploy(self, **changes: dict[str, Any]) -> None:
        subprocess.run(
            self.command("deploy", self.write(**changes)),
            cwd=self.folder,
            env=self.variables,
            check=True,
            capture_output=True,
            timeout=120,
        )

    def wait_until(self, find: Callable[[], Any], seconds: float, what: str) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(httpx.HTTPError, ValueError, KeyError):
                if (found := find()) is not None:
                    return found
            assert time.monotonic() < deadline, f"{what} within {seconds} s"
            time.sleep(0.5)

    def read_model(self) -> str | None:
        reply = httpx.get(f"{self.address}/v1/models", timeout=30)
        return reply.json()["data"][0]["id"] if reply.status_code == 200 else None


@contextlib.contextmanager
def serve_config(folder: Path, **changes: dict[str, Any]) -> Iterator[Cluster]:
    """`serve run` with the example's file, changed so; ended with everything that it started."""
    cluster = Cluster(folder)
    log = folder / "log.txt"
    command = cluster.command("run", cluster.write(**changes))
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=folder, env=cluster.variables, stdout=file, stderr=file)
    try:
        try:
            cluster.wait_until(cluster.read_model, START_WITHIN_S, "it answers")
        except AssertionError as error:
            pytest.fail(f"{error}\n{log.read_text()[-3000:]}")
        yield cluster
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(90)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)
