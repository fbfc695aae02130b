"""Runs one reasoning program over the server's engine and tells what happens while it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hf_dynasor.answers import extract_answer
from hf_dynasor.clock import Clock
from hf_dynasor.core import Completion, Event, Generate, Prompt, Request, RequestKey, TokenDelta
from hf_dynasor.drivers import arun
from hf_dynasor.engine import Ability, Engine, MeasuresRoom, Sink
from hf_dynasor.grants import AllocationPolicy, Answer, GrantRecord
from hf_dynasor.paths import PathRecord
from hf_dynasor.program import ReasoningProgram
from hf_dynasor.program_plan import ProgramPlan, ProgramTerms, SchedulesPrograms

if TYPE_CHECKING:
    from hf_dynasor.serving.http.tracing import RunSpans


class WatchedEngine:
    """The engine as one program sees it; every event is shown to `notice` on its way.

    Args:
        engine: Does the work, and is closed by whoever made it.
        notice: Called from the engine's thread; must return at once.
        streams: Have everything streamed, so that `notice` hears of each token; the program does not.
        spans: Where the requests are traced; `None` for nowhere.
    """

    def __init__(
        self,
        engine: Engine,
        notice: Callable[[Event], None],
        *,
        streams: bool = False,
        spans: RunSpans | None = None,
    ) -> None:
        self._engine, self._notice, self._streams, self._spans = engine, notice, streams, spans

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

    def count_room(self, prompt: Prompt) -> int | None:
        """The engine's own, where it tells any."""
        return self._engine.count_room(prompt) if isinstance(self._engine, MeasuresRoom) else None

    def submit(self, requests: Sequence[Request], sink: Sink) -> None:
        """Submit; events pass by `notice`."""

        def pass_on(event: Event) -> None:
            self._notice(event)
            if isinstance(event, Completion) or not self._streams:
                sink(event)

        if self._streams:
            requests = [
                replace(request, stream=True) if isinstance(request, Generate) else request
                for request in requests
            ]
        if self._spans is not None:
            self._spans.begin(list(requests))
        self._engine.submit(requests, pass_on)

    def cancel(self, keys: Sequence[RequestKey]) -> None:
        """Cancel."""
        self._engine.cancel(keys)

    def note_program(self, program_id: str, plan: ProgramPlan) -> None:
        """The engine's own, where it schedules programs."""
        if isinstance(self._engine, SchedulesPrograms):
            self._engine.note_program(program_id, plan)

    def note_end(self, program_id: str) -> None:
        """The engine's own, where it schedules programs."""
        if isinstance(self._engine, SchedulesPrograms):
            self._engine.note_end(program_id)

    def check_health(self) -> None:
        """The engine's own."""
        self._engine.check_health()

    def close(self) -> None:
        """Nothing: the engine belongs to the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramEvent:
    """Something that happened to a program.

    Args:
        kind: `grant`, `completion`, `progress` (paths that are still growing) or `answer`.
        data: What there is to say, ready for JSON.
        answer: The answer, with the last event.
    """

    kind: str
    data: dict[str, Any] = field(default_factory=dict)
    answer: Answer | None = None


class Progress:
    """Gathers the tokens of paths that grow, and tells of them every now and then.

    Args:
        clock: Time.
        interval_s: Least seconds between two tellings.
    """

    def __init__(self, clock: Clock, interval_s: float) -> None:
        self._clock, self._interval_s = clock, interval_s
        self._last = clock.now()
        self._grown: dict[str, dict[str, Any]] = {}

    def add(self, delta: TokenDelta) -> list[dict[str, Any]] | None:
        """Note tokens; returns what grew since the last time, once the interval is over."""
        name = delta.key.request_id
        path = self._grown.setdefault(name, {"request_id": name, "text": "", "num_tokens": 0})
        path["text"] += delta.text
        path["num_tokens"] += len(delta.token_ids)
        if self._clock.now() - self._last < self._interval_s:
            return None
        self._last = self._clock.now()
        grown, self._grown = list(self._grown.values()), {}
        return grown

    def forget(self, name: str) -> None:
        """A path has ended: its completion tells its text, so nothing more is told of its growing."""
        self._grown.pop(name, None)


async def follow_program(
    program: ReasoningProgram,
    engine: Engine,
    policy: AllocationPolicy,
    *,
    timeout_s: float,
    silence_s: float,
    progress: Progress | None = None,
    terms: ProgramTerms | None = None,
    spans: RunSpans | None = None,
) -> AsyncGenerator[ProgramEvent | None, None]:
    """Run a program; its events as they come, `None` for each `silence_s` seconds without one.

    `terms` tell an engine that schedules programs how this one is to be served.
    `spans` trace it.
    With `progress` the paths are streamed and told of while they grow, which costs the engine some time.
    Closing the generator cancels the program and its requests.

    Raises:
        EngineError: The engine died, or the time was over.
        HFDynasorError: The program cannot work.
    """
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[ProgramEvent] = asyncio.Queue()

    def tell(kind: str, data: dict[str, Any]) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(events.put_nowait, ProgramEvent(kind=kind, data=data))

    def notice_grant(record: GrantRecord) -> None:
        if spans is not None:
            spans.end_grant(record)
        tell("grant", record.to_dict())

    def notice(event: Event) -> None:
        if isinstance(event, Completion):
            if spans is not None:
                spans.end_request(event)
            if progress is not None:
                progress.forget(event.key.request_id)
            tell("completion", _describe(event))
        elif progress is not None and (grown := progress.add(event)):
            tell("progress", {"paths": grown})

    watched = WatchedEngine(engine, notice, streams=progress is not None, spans=spans)
    task = asyncio.ensure_future(
        asyncio.wait_for(
            arun(program, watched, policy, timeout=timeout_s, on_grant=notice_grant, terms=terms), timeout_s
        )
    )
    try:
        while not (task.done() and events.empty()):
            getter = asyncio.ensure_future(events.get())
            await asyncio.wait({getter, task}, timeout=silence_s, return_when=asyncio.FIRST_COMPLETED)
            if getter.done():
                yield getter.result()
                continue
            getter.cancel()
            if not task.done():
                yield None
            elif task.exception() is not None:
                break
        answer = task.result()
        if spans is not None:
            spans.end(answer)
        yield ProgramEvent(kind="answer", data=answer.to_dict(), answer=answer)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if spans is not None:
            spans.end()


def find_text(answer: Answer) -> str:
    """A text that ends in the program's answer: a path that states it, with all that it continues.

    Where no path states it (a thought was cut, its answer probed), the answer is added in a box.
    """
    by_name = {path.request_id: path for path in answer.paths}
    terminal = [path for path in answer.paths if path.is_terminal]
    stating = [path for path in terminal if path.answer is not None and path.answer == answer.text]
    chosen = next(iter(stating or terminal), None)
    text = _join(chosen, by_name) if chosen is not None else ""
    if answer.text is not None and extract_answer(text) != answer.text:
        text = f"{text.rstrip()}\n\n\\boxed{{{answer.text}}}".strip()
    return text


def _join(path: PathRecord, by_name: dict[str, PathRecord]) -> str:
    texts: list[str] = []
    current: PathRecord | None = path
    while current is not None and len(texts) <= len(by_name):
        texts.append(current.text)
        current = by_name.get(current.parent) if current.parent is not None else None
    return "".join(reversed(texts))


def _describe(completion: Completion) -> dict[str, Any]:
    return {
        "request_id": completion.key.request_id,
        "text": completion.text,
        "finish_reason": completion.finish_reason.value,
        "usage": completion.usage.to_dict(),
    }
