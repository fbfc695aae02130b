"""The formula process: LaTeX is parsed and computed elsewhere, so that it can be stopped.

sympy may loop for ever in compiled code, and a time limit made of signals works in the main thread only. So one
long-lived process per program does that work and is killed when its time is over; this works in any thread and
inside an event loop (which waits meanwhile: hand large batches to `asyncio.to_thread`). The process starts at
the first formula that plain parsing cannot read, and ends with its parent.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import re
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hf_dynasor.answers.notation import MAX_DEPTH
from hf_dynasor.errors import MissingExtraError

if TYPE_CHECKING:
    import subprocess

DEFAULT_TIMEOUT = 2.0
"""Seconds that one answer's formulas may take."""

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


class FormulaProcess:
    """A client of the formula process, safe to share between threads; requests wait for each other.

    Args:
        startup_timeout: Seconds that starting Python and importing sympy may take.
        cache_size: Results that are kept, least recently used first out. Time-outs are kept too: an answer's key
            must not change between two looks at it.
    """

    def __init__(self, *, startup_timeout: float = 120.0, cache_size: int = 8192) -> None:
        self.num_starts = 0
        self._startup_timeout = startup_timeout
        self._cache_size = cache_size
        self._cache: OrderedDict[tuple[str, ...], object] = OrderedDict()
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
        is_known, reply = self._recall(request)
        if is_known:
            return reply
        with self._lock:
            is_known, reply = self._recall(request)  # another thread may have asked the same meanwhile
            if not is_known:
                reply = self._exchange(request, timeout)
                self._remember(request, reply)
            return reply

    def _recall(self, request: tuple[str, ...]) -> tuple[bool, object]:
        """Looks a reply up without waiting for the process, which may be busy for another thread."""
        with self._cache_lock:
            if request not in self._cache:
                return False, None
            self._cache.move_to_end(request)
            return True, self._cache[request]

    def _remember(self, request: tuple[str, ...], reply: object) -> None:
        with self._cache_lock:
            self._cache[request] = reply
            if len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)

    def _exchange(self, request: tuple[str, ...], timeout: float) -> object:
        """One line out, one line back. Whatever interrupts this, no reply is left for the next request."""
        process = self._process if self._process and self._process.poll() is None else self._start()
        is_finished = False
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps({"request": request, "timeout": timeout}) + "\n")
            process.stdin.flush()
            line = self._replies.get(timeout=timeout)
            is_finished = bool(line)
        except (queue.Empty, BrokenPipeError):
            return None
        finally:
            if not is_finished:
                self._stop()
        return json.loads(line) if line else None

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
