"""Running code that a model wrote, shut in. Off unless a caller makes a `Sandbox`; nothing here runs by itself.

One short-lived process runs one candidate: isolated Python without site packages, an empty environment, an empty
folder of its own, limits on processor time, memory, output and open files, and a clock in the parent. On Linux
(x86-64, Arm) a filter of system calls refuses it, from before the code is read, every file (reading too), every
socket, every new process or thread, other processes' memory and signals; where the system allows it, it also
leaves the user's, network and IPC namespaces. What is *not* isolated: it shares the kernel and the processor, and a
hole in the kernel or the interpreter is a hole in the sandbox. For hostile code run the whole program in a virtual
machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hf_dynasor.errors import ConfigurationError, UnsupportedError

MAX_CODE = 100_000
MAX_CALLS = 64
_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sandbox_process.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """What shut a run in.

    Args:
        system_calls: Files, sockets, processes and other processes' memory were refused by a filter.
        namespaces: It also had user, network and IPC namespaces of its own.
    """

    system_calls: bool
    namespaces: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CallResult:
    """What one call came to: a value, or the name of the error that it raised.

    Args:
        value: The value as text, the same for equal values; `None` with an error.
        error: An exception's class; `"killed"` where a limit or the clock ended the run before this call.
    """

    value: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxRun:
    """How a candidate's run ended.

    Args:
        results: One for each call.
        isolation: What shut it in.
        is_timed_out: Whether the clock ended it.
    """

    results: tuple[CallResult, ...]
    isolation: Isolation
    is_timed_out: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """Where candidates run.

    Args:
        timeout: Seconds of the clock for one candidate, start-up included.
        cpu_seconds: Seconds of processor time.
        memory_mb: Address space in MiB.
        output_bytes: Most that it may write.
        is_strict: Refuse to run code where system calls cannot be filtered (systems other than Linux on x86-64 or Arm). With
            `False` such a run has nothing but the limits and the clock, where the system has them.

    Raises:
        ConfigurationError: A limit that is not positive.

    Examples:
        >>> Sandbox().run("def double(x): return 2 * x", ["double(4)"]).results[0].value
        '8'
    """

    timeout: float = 10.0
    cpu_seconds: int = 4
    memory_mb: int = 512
    output_bytes: int = 1_000_000
    is_strict: bool = True

    def __post_init__(self) -> None:
        for name in ("timeout", "cpu_seconds", "memory_mb", "output_bytes"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"Got {name} = {getattr(self, name)} but expected more than 0.")

    def run(self, code: str, calls: Sequence[str]) -> SandboxRun:
        """Run a candidate and evaluate expressions in it, in order, in one process.

        Args:
            code: Python source.
            calls: Expressions, such as `add(1, 2)`.

        Raises:
            ConfigurationError: Too long a code, or too many calls.
            UnsupportedError: Strict, and this system cannot shut the code in.
        """
        if len(code) > MAX_CODE or len(calls) > MAX_CALLS:
            raise ConfigurationError(
                f"Got {len(code)} characters and {len(calls)} calls but expected at most {MAX_CODE} and {MAX_CALLS}."
            )
        with tempfile.TemporaryDirectory(prefix="sandbox-") as folder:
            lines, is_timed_out = self._run_in(folder, code, list(calls))
        isolation = _read_isolation(lines)
        if self.is_strict and not isolation.system_calls:
            raise UnsupportedError(
                "This system cannot refuse files, sockets and processes to a candidate, so its code was not run. "
                "Use Linux on x86-64 or Arm, or is_strict=False in a machine of its own."
            )
        results = [CallResult(value=line.get("value"), error=line.get("error")) for line in lines[1:]]
        killed = [CallResult(error="killed")] * (len(calls) - len(results))
        return SandboxRun(
            results=(*results[: len(calls)], *killed), isolation=isolation, is_timed_out=is_timed_out
        )

    def _run_in(self, folder: str, code: str, calls: list[str]) -> tuple[list[dict[str, Any]], bool]:
        job = {
            "code": code,
            "calls": calls,
            "cpu_seconds": self.cpu_seconds,
            "memory_bytes": self.memory_mb * 2**20,
            "output_bytes": self.output_bytes,
            "is_strict": self.is_strict,
        }
        # Files, not pipes: the limit on a file's size then bounds the output, and nobody has to read along.
        with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as output:
            source.write(json.dumps(job).encode())
            source.seek(0)
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", _PROGRAM],
                stdin=source,
                stdout=output,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={},
                close_fds=True,
                start_new_session=True,
            )
            is_timed_out = _wait(process, self.timeout)
            output.seek(0)
            return _read_lines(output.read(self.output_bytes)), is_timed_out


def _wait(process: subprocess.Popen[bytes], timeout: float) -> bool:
    """Wait with a bound, then kill; whether it had to be killed."""
    try:
        process.wait(timeout)
        return False
    except subprocess.TimeoutExpired:
        return True
    finally:
        with contextlib.suppress(OSError):
            process.kill()
        process.wait()


def _read_lines(output: bytes) -> list[dict[str, Any]]:
    """The JSON objects of an output up to the first line that is none: a candidate may have written there too."""
    rows: list[dict[str, Any]] = []
    for line in output.decode("utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(row, dict):
            break
        rows.append(row)
    return rows


def _read_isolation(lines: Sequence[dict[str, Any]]) -> Isolation:
    first = lines[0] if lines else {}
    return Isolation(
        system_calls=first.get("system_calls") is True, namespaces=first.get("namespaces") is True
    )
