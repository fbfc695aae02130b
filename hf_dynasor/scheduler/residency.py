"""Whose keys and values are in memory: takes room for what starts, gives it back, and evicts under pressure.

What goes first under pressure (paper §4): shared prompts of programs without a request, then those of programs
whose requests all wait, then paused requests, then running ones; within each, the last in the order first.
"""

from __future__ import annotations

from collections.abc import Callable

from hf_dynasor.scheduler.memory import BlockLedger, count_blocks
from hf_dynasor.scheduler.plans import Limits
from hf_dynasor.scheduler.records import ProgramRecord, RequestRecord, RequestState

RankOf = Callable[[RequestRecord], tuple[float, ...]]


class Residency:
    """The memory of programs and requests. Counts only; where a block lies is the engine's affair.

    Args:
        limits: How many blocks there are.
    """

    def __init__(self, limits: Limits) -> None:
        self.ledger = BlockLedger(limits.num_blocks, limits.page_size)
        self.num_context_tokens = 0
        self._headroom_steps = limits.headroom_steps
        self._residents: dict[int, ProgramRecord] = {}

    def count_needed(self, request: RequestRecord) -> int:
        """Blocks that a request takes when it starts, with the token that its prompt yields."""
        if request.state is RequestState.PAUSED:
            return 0
        page = self.ledger.page_size
        own = count_blocks(_count_private(request) + 1, page)
        return own if request.program.is_resident else own + request.program.shared_tokens // page

    def has_room(self, request: RequestRecord, *, num_prefilling: int, num_decoding: int) -> bool:
        """Whether a request can start; the first one may take all, others leave room for what runs to grow."""
        needed = self.count_needed(request)
        if num_prefilling or num_decoding:
            each = count_blocks(self._headroom_steps, self.ledger.page_size)
            needed += self.ledger.count_growth(self._headroom_steps) + each * (num_prefilling + 1)
        return needed <= self.ledger.num_free

    def admit(self, request: RequestRecord) -> None:
        """Take the blocks of a request that starts from its prompt; its program's shared prompt comes with it."""
        program = request.program
        self.ledger.take(self.count_needed(request))
        if not program.is_resident and program.shared_tokens:
            program.is_resident = True
            self._residents[program.serial] = program
        request.blocks = count_blocks(_count_private(request) + 1, self.ledger.page_size)

    def start_growing(self, request: RequestRecord, step: int) -> None:
        """From now on the request gains a token a step."""
        request.phase = self.ledger.start_growing(_count_private(request))
        request.base_step = step
        self.num_context_tokens += request.spec.prompt_tokens + request.num_generated

    def stop_growing(self, request: RequestRecord, step: int) -> None:
        """It stands still: its tokens and blocks are written down."""
        request.num_generated += step - request.base_step
        request.base_step = step
        self.ledger.stop_growing(request.phase)
        request.blocks = count_blocks(_count_private(request), self.ledger.page_size)
        self.num_context_tokens -= request.spec.prompt_tokens + request.num_generated

    def advance(self, num_steps: int, num_decoding: int) -> None:
        """All that decode gain so many tokens."""
        self.ledger.advance(num_steps)
        self.num_context_tokens += num_steps * num_decoding

    def release(self, request: RequestRecord) -> None:
        """Give back the blocks of a request that stands still."""
        self.ledger.give(request.blocks)
        request.blocks = 0

    def evict(self, program: ProgramRecord) -> bool:
        """Give back a program's shared prompt; returns whether it was in memory."""
        if not program.is_resident:
            return False
        program.is_resident = False
        del self._residents[program.serial]
        self.ledger.give(program.shared_tokens // self.ledger.page_size)
        return True

    def find_evictable(self) -> ProgramRecord | None:
        """The program whose shared prompt goes first: without requests, idle for longest."""
        idle = (program for program in self._residents.values() if not program.has_requests)
        return min(idle, key=lambda program: (program.idle_since or 0.0, program.serial), default=None)

    def find_holder(self, rank_of: RankOf, besides: ProgramRecord | None = None) -> ProgramRecord | None:
        """The program, last in the order, whose shared prompt is in memory while all its requests wait."""
        holders = (
            program
            for program in self._residents.values()
            if program.fresh and not program.running and not program.paused and program is not besides
        )
        return max(
            holders, key=lambda item: (rank_of(next(iter(item.fresh.values()))), item.serial), default=None
        )


def _count_private(request: RequestRecord) -> int:
    """Tokens that the request holds besides its program's shared prompt."""
    return request.spec.prompt_tokens - request.num_shared + request.num_generated


__all__ = ["Residency"]
