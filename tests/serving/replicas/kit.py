"""Two replicas of the embedded model behind one address, for tests."""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

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


def wait_for_replicas(address: str, number: int, seconds: float) -> dict[str, int]:
    """Wait until so many answer."""
    deadline = time.monotonic() + seconds
    while len(found := read_replicas(address)) != number:
        assert time.monotonic() < deadline, f"{found} after {seconds} s"
        time.sleep(0.5)
    return found
