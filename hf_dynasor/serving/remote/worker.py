"""The thread of a remote engine: an event loop that runs so many requests at once, in the order of the scheduler."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import httpx

from hf_dynasor.core import FinishReason
from hf_dynasor.errors import HFDynasorError
from hf_dynasor.serving.failures import describe_error
from hf_dynasor.serving.program_scheduling import Computed, ProgramScheduling
from hf_dynasor.serving.remote.exchange import Exchange
from hf_dynasor.serving.remote.failures import RemoteFailure
from hf_dynasor.serving.remote.prompts import PromptWriter
from hf_dynasor.serving.remote.received import Piece
from hf_dynasor.serving.remote.tracks import RemoteTrack
from hf_dynasor.serving.tracks import Ledger

logger = logging.getLogger(__name__)


class RemoteWorker:
    """Owns the loop, the connections and the tasks; everything below the first line runs in its thread.

    Args:
        ledger: Where requests begin and end.
        scheduling: Which of them run next.
        writer: Writes prompts.
        build_body: The JSON of a request whose prompt is written.
        make_client: Makes the connections, in the loop.
        make_exchange: Makes what sends, over them.
    """

    def __init__(
        self,
        ledger: Ledger,
        scheduling: ProgramScheduling,
        writer: PromptWriter,
        build_body: Callable[[RemoteTrack], Mapping[str, Any]],
        make_client: Callable[[], httpx.AsyncClient],
        make_exchange: Callable[[httpx.AsyncClient], Exchange],
    ) -> None:
        self._ledger, self._scheduling, self._writer = ledger, scheduling, writer
        self._build_body, self._make_client, self._make_exchange = build_body, make_client, make_exchange
        self.exchange: Exchange | None = None
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._tracks: dict[str, RemoteTrack] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.num_pieces = self.num_ended = self.most_in_flight = 0
        self.thread = threading.Thread(target=self._run, name=ledger.name, daemon=True)

    # --- from any thread -------------------------------------------------------------------------------------------

    def start(self, tracks: Sequence[RemoteTrack]) -> None:
        """Queue tracks; returns at once."""
        self._loop.call_soon_threadsafe(self._take, tuple(tracks))

    def cancel(self, tracks: Sequence[RemoteTrack]) -> None:
        """Close the streams of tracks that are marked, or take them out of the queue."""
        self._loop.call_soon_threadsafe(self._cancel, tuple(tracks))

    def stop(self, timeout_s: float) -> None:
        """Close every stream and end the thread; waits for it at most so long."""
        if not self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(self._stopping.set)
            except RuntimeError:  # closed since it was looked at
                return
        if self.thread is not threading.current_thread() and self.thread.ident is not None:
            self.thread.join(timeout_s)
        if self.thread.is_alive():
            logger.warning("The thread of %s did not end within %s s.", self._ledger.name, timeout_s)

    # --- in the loop -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._loop.run_until_complete(self._main())
        except Exception as raised:  # the boundary: callers must hear of it
            logger.exception("%s died.", self._ledger.name)
            error = raised
        finally:
            if not self._stopping.is_set():
                self._ledger.end(f"died: {describe_error(error)}", FinishReason.FAILED, describe_error(error))
            self._loop.close()

    async def _main(self) -> None:
        async with self._make_client() as client:
            self.exchange = self._make_exchange(client)
            await self._stopping.wait()
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _take(self, tracks: Sequence[RemoteTrack]) -> None:
        for track in tracks:
            if track.is_cancelled:  # given up on its way here
                self._ledger.settle(track, FinishReason.CANCELLED)
                continue
            limit = track.request.sampling.max_new_tokens
            try:
                self._scheduling.enqueue(track.serial, track.key, track.num_prompt_tokens, limit)
            except HFDynasorError as error:  # nobody waits for this callback: the request must hear of it
                self._ledger.settle(track, FinishReason.FAILED, str(error))
                continue
            self._tracks[track.serial] = track
        self._fill()

    def _fill(self) -> None:
        """Send what the scheduler gives a place."""
        if self._stopping.is_set():
            return
        new = [name for name in self._scheduling.choose() if name not in self._tasks]
        if not new:
            return
        self._scheduling.note_run(
            [
                Computed(name=name, num_tokens=self._tracks[name].num_prompt_tokens, is_last=True)
                for name in new
            ]
        )
        for name in new:
            track = self._tracks[name]
            task = self._loop.create_task(self._serve(track))
            task.add_done_callback(partial(self._leave, track))
            self._tasks[name] = task
        self.most_in_flight = max(self.most_in_flight, len(self._tasks))

    def _cancel(self, tracks: Sequence[RemoteTrack]) -> None:
        for track in tracks:
            if (task := self._tasks.get(track.serial)) is not None:
                task.cancel()
            elif self._tracks.pop(track.serial, None) is not None:
                self._scheduling.cancelled(track.serial)
                self._ledger.settle(track, FinishReason.CANCELLED)
        self._fill()

    async def _serve(self, track: RemoteTrack) -> None:
        """From its place to its completion."""
        assert self.exchange is not None
        began = self.exchange.now()
        try:
            await self._answer(track)
            received = track.received
            assert received is not None  # else it would have failed
            assert received.reason is not None
            self._ledger.settle(track, received.reason)
            track.is_answered = True
        except RemoteFailure as failure:
            self._report(track, failure, began)
        except Exception as error:  # a fault of ours must end its own request, not the others'
            logger.exception("Request %s failed.", track.key)
            self._ledger.settle(track, FinishReason.FAILED, describe_error(error))

    def _leave(self, track: RemoteTrack, task: asyncio.Task[None]) -> None:
        """Whatever happened, the place is given back and somebody is told; a task may be cancelled before it began."""
        if track.is_answered and track.received is not None:
            self._scheduling.finished(track.serial, track.received.num_tokens)
        else:
            self._scheduling.cancelled(track.serial)
        self._ledger.settle(track, FinishReason.CANCELLED)  # nothing, where it has ended otherwise
        self.num_ended += 1
        self._tracks.pop(track.serial, None)
        self._tasks.pop(track.serial, None)
        self._fill()

    async def _answer(self, track: RemoteTrack) -> None:
        assert self.exchange is not None
        if track.wire is None:
            track.wire = await self._writer.fetch(track.request.prompt, self.exchange.ask)
        await self.exchange.run(track, self._build_body(track), self._tell)

    def _tell(self, track: RemoteTrack, piece: Piece) -> None:
        self.num_pieces += 1
        if (delta := track.make_delta(piece)) is not None:
            self._ledger.tell(track, delta)

    def _report(self, track: RemoteTrack, failure: RemoteFailure, began: float) -> None:
        """One request's failure, or the server's: nothing was answered since this request began to be sent."""
        assert self.exchange is not None
        if failure.is_unreachable and self.exchange.answered_at < began:
            self._ledger.end(f"lost its server. {failure}", FinishReason.FAILED, str(failure))
        self._ledger.settle(track, FinishReason.FAILED, str(failure))


__all__ = ["RemoteWorker"]
