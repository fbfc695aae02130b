"""The stream of one request: what comes first, an event or more for each update, comments over silence, what comes last."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from dataclasses import dataclass

from hf_dynasor.serving.http import sse
from hf_dynasor.serving.http.generation import Update
from hf_dynasor.serving.http.state import ServerState


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamShape:
    """What a stream says, as encoded events.

    Args:
        opening: Before the first update, once the request was let in.
        each: For an update of a choice; may be none.
        closing: After the last update.
    """

    opening: Callable[[], Iterable[str]]
    each: Callable[[Update], Iterable[str]]
    closing: Callable[[], Iterable[str]]


async def stream_updates(
    state: ServerState, updates: AsyncIterator[Update], shape: StreamShape
) -> AsyncGenerator[str, None]:
    """Encoded events; those of updates that are there together come as one piece, to be written at once.

    Args:
        state: For the clock and the time between comments.
        updates: The request's own, not begun; its first tells that it was let in.
        shape: What is said.
    """
    clock, keep_alive_s = state.clock, state.settings.keep_alive_s
    await anext(updates, None)  # let in: what fails before is a plain error with its status
    last_sent = clock.now()
    waiting: list[str] = []
    for event in shape.opening():
        yield event
    async for update in updates:
        if update.choice is not None:
            waiting += shape.each(update)
            if update.has_more:
                continue
        if waiting:
            last_sent = clock.now()
            yield "".join(waiting)
            waiting.clear()
        elif update.choice is None and clock.now() - last_sent >= keep_alive_s:
            last_sent = clock.now()
            yield sse.KEEP_ALIVE
    for event in (*waiting, *shape.closing()):
        yield event
