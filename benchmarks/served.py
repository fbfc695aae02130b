"""A server in a process of its own, and what it holds: memory, threads, handles, requests, pages."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

SETTLE_S = 60.0
START_S = 300.0


class Process:
    """A server's process."""

    process: subprocess.Popen[str]

    def read_cpu_s(self) -> float:
        """Seconds of processor time that it has used, by all its threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def pause(self) -> None:
        """Let it use no time at all."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it run again."""
        self.process.send_signal(signal.SIGCONT)


class Server(Process):
    """`hf-dynasor serve` in a process of its own.

    Args:
        options: Further options of the command.
    """

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "hf_dynasor", "serve", "--port", "0", *options]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `end`)
        self._tail = ""
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if " on http" not in line:
            raise SystemExit(f"the server did not start: {self.read_log()}")
        self.address = line.rsplit(" on ", 1)[1].strip()

    def read_log(self) -> str:
        """The end of what it logged."""
        if not self._log.closed:
            self._log.seek(0)
            self._tail = self._log.read()[-2000:]
        return self._tail

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
        self.read_log()
        self._log.close()
        return code


class OtherServer(Process):
    """`transformers serve` with continuous batching, its cache as large as ours at most is.

    Args:
        model: A local folder.
        options: Further options of the command.
    """

    def __init__(self, model: str, *options: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        program = str(Path(sys.executable).parent / "transformers")
        sizes = ["--cb-block-size", "32", "--cb-num-blocks", "1024", "--cb-max-batch-tokens", "512"]
        place = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (kept as long as the process)
        self.process = subprocess.Popen(
            [program, "serve", model, "--continuous-batching", *sizes, *place, *options],
            stdout=self._log,
            stderr=self._log,
            text=True,
        )
        self.address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_S
        while not self._is_up():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self._log.seek(0)
                raise SystemExit(f"transformers serve did not start: {self._log.read()[-2000:]}")
            time.sleep(0.5)

    def _is_up(self) -> bool:
        try:
            return httpx.get(f"{self.address}/health", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def end(self) -> None:
        """It does not end by SIGTERM once it has served a request."""
        self.process.kill()
        self.process.wait(60)
        self._log.close()
