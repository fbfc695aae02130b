"""A server in a process of its own, and what it holds: memory, threads, handles, requests, pages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

SETTLE_S = 60.0


class Server:
    """`hf-dynasor serve` in a process of its own.

    Args:
        options: Further options of the command.
    """

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "hf_dynasor", "serve", "--port", "0", *options]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `end`)
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if " on http" not in line:
            raise SystemExit(f"the server did not start: {self.read_log()}")
        self.address = line.rsplit(" on ", 1)[1].strip()

    def read_log(self) -> str:
        """The end of what it logged."""
        self._log.seek(0)
        return self._log.read()[-2000:]

    def measure(self) -> dict[str, float]:
        """What it holds now."""
        folder = Path(f"/proc/{self.process.pid}")
        status = dict(
            line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line
        )
        load = httpx.get(f"{self.address}/load", timeout=30).json()
        metrics = httpx.get(f"{self.address}/metrics", timeout=30).text
        usage = [line.split()[-1] for line in metrics.splitlines() if "kv_cache_usage_perc" in line]
        return {
            "rss": int(status["VmRSS"].split()[0]) * 1024,
            "threads": int(status["Threads"]),
            "handles": len(os.listdir(folder / "fd")),
            "running": load["num_running"] + load["num_waiting"] + load["num_programs"],
            "cache": float(usage[-1]) if usage else 0.0,
        }

    def settle(self) -> dict[str, float]:
        """Wait until nothing runs, then measure."""
        deadline = time.monotonic() + SETTLE_S
        while (found := self.measure())["running"] or found["cache"]:
            if time.monotonic() > deadline:
                return found
            time.sleep(0.2)
        time.sleep(1.0)  # closed connections go soon after
        return self.measure()

    def end(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(120)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code
