"""The formula process: LaTeX is parsed and computed elsewhere, so that it can be stopped.

sympy may loop for ever in compiled code, and a time limit made of signals works in the main thread only. So one
long-lived process per program does that work and is killed when its time is over; this works in any thread and
inside an event loop (which waits meanwhile: hand large batches to `asyncio.to_thread`). Its time is that of its
processor, so that a busy machine changes no answer; the clock is the backstop. The process starts at the first
formula that plain parsing cannot read, and ends with its parent.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import os
import queue
import re
import signal
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hf_dynasor.answers.notation import MAX_DEPTH
from hf_dynasor.errors import MissingExtraError

if TYPE_CHECKING:
    import subprocess

DEFAULT_TIMEOUT = 2.0
"""Seconds of processor time that one answer's formulas may take."""

CLOCK_FACTOR = 5.0
"""How many times its processor time a formula may take by the clock."""

MAX_TIMEOUT = 86_400.0

ENDING_TIMEOUT = 5.0
MAX_LENGTH = 400
MAX_POWER_DEPTH = 2
MAX_INTEGER_DIGITS = 200
_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "formula_process.py")
_TOWER = re.compile(r"\^\s*\w\s*\^\s*\w\s*\^")
_LARGE_EXPONENT = re.compile(r"\^\s*\{?\s*[+-]?\d{5,}|\d[eE][+-]?\d{3,}")
_LARGE_FACTORIAL = re.compile(r"\d{5,}\s*!|!\s*!")
_LONG_INTEGER = re.compile(rf"\d{{{MAX_INTEGER_DIGITS + 1},}}")


def is_safe(text: str) -> bool:
    """The cheap guards: length, nesting, powers of powers of powers, long exponents and factorials.

    Examples:
        >>> is_safe(r"\\frac{1}{2^{10}}"), is_safe("9^{9^{9^{9}}}"), is_safe("1000000!")
        (True, False, False)
    """
    if len(text) > MAX_LENGTH or any(
        bad.search(text) for bad in (_TOWER, _LARGE_EXPONENT, _LARGE_FACTORIAL, _LONG_INTEGER)
    ):
        return False
    brackets = list(_nest(text))
    return max(map(len, brackets), default=0) <= MAX_DEPTH and all(
        opened.count("^") <= MAX_POWER_DEPTH for opened in brackets
    )


def _nest(text: str) -> Iterator[str]:
    """What is open at each bracket of a text: `^` for an exponent's brace, the bracket itself for others."""
    opened, before = "", ""
    for symbol in text:
        if symbol in "([{":
            opened += "^" if before == "^" else symbol
            yield opened
        elif symbol in ")]}":
            opened = opened[:-1]
        before = symbol if symbol != " " else before


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reply:
    """What came back for a request, and the longest timeout for which that stands: any, unless time was up."""

    value: object = None
    timeout: float = math.inf


class FormulaProcess:
    """A client of the formula process, safe to share between threads; requests wait for each other.

    Args:
        startup_timeout: Seconds that starting Python and importing sympy may take.
        cache_size: Results that are kept, least recently used first out. Time-outs are kept too, since an answer's
            key must not change between two looks at it, and hold until a longer timeout is asked for.
    """

    def __init__(self, *, startup_timeout: float = 120.0, cache_size: int = 8192) -> None:
        self.num_starts = 0
        self._startup_timeout = startup_timeout
        self._cache_size = cache_size
        self._cache: OrderedDict[tuple[str, ...], _Reply] = OrderedDict()
        self._cache_lock = threading.Lock()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._replies: queue.SimpleQueue[str] = queue.SimpleQueue()

    def canonicalise(
        self, formulas: tuple[str, ...], *, timeout: float
    ) -> tuple[tuple[str, ...], ...] | None:
        """For each formula its canonical members (more than one for a set); None if any has none in time."""
        reply = self._ask(("canonicalise", *formulas), timeout)
        return tuple(tuple(members) for members in reply) if isinstance(reply, list) else None

    def is_verified(self, reference: str, answer: str, *, timeout: float) -> bool:
        """Whether math-verify accepts the answer for the reference; not in time counts as no."""
        return self._ask(("verify", reference, answer), timeout) is True

    def close(self) -> None:
        """Ends the process. The next formula starts another."""
        with self._lock:
            self._stop()

    def abandon(self) -> None:
        """For a forked child: leaves the process to the parent, whose pipes both would talk through."""
        process, self._process = self._process, None
        self._lock, self._cache_lock = threading.Lock(), threading.Lock()
        if process is not None and process.stdin is not None:
            process.stdin.close()
            process.returncode = 0  # not ours to wait for

    def _ask(self, request: tuple[str, ...], timeout: float) -> object:
        timeout = min(timeout, MAX_TIMEOUT)
        if (reply := self._recall(request, timeout)) is not None:
            return reply.value
        with self._lock:
            reply = self._recall(request, timeout)  # another thread may have asked the same meanwhile
            if reply is None:
                # A process may die of what others do to it, and a second one only of the formula itself.
                reply = self._exchange(request, timeout) or self._exchange(request, timeout) or _Reply()
                self._remember(request, reply)
            return reply.value

    def _recall(self, request: tuple[str, ...], timeout: float) -> _Reply | None:
        """Looks a reply up without waiting for the process, which may be busy for another thread."""
        with self._cache_lock:
            reply = self._cache.get(request)
            if reply is None or reply.timeout < timeout:
                return None
            self._cache.move_to_end(request)
            return reply

    def _remember(self, request: tuple[str, ...], reply: _Reply) -> None:
        with self._cache_lock:
            self._cache[request] = reply
            self._cache.move_to_end(request)
            if len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)

    def _exchange(self, request: tuple[str, ...], timeout: float) -> _Reply | None:
        """One line out, one line back; None if the process died. Whatever interrupts this, no reply is left over."""
        process = self._process if self._process and self._process.poll() is None else self._start()
        assert process.stdin is not None
        message = {"request": request, "processor_time": timeout, "clock_time": CLOCK_FACTOR * timeout}
        line = ""
        try:
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
            line = self._replies.get(timeout=CLOCK_FACTOR * timeout)
            is_late = not line and _is_out_of_time(process)
        except queue.Empty:
            is_late = True
        except BrokenPipeError:
            is_late = False
        finally:
            if not line:
                self._stop()
        if line:
            return _Reply(value=json.loads(line))
        return _Reply(timeout=timeout) if is_late else None

    def _start(self) -> subprocess.Popen[str]:
        import subprocess

        self._stop()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        process = subprocess.Popen(
            [sys.executable, _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            env=environment,
            start_new_session=True,
        )
        self._process, self._replies = process, queue.SimpleQueue()
        self.num_starts += 1
        threading.Thread(target=_read_lines, args=(process, self._replies), daemon=True).start()
        is_ready = False
        try:
            is_ready = bool(self._replies.get(timeout=self._startup_timeout))
        except queue.Empty:
            pass
        finally:
            if not is_ready:
                self._stop()
        if not is_ready:
            raise MissingExtraError(
                f"The formula process ({sys.executable} {os.path.basename(_PROGRAM)}) did not start within "
                f"{self._startup_timeout:g} s. It needs math-verify: pip install 'math-verify>=0.8'."
            )
        return process

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def _is_out_of_time(process: subprocess.Popen[str]) -> bool:
    """Whether a process that closed its output was ended by one of its own timers."""
    import subprocess

    try:
        code = process.wait(timeout=ENDING_TIMEOUT)
    except subprocess.TimeoutExpired:
        return False
    return code in [-getattr(signal, name) for name in ("SIGPROF", "SIGALRM") if hasattr(signal, name)]


def _read_lines(process: subprocess.Popen[str], replies: queue.SimpleQueue[str]) -> None:
    """Hands on what the process prints, then an empty line once it has ended."""
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            replies.put(line)
    replies.put("")


FORMULAS = FormulaProcess()
"""The formula process of this program. Nothing is started before it is asked."""

atexit.register(FORMULAS.close)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=FORMULAS.abandon)
