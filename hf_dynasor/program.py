"""`ReasoningProgram`: an algorithm that spends a knob in grants and knows how certain it is.

The base class owns the loop (ask the policy, execute the grant, update the certaindex, until denied) and
the token account. It does no I/O: its `flow` yields commands and is sent completions, one at a time, and
a driver (`hf_dynasor.drivers`) carries them to an engine and back.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from hf_dynasor.certaindex import Certaindex
from hf_dynasor.core import Cancel, Command, Completion, FinishReason, Prompt, RequestKey, Usage
from hf_dynasor.errors import ProgramError
from hf_dynasor.grants import AllocationPolicy, Answer, Decision, GrantRecord, Knob, StopReason, Trace
from hf_dynasor.paths import PathRecord
from hf_dynasor.seeds import derive_seed
from hf_dynasor.snapshots import Journal, check_snapshot, describe_settings, describe_value

if TYPE_CHECKING:
    from typing_extensions import Self

_serials = itertools.count()

Flow: TypeAlias = Generator[tuple[Command, ...], Completion, None]
"""What `execute` is: it yields commands (or `()` to wait) and is sent the next completion."""

ProgramFlow: TypeAlias = Generator[tuple[Command, ...], Completion, Answer]
"""What a driver drives: a whole program, from its first request to its answer."""

DEFAULT_INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
"""Appended to a question by default, so that answers can be found."""


class ReasoningProgram(ABC):
    """An algorithm with a knob (paper §2): subclasses say how a grant is spent and what is known after it.

    Args:
        label: What people call it. Its `program_id`, which names it among the programs of an engine, is made
            from the label and is unique in the process: any number of programs of one label run side by side.
        knob: The dial and its cap.

    Attributes:
        name: The algorithm's name (of the class).
        signals: The certaindex signals that it can know (of the class).
        preset: The row of `TABLE_1` that a recipe takes where none is named (of the class).
        certaindex: What it knows now.
        trace: One record for each grant so far.
        usage: Its tokens so far.
    """

    name: str
    signals: frozenset[str]
    preset: str = "sc/math"
    _settings: dict[str, str]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Note what the program is made with, so that a snapshot of it can be told from another's."""
        program = super().__new__(cls)
        program._settings = describe_settings(cls, args, kwargs)
        return program

    def __init__(self, *, label: str, knob: Knob) -> None:
        self.label = label
        self.program_id = f"{label}#{next(_serials)}"
        self.knob = knob
        self.certaindex = Certaindex()
        self.trace: tuple[GrantRecord, ...] = ()
        self.usage = Usage()
        self.num_failed = 0
        self._asked_budget = knob.maximum
        self._budget_note = ""
        self._depth = 0
        self._has_started = False
        self._journal = Journal()

    @abstractmethod
    def execute(self, grant: int) -> Flow:
        """Spend `grant` units. Returning early cancels what is still in flight."""

    @abstractmethod
    def update_certaindex(self) -> None:
        """Set `certaindex` from what has been seen; called once after each grant."""

    @abstractmethod
    def select_answer(self) -> str | None:
        """The answer from what has been seen; `None` where no path stated one."""

    def list_votes(self) -> tuple[tuple[str, float], ...]:
        """Candidate answers with their weights, heaviest first, for people; empty where nothing is voted."""
        return ()

    def list_paths(self) -> tuple[PathRecord, ...]:
        """What was generated so far, piece by piece, in the order of the knob's units."""
        return ()

    def list_groups(self) -> tuple[int, ...]:
        """Which group of equal answers each finished path is in; see `GrantRecord.groups`."""
        return ()

    def fit_room(self, count_room: Callable[[Prompt], int | None]) -> int | None:
        """What a budget that nobody named is lowered to, so that it fits; asked once, before the first grant.

        Args:
            count_room: Tokens that the model's context leaves behind a prompt; `None` where no limit is known.

        Returns:
            `None` leaves the budget as it is, as programs do whose knob is not the tokens of one path.
        """
        return None

    def find_ending(self) -> Decision | None:
        """The program's own last word: a denial once more of its knob cannot change its answer, else `None`."""
        return None

    def count_spent(self, grant: int) -> int:
        """How many units of a grant were really spent; fewer where the program came to its own end."""
        return grant

    def fit(self, count_room: Callable[[Prompt], int | None]) -> None:
        """Take over what `fit_room` says; drivers call it for engines that know their context."""
        room = self.fit_room(count_room)
        if room is not None and 0 < room < self.knob.maximum:
            self.knob = replace(self.knob, maximum=room)
            self._budget_note = ", all that the model's context leaves"

    def key(self, request_id: str) -> RequestKey:
        """The key of one of this program's requests."""
        return RequestKey(program_id=self.program_id, request_id=request_id)

    def flow(self, policy: AllocationPolicy) -> ProgramFlow:
        """Ask, execute, update, until denied; then the answer. Runs once.

        Raises:
            ProgramError: The policy grants more than the cap, or the program runs twice.
        """
        if self._has_started:
            raise ProgramError(
                f"Program {self.program_id!r} has run already: make a new one for another run."
            )
        self._has_started = True
        self._journal.begin(describe_value(policy))
        spending = self._spend(policy)
        try:
            commands = self._journal.catch_up(spending)
            while True:
                completion = yield commands
                self._journal.append(completion)
                commands = spending.send(completion)
        except StopIteration as stop:
            answer: Answer = stop.value
            return answer
        finally:
            spending.close()

    def _spend(self, policy: AllocationPolicy) -> ProgramFlow:
        while (decision := self.find_ending() or self._ask(policy)).units:
            yield from self._execute_and_account(decision.units)
            self.update_certaindex()
            spent = self.count_spent(decision.units)
            if not spent and self.find_ending() is None:
                raise ProgramError(
                    f"Program {self.program_id!r} was granted {self.knob.describe(decision.units)}, spent none and has "
                    "not ended: it would be granted the same for ever. Have count_spent() tell what execute() used."
                )
            self.trace = (*self.trace, self._record(spent))
        return self._build_answer(decision)

    @property
    def num_granted(self) -> int:
        """Units granted so far."""
        return self.trace[-1].total if self.trace else 0

    def snapshot(self) -> dict[str, Any]:
        """Where the program stands, ready for JSON; may be taken at any time, in the middle of a grant too.

        It holds every completion that the program has seen, not what is still in flight: that is asked for again
        by the program that goes on from it.
        """
        return {**self._identify(), "label": self.label, **self._journal.to_dict()}

    def resume(self, snapshot: Mapping[str, Any]) -> Self:
        """Go on from a snapshot of an equal program, this process's or another's; then run it as usual.

        Its flow feeds itself the completions that the snapshot holds and asks an engine only for what was in
        flight. On an engine that draws by seeds the answer is the one that the other program would have given.

        Args:
            snapshot: What `snapshot` gave.

        Raises:
            ConfigurationError: It was taken of a program with other settings; names what differs.
            ProgramError: This program runs already.
        """
        if self._has_started:
            raise ProgramError(f"Program {self.program_id!r} has run already: resume a new one.")
        check_snapshot(snapshot, self._identify())
        self._journal.restore(snapshot, self.program_id)
        return self

    def _identify(self) -> dict[str, Any]:
        return {
            "program": self.name,
            "unit": self.knob.unit,
            "budget": self._asked_budget,
            "settings": self._settings,
        }

    def _ask(self, policy: AllocationPolicy) -> Decision:
        decision = policy.allocate(self.knob, self.trace)
        left = self.knob.maximum - self.num_granted
        if decision.units > left:
            raise ProgramError(
                f"Policy {policy.name!r} granted {self.knob.describe(decision.units)} but at most {left} are left "
                f"of {self.knob.maximum}."
            )
        return decision

    def _execute_and_account(self, grant: int) -> Flow:
        """Run `execute`, count every completion, and cancel what it leaves in flight.

        Each request remembers how deep the program was when it was sent: its tokens had to wait for all
        that was seen before, which gives the longest chain of sequential tokens.
        """
        depth_at_start: dict[RequestKey, int] = {}
        execution = self.execute(grant)
        completion: Completion | None = None
        while True:
            try:
                commands = next(execution) if completion is None else execution.send(completion)
            except StopIteration:
                break
            self._note_commands(commands, depth_at_start)
            completion = yield commands
            self._account(completion, depth_at_start)
        if depth_at_start:
            completion = yield (Cancel(keys=tuple(depth_at_start)),)
            self._account(completion, depth_at_start)
        while depth_at_start:
            completion = yield ()
            self._account(completion, depth_at_start)

    def _note_commands(self, commands: tuple[Command, ...], depth_at_start: dict[RequestKey, int]) -> None:
        for command in commands:
            if isinstance(command, Cancel):
                continue
            if command.key in depth_at_start:
                raise ProgramError(
                    f"Request {command.key.request_id!r} of {self.program_id!r} is in flight already."
                )
            depth_at_start[command.key] = self._depth
        if not depth_at_start:
            raise ProgramError(f"Program {self.program_id!r} waits for a completion with nothing in flight.")

    def _account(self, completion: Completion, depth_at_start: dict[RequestKey, int]) -> None:
        started = depth_at_start.pop(completion.key)
        self._depth = max(self._depth, started + completion.usage.net_tokens)
        self.usage = self.usage + completion.usage
        self.num_failed += completion.finish_reason is FinishReason.FAILED

    def _record(self, units: int) -> GrantRecord:
        return GrantRecord(
            units=units,
            total=self.num_granted + units,
            certaindex=self.certaindex,
            usage=self.usage,
            sequential_tokens=self._depth,
            groups=self.list_groups(),
        )

    def _build_answer(self, decision: Decision) -> Answer:
        assert decision.stop_reason is not None  # Decision checks that a denial has one
        paths = self.list_paths()
        is_spent = decision.stop_reason is StopReason.BUDGET
        return Answer(
            text=self.select_answer(),
            certaindex=self.certaindex,
            trace=Trace(self.trace, paths=paths),
            stop_reason=decision.stop_reason,
            explanation=decision.explanation + (self._budget_note if is_spent else ""),
            usage=self.usage,
            sequential_tokens=self._depth,
            budget=self.knob.maximum,
            unit=self.knob.unit,
            num_failed=self.num_failed,
            votes=self.list_votes(),
            paths=paths,
        )


__all__ = ["DEFAULT_INSTRUCTION", "Flow", "ProgramFlow", "ReasoningProgram", "derive_seed"]
