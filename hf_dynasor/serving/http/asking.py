"""Asks one question after another, of an engine in this process or of a server, and tells the same events of both."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

from hf_dynasor.clock import MonotonicClock
from hf_dynasor.engine import Ability, Engine
from hf_dynasor.errors import EngineError, InputError
from hf_dynasor.recipe import Recipe
from hf_dynasor.serving.http.chat_programs import shape_answer
from hf_dynasor.serving.http.model_info import ServedModel
from hf_dynasor.serving.http.program_runs import Progress, follow_program
from hf_dynasor.serving.http.reasoning import ReasoningSplitter
from hf_dynasor.stopping import Phase, ThinkMarkers
from hf_dynasor.stopping.markers import KNOWN_MARKERS

PROGRESS_S = 0.05
SILENCE_S = 1.0

Told = tuple[str, dict[str, Any]]
Turns = Sequence[Mapping[str, str]]


class Asker(Protocol):
    """Answers conversations."""

    @property
    def label(self) -> str:
        """What answers, for people."""
        ...

    def ask(self, turns: Turns) -> AsyncGenerator[Told, None]:
        """The events of one program: `progress`, `completion`, `grant`, at the end `completed` or `failed`.

        Closing the generator cancels the program.
        """
        ...

    def make_splitter(self, turns: Turns) -> ReasoningSplitter:
        """Tells the thinking of one path from its answer."""
        ...


class LocalAsker:
    """Runs programs over an engine of this process.

    Args:
        engine: Where requests go; the caller closes it.
        model: What is asked.
        recipe: The program, its policy and sampling.
        timeout_s: Seconds that one question may take.
    """

    def __init__(self, engine: Engine, model: ServedModel, recipe: Recipe, *, timeout_s: float) -> None:
        if recipe.seed is None and Ability.SEEDS in engine.abilities:
            recipe = replace(recipe, seed=0)
        self._engine, self._model, self._recipe, self._timeout_s = engine, model, recipe, timeout_s
        self._numbers = itertools.count()

    @property
    def label(self) -> str:
        """The engine and the program."""
        return f"{self._engine.name}, {self._recipe.program}, policy {self._recipe.build_policy().name}"

    async def ask(self, turns: Turns) -> AsyncGenerator[Told, None]:
        """See `Asker`."""
        label = f"chat-{next(self._numbers)}"
        program, policy = self._recipe.build([dict(turn) for turn in turns], label=label)
        events = follow_program(
            program,
            self._engine,
            policy,
            timeout_s=self._timeout_s,
            silence_s=SILENCE_S,
            progress=Progress(MonotonicClock(), PROGRESS_S),
        )
        try:
            async for event in events:
                if event is None:
                    continue
                if event.answer is None:
                    yield event.kind, event.data
                else:
                    yield "completed", shape_answer(event.answer) | {"usage": event.answer.usage.to_dict()}
        finally:
            await events.aclose()

    def make_splitter(self, turns: Turns) -> ReasoningSplitter:
        """See `Asker`; the prompt tells whether the thinking is open already."""
        markers = self._model.markers
        ids = self._model.encode(self._recipe.build_prompt([dict(turn) for turn in turns]))
        return ReasoningSplitter(markers, self._model.find_phase(ids, markers))


class RemoteAsker:
    """Runs programs on a server, through `/v1/programs`.

    Args:
        url: The server's address, such as `http://127.0.0.1:8000`.
        fields: Fields of the request besides the messages.
        api_key: Shown where the server asks for one.
    """

    def __init__(self, url: str, fields: Mapping[str, Any], *, api_key: str | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise InputError(f"Got {url = } but expected an address such as http://127.0.0.1:8000.")
        self._url, self._fields = url.rstrip("/").removesuffix("/v1"), dict(fields)
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    @property
    def label(self) -> str:
        """The address."""
        return self._url

    async def ask(self, turns: Turns) -> AsyncGenerator[Told, None]:
        """See `Asker`.

        Raises:
            InputError: The server refused the request.
            EngineError: There is no server, or it went away.
        """
        import httpx

        body = {"messages": [dict(turn) for turn in turns], "stream_paths": True} | self._fields
        timeout = httpx.Timeout(10.0, read=60.0)
        try:
            async with httpx.AsyncClient(
                base_url=self._url, headers=self._headers, timeout=timeout
            ) as client:
                reply = await client.post("/v1/programs", json=body)
                job = _read_reply(reply.status_code, reply.text)
                has_ended = False
                try:
                    path = f"/v1/programs/{job['id']}/events"
                    async with client.stream("GET", path) as stream:
                        async for kind, data in _read_events(stream.aiter_lines()):
                            has_ended = kind in ("completed", "failed", "cancelled")
                            yield kind, data
                finally:
                    if not has_ended:
                        with suppress(httpx.HTTPError):
                            cancelling = client.post(f"/v1/programs/{job['id']}/cancel")
                            await asyncio.shield(asyncio.ensure_future(cancelling))
        except httpx.HTTPError as error:
            words = str(error) or type(error).__name__
            raise EngineError(f"The server {self._url} does not answer: {words}.") from None

    def make_splitter(self, turns: Turns) -> ReasoningSplitter:
        """See `Asker`; a server does not tell its markers, so the usual ones are looked for."""
        open_text, close_text = KNOWN_MARKERS[0]
        usual = ThinkMarkers(open_text=open_text, close_text=close_text, open_ids=(0,), close_ids=(1,))
        return ReasoningSplitter(usual, Phase.BEFORE)


def _read_reply(status: int, text: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except json.JSONDecodeError:
        row = {}
    if status < 400 and isinstance(row, dict) and "id" in row:
        return row
    error = row.get("error") if isinstance(row, dict) else None
    words = error.get("message") if isinstance(error, dict) else None
    if status >= 500 or status == 429:
        raise EngineError(f"The server cannot answer now ({status}): {words or text[:200]}")
    raise InputError(f"The server refused the request ({status}): {words or text[:200]}")


async def _read_events(lines: AsyncIterator[str]) -> AsyncIterator[Told]:
    """Server-sent events with a name and a JSON body; comments and others are passed over."""
    kind = ""
    async for line in lines:
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: ") and kind:
            yield kind, json.loads(line.removeprefix("data: "))
        elif not line:
            kind = ""
