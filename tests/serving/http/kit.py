"""A real server on loopback, for tests."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import uvicorn


@contextlib.contextmanager
def serve(app, **options) -> Iterator[str]:
    """Run an app on a free port of loopback; its address."""
    server = uvicorn.Server(
        uvicorn.Config(
            app, host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=5, **options
        )
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(15)
        assert not thread.is_alive()


@contextlib.contextmanager
def start_server(*options: str, seconds: float = 120) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`hf-dynasor serve` on a free port in a process of its own; the process and its address."""
    command = [sys.executable, "-m", "hf_dynasor", "serve", "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    watchdog = threading.Timer(seconds, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()  # ends when the process does
        assert " on http" in line, line
        watchdog.cancel()
        yield process, line.rsplit(" on ", 1)[1].strip()
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()
