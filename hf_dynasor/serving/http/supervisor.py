"""Keeps an engine alive: notices its death, makes another one, and says plainly that it is not there meanwhile."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from hf_dynasor.core import Prompt, Request, RequestKey
from hf_dynasor.engine import Ability, Engine, MeasuresRoom, Sink
from hf_dynasor.errors import ConfigurationError, EngineError
from hf_dynasor.program_plan import ProgramPlan, SchedulesPrograms

logger = logging.getLogger(__name__)

MAX_DELAY_S = 60.0
STABLE_S = 60.0
"""Seconds of health after which an engine's death counts as a first one, and the wait begins short again."""


class SupervisedEngine:
    """An engine that is replaced when it dies. What was in flight has failed by then; new requests go to the next one.

    Args:
        make: Makes an engine; called again after each death.
        delay_s: Seconds before a dead one is replaced; doubled with each try that fails and with each engine that
            dies within a minute, at most 60.
        check_interval_s: Seconds between two looks at its health.
        on_restart: Called after each replacement.
        wait: Waits so many seconds or until it is told to end; returns whether it was. For tests.
    """

    def __init__(
        self,
        make: Callable[[], Engine],
        *,
        delay_s: float = 1.0,
        check_interval_s: float = 0.5,
        on_restart: Callable[[], None] = lambda: None,
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ) -> None:
        if not (delay_s > 0 and check_interval_s > 0):
            raise ConfigurationError(
                f"Got {delay_s = } and {check_interval_s = } but expected seconds above 0."
            )
        self._make, self._delay_s, self._interval_s = make, delay_s, check_interval_s
        self._on_restart, self._wait = on_restart, wait
        self._next_delay_s = delay_s
        self._engine = make()
        self._why_down: str | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hf_dynasor-supervisor", daemon=True)
        self._thread.start()

    @property
    def current(self) -> Engine:
        """The engine that works now, or the dead one while it is being replaced."""
        return self._engine

    @property
    def name(self) -> str:
        """The engine's own."""
        return self._engine.name

    @property
    def abilities(self) -> frozenset[Ability]:
        """The engine's own."""
        return self._engine.abilities

    @property
    def progress(self) -> int:
        """The engine's own, where it reports any."""
        return int(getattr(self._engine, "progress", 0))

    @property
    def num_in_flight(self) -> int:
        """The engine's own, where it reports it."""
        return int(getattr(self._engine, "num_in_flight", 0))

    def count_room(self, prompt: Prompt) -> int | None:
        """The engine's own, where it tells any."""
        return self._engine.count_room(prompt) if isinstance(self._engine, MeasuresRoom) else None

    def submit(self, requests: Sequence[Request], sink: Sink) -> None:
        """Submit to the engine that works now.

        Raises:
            EngineError: None does.
        """
        self._check_up()
        self._engine.submit(requests, sink)

    def cancel(self, keys: Sequence[RequestKey]) -> None:
        """Cancel; what a dead engine had in flight has ended already."""
        self._engine.cancel(keys)

    def note_program(self, program_id: str, plan: ProgramPlan) -> None:
        """Tell the engine that works now where a program stands, if it schedules programs."""
        if isinstance(self._engine, SchedulesPrograms):
            self._engine.note_program(program_id, plan)

    def note_end(self, program_id: str) -> None:
        """Tell it that a program is over."""
        if isinstance(self._engine, SchedulesPrograms):
            self._engine.note_end(program_id)

    def check_health(self) -> None:
        """Raise `EngineError` while no engine works."""
        self._check_up()
        self._engine.check_health()

    def close(self) -> None:
        """Close the engine and make no other. Safe to call twice."""
        self._closed.set()
        self._thread.join(MAX_DELAY_S)
        self._engine.close()

    def _check_up(self) -> None:
        if self._why_down is not None:
            raise EngineError(f"The engine is being restarted: {self._why_down}")

    def _watch(self) -> None:
        num_healthy = 0
        while not self._wait(self._closed, self._interval_s):
            try:
                self._engine.check_health()
            except EngineError as error:
                num_healthy = 0
                self._why_down = str(error)
                logger.error("The engine died and will be replaced: %s", error)
                if not self._replace():
                    return
                self._why_down = None
                self._on_restart()
                continue
            num_healthy += 1
            if num_healthy * self._interval_s >= STABLE_S:
                self._next_delay_s = self._delay_s

    def _replace(self) -> bool:
        """Make engines until one can be made; `False` if the server ends meanwhile."""
        self._close_quietly(self._engine)
        while not self._wait(self._closed, self._next_delay_s):
            self._next_delay_s = min(MAX_DELAY_S, 2 * self._next_delay_s)
            try:
                engine = self._make()
            except Exception as error:  # whatever it was, giving up would leave a server that never recovers
                self._why_down = f"the last try failed ({error}); the next is in {self._next_delay_s:g} s"
                logger.exception("The engine could not be made: %s", self._why_down)
                continue
            if self._closed.is_set():  # closed meanwhile: nobody would ever close this one
                self._close_quietly(engine)
                return False
            self._engine = engine
            logger.warning("A new engine serves: %s", engine.name)
            return True
        return False

    def _close_quietly(self, engine: Engine) -> None:
        try:
            engine.close()
        except Exception:  # a dead engine may fail to close, which must not keep the next one from coming
            logger.exception("%s could not be closed.", engine.name)
