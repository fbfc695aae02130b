"""A server over several processes of this machine, for tests."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Group:
    """A launcher, the processes that it started by rank, and what they wrote to standard error."""

    launcher: subprocess.Popen[str]
    pids: dict[int, int]
    address: str
    log: Path

    def kill(self, rank: int) -> None:
        os.kill(self.pids[rank], signal.SIGKILL)

    def wait_until_gone(self, seconds: float) -> float:
        """Seconds until none of the processes is left, the launcher included."""
        begin = time.monotonic()
        while self.launcher.poll() is None or any(map(is_alive, self.pids.values())):
            assert time.monotonic() - begin < seconds, self.log.read_text()[-4000:]
            time.sleep(0.05)
        return time.monotonic() - begin


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def list_children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def read_rank(pid: int) -> int | None:
    rows = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((int(row[5:]) for row in rows if row.startswith(b"RANK=")), None)


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node")
ACCELERATE = ("accelerate.commands.launch", "--multi_gpu", "--num_processes")


@contextlib.contextmanager
def start_group(
    folder: Path,
    *options: str,
    size: int = 2,
    seconds: float = 120,
    launch: tuple[str, ...] = TORCHRUN,
) -> Iterator[Group]:
    """`torchrun -m hf_dynasor serve --tensor-parallel SIZE` on a free port; ended whatever happens."""
    command = [sys.executable, "-m", *launch, str(size)]
    command += ["-m", "hf_dynasor", "serve", "--port", "0", "--device", "cpu", "--tensor-parallel", str(size)]
    log = folder / "stderr.txt"
    with log.open("w") as stderr:
        launcher = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=stderr, text=True)
    watchdog = threading.Timer(seconds, launcher.kill)
    watchdog.start()
    pids: dict[int, int] = {}
    try:
        assert launcher.stdout is not None
        line = launcher.stdout.readline()
        assert " on http" in line, f"{line}\n{log.read_text()[-4000:]}"
        watchdog.cancel()
        pids.update(
            (rank, pid) for pid in list_children(launcher.pid) if (rank := read_rank(pid)) is not None
        )
        yield Group(launcher, pids, line.rsplit(" on ", 1)[1].strip(), log)
    finally:
        watchdog.cancel()
        for pid in [*pids.values(), launcher.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        launcher.communicate()
