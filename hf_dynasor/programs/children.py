"""Several programs inside one: their flows run side by side in a parent's `execute`, completions routed by key.

    group = ChildGroup(parent.key, children)
    outcomes = yield from run_children(group, decide)

Each child asks its own policy and knows nothing of the others. To an engine and a driver all requests are the
parent's, so its account counts them, and returning cancels them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeAlias

from hf_dynasor.core import Cancel, Command, Completion, RequestKey, Usage
from hf_dynasor.errors import ConfigurationError, HFDynasorError
from hf_dynasor.grants import AllocationPolicy, Answer, Decision, GrantRecord, Knob, StopReason
from hf_dynasor.program import ProgramFlow, ReasoningProgram

Decider: TypeAlias = Callable[[str], Iterable[str]]
"""Told which child has just moved; returns the names of children to give up, now or none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantAll:
    """The policy of a child whose parent decides: its whole knob at once."""

    name: str = "all"

    def allocate(self, knob: Knob, trace: Sequence[GrantRecord]) -> Decision:
        """What is left of the knob."""
        left = knob.maximum - (trace[-1].total if trace else 0)
        if left:
            return Decision(units=left)
        words = f"the budget of {knob.describe(knob.maximum)} is spent"
        return Decision(units=0, stop_reason=StopReason.BUDGET, explanation=words)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildOutcome:
    """How a child ended.

    Args:
        answer: Its answer; `None` where it was given up or failed.
        error: What ended it, if it failed.
        is_given_up: Whether the parent gave it up.
    """

    answer: Answer | None = None
    error: HFDynasorError | None = None
    is_given_up: bool = False


class ChildGroup:
    """The children of one parent while they run. It sends nothing itself: it turns their commands into the parent's.

    Args:
        make_key: The parent's `key`.
        children: Programs that have not run yet, with their policies, by names of their own.

    Raises:
        ConfigurationError: No child, or a name with a `/`.
    """

    def __init__(
        self,
        make_key: Callable[[str], RequestKey],
        children: Mapping[str, tuple[ReasoningProgram, AllocationPolicy]],
    ) -> None:
        if not children or any(not name or "/" in name for name in children):
            raise ConfigurationError(
                f"Got children named {list(children)} but expected at least one, and names without '/'."
            )
        self._make_key = make_key
        self._programs = {name: program for name, (program, _) in children.items()}
        self._flows: dict[str, ProgramFlow] = {
            name: program.flow(policy) for name, (program, policy) in children.items()
        }
        self._in_flight: dict[RequestKey, tuple[str, RequestKey]] = {}
        self._told = {name: Usage() for name in children}
        self._extra = {name: Usage() for name in children}
        self.outcomes: dict[str, ChildOutcome] = {}

    @property
    def is_waiting(self) -> bool:
        """Whether any request is in flight."""
        return bool(self._in_flight)

    def start(self) -> tuple[Command, ...]:
        """The first commands of all children, in their order."""
        return tuple(command for name in self._flows for command in self._step(name, None))

    def deliver(self, completion: Completion) -> tuple[str, tuple[Command, ...]]:
        """Hand a completion to the child that waits for it; returns its name and what it wants next."""
        name, key = self._in_flight.pop(completion.key)
        if name in self.outcomes:  # given up, or failed: nobody wants it
            return name, ()
        self._told[name] += completion.usage
        return name, self._step(name, replace(completion, key=key))

    def give_up(self, names: Iterable[str]) -> tuple[Command, ...]:
        """End children that still run; their requests are cancelled."""
        keys: list[RequestKey] = []
        for name in names:
            if name not in self.outcomes:
                self._flows[name].close()
                self.outcomes[name] = ChildOutcome(is_given_up=True)
                keys += self._list_keys(name)
        return (Cancel(keys=tuple(keys)),) if keys else ()

    def take_extra(self) -> Usage:
        """Tokens that children counted besides their completions (forced ones, suffixes) since the last call."""
        extra = Usage()
        for name, program in self._programs.items():
            counted = _subtract(program.usage, self._told[name])
            extra += _subtract(counted, self._extra[name])
            self._extra[name] = counted
        return extra

    def _step(self, name: str, completion: Completion | None) -> tuple[Command, ...]:
        flow = self._flows[name]
        try:
            commands = next(flow) if completion is None else flow.send(completion)
        except StopIteration as stop:
            self.outcomes[name] = ChildOutcome(answer=stop.value)
            return ()
        except HFDynasorError as error:
            self.outcomes[name] = ChildOutcome(error=error)
            keys = self._list_keys(name)
            return (Cancel(keys=keys),) if keys else ()
        return tuple(self._adopt(name, command) for command in commands)

    def _adopt(self, name: str, command: Command) -> Command:
        """A child's command under the parent's name."""
        if isinstance(command, Cancel):
            return Cancel(keys=tuple(self._rename(name, key) for key in command.keys))
        key = self._rename(name, command.key)
        self._in_flight[key] = (name, command.key)
        return replace(command, key=key)

    def _rename(self, name: str, key: RequestKey) -> RequestKey:
        return self._make_key(f"{name}/{key.request_id}")

    def _list_keys(self, name: str) -> tuple[RequestKey, ...]:
        return tuple(key for key, (owner, _) in self._in_flight.items() if owner == name)


def run_children(
    group: ChildGroup, decide: Decider | None = None
) -> Generator[tuple[Command, ...], Completion, dict[str, ChildOutcome]]:
    """Run children side by side until each has ended or was given up, and everything in flight has come back.

    Args:
        group: The children.
        decide: Asked after each completion which children to give up.

    Returns:
        How each child ended, by name.
    """
    commands = group.start()
    while group.is_waiting:
        completion = yield commands
        name, commands = group.deliver(completion)
        if decide is not None:
            commands += group.give_up(decide(name))
    return group.outcomes


def _subtract(usage: Usage, other: Usage) -> Usage:
    return Usage(
        **{item.name: getattr(usage, item.name) - getattr(other, item.name) for item in fields(Usage)}
    )
