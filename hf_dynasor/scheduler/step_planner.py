"""Fills the places of one step from the queue: who goes on, who starts, who pauses, whose memory goes."""

from __future__ import annotations

from collections.abc import Sequence

from hf_dynasor.core import RequestKey
from hf_dynasor.errors import EngineError
from hf_dynasor.scheduler.plans import Limits, PrefillChunk, StepPlan
from hf_dynasor.scheduler.policies import SchedulingPolicy
from hf_dynasor.scheduler.queues import WaitingQueue
from hf_dynasor.scheduler.records import ProgramRecord, RequestRecord, RequestState
from hf_dynasor.scheduler.residency import Residency

MAX_STEPS = 2**31
"""Steps for which a plan without prompts holds where memory is no limit."""


class StepPlanner:
    """Keeps what runs, and plans each step as far as places, tokens and memory reach.

    The first in the order that does not fit ends the filling: nothing behind it overtakes for being smaller, so
    that what is large does not starve.

    Args:
        policy: Whether ranks are those of requests, and whether places may be taken away.
        limits: Places and tokens of a step.
        memory: Whose keys and values are held.
        queue: What waits, by rank.

    Attributes:
        touched: Programs to which the last plan did something, by serial.
        moved: Requests that the last plan sent back to wait.
    """

    def __init__(
        self,
        policy: SchedulingPolicy,
        limits: Limits,
        memory: Residency,
        queue: WaitingQueue[ProgramRecord | RequestRecord],
    ) -> None:
        self._policy = policy
        self._limits = limits
        self._memory = memory
        self._queue = queue
        self._decoding: dict[RequestKey, RequestRecord] = {}
        self._prefilling: dict[RequestKey, RequestRecord] = {}
        self._paused: dict[RequestKey, RequestRecord] = {}
        self._step = 0
        self._chunks: list[PrefillChunk] = []
        self._begin(0.0)

    @property
    def num_running(self) -> int:
        """Requests that have a place."""
        return len(self._decoding) + len(self._prefilling)

    def count_generated(self, request: RequestRecord) -> int:
        """Tokens that a request has generated."""
        grown = self._step - request.base_step if request.state is RequestState.DECODING else 0
        return request.num_generated + grown

    def plan(self, now: float, valid_until: float) -> StepPlan:
        """The next step: room for those that decode, then prompts under way, then those that wait."""
        self._begin(now)
        self._relieve_memory()
        for request in self._prefilling.values():
            self._add_chunk(request)
        self._fill()
        num_steps = 1 if self._chunks else max(1, self._memory.ledger.count_steps(MAX_STEPS))
        return StepPlan(
            decode=tuple(self._decoding),
            prefill=tuple(self._chunks),
            started=tuple(self._started),
            paused=tuple(self._stopped),
            dropped=tuple(self._dropped),
            evicted=tuple(self._evicted),
            num_context_tokens=self._memory.num_context_tokens,
            max_steps=num_steps,
            valid_until=valid_until,
        )

    @property
    def last_paused(self) -> RequestKey | None:
        """The paused request that is last in the order; `None` if none is paused."""
        request = self._find_paused()
        return None if request is None else request.key

    def lose(self, request: RequestRecord, now: float) -> None:
        """An engine took the request's memory."""
        self._now = now
        self._drop(request)

    def advance(self, num_steps: int, computed: Sequence[PrefillChunk] | None = None) -> None:
        """So many steps of the last plan were run; a prompt that is complete has yielded a token."""
        self._step += num_steps
        self._memory.advance(num_steps, len(self._decoding))
        for chunk in self._chunks if computed is None else computed:
            request = self._prefilling.get(chunk.key)
            if request is None:
                continue
            request.prefill_left = max(1, request.prefill_left - chunk.num_tokens)
            if chunk.is_last:
                del self._prefilling[chunk.key]
                request.num_generated += 1
                self._start_decoding(request)
        self._chunks = []

    def remove(self, request: RequestRecord) -> None:
        """A request is gone, wherever it was; its blocks are free at once."""
        self._stand_still(request)
        self._paused.pop(request.key, None)
        self._memory.release(request)
        request.program.forget(request)

    def _begin(self, now: float) -> None:
        self._now = now
        self.touched: dict[int, ProgramRecord] = {}
        self.moved: list[RequestRecord] = []
        self._chunks = []
        self._started: list[RequestKey] = []
        self._stopped: list[RequestKey] = []
        self._dropped: list[RequestKey] = []
        self._evicted: list[str] = []
        self._tokens_left = self._limits.max_tokens - len(self._decoding)

    # --- places -------------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        while (request := self._find_next()) is not None:
            if self.num_running >= self._limits.max_requests:
                if not self._take_place(request):
                    break
            elif self._tokens_left < 1 or not self._make_room(request):
                break
            else:
                self._start(request)

    def _find_next(self) -> RequestRecord | None:
        item = self._queue.peek()
        return item.next_waiting() if isinstance(item, ProgramRecord) else item

    def _start(self, request: RequestRecord) -> None:
        program = request.program
        is_paused = request.state is RequestState.PAUSED
        if not is_paused:
            request.prefill_left = request.spec.prompt_tokens + request.num_generated - request.count_cached()
            had_prompt = program.is_resident
            self._memory.admit(request)
            if self._policy.ranks_requests and program.is_resident and not had_prompt:
                self.moved.extend(program.iter_waiting())  # their prompt has come into memory: new ranks
        program.move(request, program.running)
        self._paused.pop(request.key, None)
        self._leave_queue(request)
        program.has_started = True
        self._started.append(request.key)
        self.touched[program.serial] = program
        if is_paused:
            self._start_decoding(request)
            self._tokens_left -= 1
        else:
            request.state = RequestState.PREFILLING
            self._prefilling[request.key] = request
            self._add_chunk(request)

    def _leave_queue(self, request: RequestRecord) -> None:
        if self._policy.ranks_requests:
            self._queue.discard(request)
        elif not request.program.has_waiting:
            self._queue.discard(request.program)

    def _add_chunk(self, request: RequestRecord) -> None:
        num_tokens = min(request.prefill_left, self._tokens_left)
        if num_tokens > 0:
            is_last = num_tokens == request.prefill_left
            self._chunks.append(PrefillChunk(key=request.key, num_tokens=num_tokens, is_last=is_last))
            self._tokens_left -= num_tokens

    def _start_decoding(self, request: RequestRecord) -> None:
        request.state = RequestState.DECODING
        self._decoding[request.key] = request
        self._memory.start_growing(request, self._step)

    def _take_place(self, request: RequestRecord) -> bool:
        """Pause the running request that is last in the order, if `request` stands before it."""
        if not self._policy.is_preemptive or not self._decoding:
            return False
        worst = max(self._decoding.values(), key=self._place_of)
        if not self._rank_of(worst) > self._rank_of(request):
            return False
        self._pause(worst)
        self._stopped.append(worst.key)
        self._tokens_left += 1
        return True

    def _pause(self, request: RequestRecord) -> None:
        self._stand_still(request)
        request.state = RequestState.PAUSED
        self._paused[request.key] = request
        self._send_back(request, request.program.paused)

    def _send_back(self, request: RequestRecord, where: dict[int, RequestRecord]) -> None:
        """The request waits from now on, unless it waited before."""
        program = request.program
        if request.serial in program.running:
            request.waits_since = self._now
        program.move(request, where)
        self._queue.push(request if self._policy.ranks_requests else program)
        self.moved.append(request)
        self.touched[program.serial] = program

    def _stand_still(self, request: RequestRecord) -> None:
        if request.state is RequestState.DECODING:
            self._memory.stop_growing(request, self._step)
            del self._decoding[request.key]
        self._prefilling.pop(request.key, None)

    # --- memory -------------------------------------------------------------------------------------------------

    def _make_room(self, request: RequestRecord) -> bool:
        """Evict what nobody needs, then what stands behind `request`, until it fits; or say that it does not."""
        rank = self._rank_of(request)
        while not self._memory.has_room(
            request, num_prefilling=len(self._prefilling), num_decoding=len(self._decoding)
        ):
            if (idle := self._memory.find_evictable()) is not None:
                self._evict(idle)
            elif (holder := self._find_holder(request.program)) is not None and (
                not self.num_running or self._rank_of(holder.next_waiting()) > rank
            ):
                self._evict(holder)
            elif (paused := self._find_paused(request)) is not None and (
                not self.num_running or self._rank_of(paused) > rank
            ):
                self._drop(paused)
            else:
                return False
        return True

    def _relieve_memory(self) -> None:
        """Make room for one more token of everything that decodes."""
        ledger = self._memory.ledger
        while ledger.count_growth(1) > ledger.num_free:
            if (program := self._memory.find_evictable() or self._find_holder()) is not None:
                self._evict(program)
                continue
            request = self._find_paused() or self._find_victim()
            if request is None:
                raise EngineError(
                    "The memory for keys and values is full, and one request alone does not fit."
                )
            self._tokens_left += request.state is RequestState.DECODING
            self._drop(request)

    def _evict(self, program: ProgramRecord) -> None:
        self._memory.evict(program)
        self._evicted.append(program.spec.program_id)
        self.touched[program.serial] = program
        self.moved.extend(program.iter_waiting())

    def _drop(self, request: RequestRecord) -> None:
        """Take a request's memory: what it had is computed again when it starts again."""
        self._stand_still(request)
        self._paused.pop(request.key, None)
        self._memory.release(request)
        request.state = RequestState.FRESH
        request.num_cached = None
        self._dropped.append(request.key)
        self._send_back(request, request.program.fresh)

    def _find_holder(self, besides: ProgramRecord | None = None) -> ProgramRecord | None:
        return self._memory.find_holder(self._rank_of, besides)

    def _find_paused(self, besides: RequestRecord | None = None) -> RequestRecord | None:
        others = (request for request in self._paused.values() if request is not besides)
        return max(others, key=self._place_of, default=None)

    def _find_victim(self) -> RequestRecord | None:
        """The running request that is last in the order, unless it is the only one."""
        running = [*self._decoding.values(), *self._prefilling.values()]
        return max(running, key=self._place_of) if len(running) > 1 else None

    def _rank_of(self, request: RequestRecord) -> tuple[float, ...]:
        return request.rank if self._policy.ranks_requests else request.program.rank

    def _place_of(self, request: RequestRecord) -> tuple[tuple[float, ...], int]:
        return self._rank_of(request), request.serial


__all__ = ["MAX_STEPS", "StepPlanner"]
