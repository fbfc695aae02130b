"""Time of a real engine as its own work takes it, and the turns of those that share a machine.

Parts of `engine_scheduling.py`: programs are started and fed from inside the engine's own calls for the time, so that
nothing but the engine's work moves its clock, and several engines may take turns in slices.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hf_dynasor.core import Event
from hf_dynasor.grants import Answer
from hf_dynasor.program_run import ProgramRun
from hf_dynasor.serving import ContinuousBatchingEngine

STEP_S, TOKEN_S = 0.004, 0.0002
"""What the clock `work` counts for a step and for a token."""


YARDSTICK_S = 0.004
"""What the yardstick takes on the machine that the clock `normalised` counts the seconds of."""
YARDSTICK_EVERY_S = 0.1
YARDSTICKS_KEPT = 9


class Yardstick:
    """How fast the machine is now: a fixed piece of work, half of it small products, half Python, timed now and then.

    Args:
        read: Processor seconds of the thread that measures.
    """

    def __init__(self, read: Callable[[], float]) -> None:
        self._read = read
        self._rows, self._weights = torch.ones(16, 256), torch.ones(256, 1024)
        self._times: deque[float] = deque(maxlen=YARDSTICKS_KEPT)
        self._next_at = 0.0
        self.all_times: list[float] = []

    @property
    def factor(self) -> float:
        """Seconds of the machine that is counted for a second now; the median of the last measurements."""
        return YARDSTICK_S / statistics.median(self._times) if self._times else 1.0

    def measure(self) -> None:
        """Time the work, if it is due."""
        before = self._read()
        if before < self._next_at:
            return
        with torch.inference_mode():
            for _ in range(20):
                torch.nn.functional.silu(self._rows @ self._weights)
        found = {}
        for number in range(3000):
            found[number % 97] = (number, str(number))
        after = self._read()
        self._times.append(after - before)
        self.all_times.append(after - before)
        self._next_at = after + YARDSTICK_EVERY_S


class Rotation:
    """Lets one engine run at a time, each for so long a slice, in the order in which they wait.

    Args:
        slice_s: Seconds of the engine's clock after which the next one has its turn.
    """

    def __init__(self, slice_s: float) -> None:
        self._slice_s = slice_s
        self._waiting: deque[object] = deque()
        self._holder: object | None = None
        self._since = 0.0
        self._changed = threading.Condition()

    def hold(self, member: object, now: float) -> None:
        """Go on if it is this one's turn and its slice is not over; else wait until it is."""
        with self._changed:
            if self._holder is member:
                if now - self._since < self._slice_s or not self._waiting:
                    return
                self._holder = None
            self._waiting.append(member)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._holder is None and self._waiting[0] is member)
            self._waiting.popleft()
            self._holder, self._since = member, now

    def leave(self, member: object) -> None:
        """This one has nothing to run: it is the next one's turn."""
        with self._changed:
            if self._holder is member:
                self._holder = None
                self._changed.notify_all()


class EngineClock:
    """Seconds of the engine's thread, or of its work; skips what is idle, and stands still while programs work.

    Args:
        kind: `cpu`, `normalised` (the same, as a machine of even speed would take, by a yardstick) or `work`.
        rotation: Whose turn it is, where several engines share the machine.
    """

    def __init__(self, kind: str, rotation: Rotation | None = None) -> None:
        self._kind = kind
        self._rotation = rotation
        self._engine: ContinuousBatchingEngine | None = None
        self._thread: threading.Thread | None = None
        self._offset = 0.0
        self._turn: Turn | None = None
        self._lock = threading.RLock()
        self._is_busy = False
        self._yardstick = Yardstick(self._read_thread) if kind == "normalised" else None
        self._counted, self._counted_at = 0.0, 0.0

    @property
    def yardsticks(self) -> list[float]:
        """All measurements of the yardstick, in seconds."""
        return [] if self._yardstick is None else self._yardstick.all_times

    def attach(self, engine: ContinuousBatchingEngine, turn: Turn) -> None:
        """From now on, beginning at 0; `turn` is called whenever the engine asks for the time."""
        self._engine, self._thread, self._turn = engine, engine.thread, turn
        self._counted_at = 0.0 if self._kind == "work" else self._read_thread()
        self._offset = -self._read()

    def now(self) -> float:
        """The time; programs have their turn first if the engine asks, and other engines theirs."""
        is_engine = threading.current_thread() is self._thread
        with self._lock:
            if self._turn is not None and not self._is_busy and is_engine:
                self._run_turn(self._turn)
                is_idle = self._turn.is_idle
            else:
                return self._offset + self._read() if self._thread else 0.0
            now = self._offset + self._read()
        if self._rotation is not None:
            if is_idle:
                self._rotation.leave(self)
            else:
                self._rotation.hold(self, now)
        return now

    def skip_to(self, seconds: float) -> None:
        """Nothing runs before that time: let programs have their turn then."""
        with self._lock:
            if self._turn is not None and self._turn.is_idle:
                self._offset += max(0.0, seconds - self._offset - self._read())
                self._run_turn(self._turn)

    def _run_turn(self, turn: Turn) -> None:
        self._is_busy = True
        before = self._read()
        turn.run(self._offset + before)
        if self._yardstick is not None and threading.current_thread() is self._thread:
            self._yardstick.measure()
        self._is_busy = False
        self._offset -= self._read() - before

    def _read(self) -> float:
        if self._kind == "work":
            assert self._engine is not None
            return STEP_S * self._engine.progress + TOKEN_S * self._engine.num_tokens_drawn
        if self._yardstick is not None:
            now = self._read_thread()
            self._counted += (now - self._counted_at) * self._yardstick.factor
            self._counted_at = now
            return self._counted
        return self._read_thread()

    def _read_thread(self) -> float:
        assert self._thread is not None
        return time.clock_gettime(time.pthread_getcpuclockid(self._thread.ident or 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One program: seconds from its arrival to its answer, and the answer."""

    latency: float
    answer: Answer


class Turn:
    """What drivers do: start programs that arrived, hand over completions. Whoever holds the clock runs it."""

    def __init__(self, runs: Sequence[tuple[float, Any]]) -> None:
        self._waiting = deque(runs)
        self._events: deque[Event] = deque()
        self._active: dict[str, tuple[int, float, ProgramRun]] = {}
        self.outcomes: dict[int, Outcome] = {}
        self.num_started = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in flight."""
        return not self._active

    @property
    def next_arrival(self) -> float | None:
        """When the next program comes; `None` after the last."""
        return self._waiting[0][0] if self._waiting else None

    def run(self, now: float) -> None:
        """Everything that can be done at this time."""
        while self._waiting and self._waiting[0][0] <= now:
            arrived_at, start = self._waiting.popleft()
            program_run = start(self._events.append)
            self._active[program_run.program_id] = (self.num_started, arrived_at, program_run)
            self.num_started += 1
            program_run.start()
        while self._events:
            event = self._events.popleft()
            index, arrived_at, program_run = self._active[event.key.program_id]
            program_run.deliver(event)
            if program_run.answer is not None:
                del self._active[event.key.program_id]
                self.outcomes[index] = Outcome(latency=now - arrived_at, answer=program_run.answer)
