"""The inside of the sandbox: shuts itself in, then runs code that nobody trusts. Run by path, never imported by others.

It reads one JSON object from its standard input and writes JSON lines to its standard output: first what isolates
it, then one line for each call. Everything is limited before the code is looked at, and nothing can be taken back.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import sys
from collections.abc import Iterator

PRELOADED = (
    "abc", "array", "bisect", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal", "enum",
    "fractions", "functools", "hashlib", "heapq", "itertools", "json", "math", "numbers", "operator", "queue",
    "random", "re", "statistics", "string", "textwrap", "time", "typing", "unicodedata",
)  # fmt: skip
"""Modules that code may import: no file can be opened once it runs."""

MAX_REPR = 4096
MAX_DEPTH = 50

_NAMESPACES = 0x10000000 | 0x40000000 | 0x08000000  # user, network, inter-process communication
_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 4, 22, 38, 2
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | 1  # SECCOMP_RET_ALLOW; SECCOMP_RET_ERRNO with EPERM
_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Files, network, processes, other processes' memory, limits, namespaces, mounts, keys, kernel interfaces.
_REFUSED = {
    "x86_64": (
        2, 76, 82, 83, 84, 85, 86, 87, 88, 90, 91, 92, 93, 94, 132, 133, 235, 257, 258, 259, 260, 261, 263, 264, 265,
        266, 268, 280, 316, 332, 437, 452, 41, 42, 43, 44, 46, 49, 50, 53, 288, 307, 56, 57, 58, 59, 62, 129, 200,
        234, 297, 322, 424, 434, 435, 101, 310, 311, 438, 97, 160, 302, 141, 272, 308, 155, 161, 165, 166, 428, 429,
        430, 432, 442, 248, 249, 250, 103, 169, 175, 176, 246, 298, 304, 313, 321, 323, 425, 426, 427, 29, 30, 64, 68,
        240, 319,
    ),
    "aarch64": (
        45, 33, 34, 35, 36, 37, 38, 52, 53, 54, 55, 56, 88, 276, 291, 437, 452, 198, 199, 200, 201, 202, 203, 206,
        211, 242, 269, 220, 221, 129, 130, 131, 138, 240, 281, 424, 434, 435, 117, 270, 271, 438, 164, 261, 140, 97,
        268, 41, 51, 39, 40, 428, 429, 430, 432, 442, 217, 218, 219, 116, 142, 104, 105, 106, 241, 265, 273, 280, 282,
        425, 426, 427, 186, 190, 194, 180, 279,
    ),
}  # fmt: skip


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("jt", ctypes.c_ubyte),
        ("jf", ctypes.c_ubyte),
        ("k", ctypes.c_uint),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.POINTER(_Instruction)))


def main() -> None:
    """Limits itself, then runs the code that it was told to."""
    job = json.loads(sys.stdin.read())
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    for name in PRELOADED:
        __import__(name)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        sys.stdout = sys.stderr = nowhere
        _limit(job)
        isolation = {"namespaces": _leave_namespaces(), "system_calls": _filter_system_calls()}
        _tell(output, isolation)
        if isolation["system_calls"] or not job["is_strict"]:
            for line in _run(job["code"], job["calls"]):
                _tell(output, line)
        output.flush()
        os._exit(0)


def _limit(job: dict[str, int]) -> None:
    try:
        import resource
    except ImportError:  # no such limits on this system: the caller's clock is the only bound
        return
    for name, value in (
        ("RLIMIT_CPU", job["cpu_seconds"]),
        ("RLIMIT_AS", job["memory_bytes"]),
        ("RLIMIT_FSIZE", job["output_bytes"]),
        ("RLIMIT_NOFILE", 16),
        ("RLIMIT_NPROC", 1),
        ("RLIMIT_CORE", 0),
    ):
        limit = getattr(resource, name, None)
        if limit is not None:
            hard = resource.getrlimit(limit)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(limit, (value, value))


def _leave_namespaces() -> bool:
    """Into namespaces of its own, without a network, where the system lets everybody do that."""
    try:
        return bool(ctypes.CDLL(None).unshare(_NAMESPACES) == 0)
    except (AttributeError, OSError):
        return False


def _filter_system_calls() -> bool:
    """No file, socket, process or other process's memory from here on (seccomp). Cannot be undone."""
    machine = platform.machine()
    if sys.platform != "linux" or machine not in _REFUSED:
        return False
    steps = [
        (_LOAD, 0, 0, 4),
        (_JUMP_IF_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _REFUSE),
        (_LOAD, 0, 0, 0),
        (_JUMP_IF_AT_LEAST, 0, 1, 0x40000000),
        (_RETURN, 0, 0, _REFUSE),
    ]
    for number in _REFUSED[machine]:
        steps += [(_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE)]
    steps.append((_RETURN, 0, 0, _ALLOW))
    instructions = (_Instruction * len(steps))(*(_Instruction(*step) for step in steps))
    program = _Program(len(steps), instructions)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0)


def _run(code: str, calls: list[str]) -> Iterator[dict[str, str]]:
    """One result at a time, so that what was said before a limit struck is kept."""
    names: dict[str, object] = {"__name__": "candidate"}
    try:
        exec(compile(code, "<candidate>", "exec"), names)
    except BaseException as error:  # noqa: BLE001  (whatever the code raises is what it says)
        yield from ({"error": type(error).__name__} for _ in calls)
        return
    for call in calls:
        yield _call(call, names)


def _call(call: str, names: dict[str, object]) -> dict[str, str]:
    try:
        return {"value": describe(eval(compile(call, "<call>", "eval"), names))[:MAX_REPR]}
    except BaseException as error:  # noqa: BLE001
        return {"error": type(error).__name__}


def describe(value: object, depth: int = 0) -> str:
    """A value as text that does not depend on the order of a set or the address of an object."""
    if depth > MAX_DEPTH:
        return "..."
    if isinstance(value, (set, frozenset)):
        return "{" + ", ".join(sorted(describe(item, depth + 1) for item in value)) + "}"
    if isinstance(value, dict):
        pairs = (f"{describe(key, depth + 1)}: {describe(item, depth + 1)}" for key, item in value.items())
        return "dict(" + ", ".join(sorted(pairs)) + ")"
    if isinstance(value, (list, tuple)):
        opening, closing = "[]" if isinstance(value, list) else "()"
        return opening + ", ".join(describe(item, depth + 1) for item in value) + closing
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return repr(value)
    return f"<{type(value).__name__}>"


def _tell(output: object, line: dict[str, object] | dict[str, str] | dict[str, bool]) -> None:
    print(json.dumps(line), file=output, flush=True)  # type: ignore[call-overload]


if __name__ == "__main__":
    main()
