"""A program's state as JSON: what it was made with, and every completion that it has seen.

A flow is a function of its program's settings, its policy and its completions in the order in which they came.
So a journal of completions is a whole state, in the middle of a grant too, and no program needs code of its own to
write or to read one: a fresh program of the same settings is fed the journal and stands where the old one stood.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from hf_dynasor.core import Cancel, Command, Completion, FinishReason, Request, RequestKey, Usage
from hf_dynasor.errors import ConfigurationError, ProgramError

SCHEMA = 1

_FIELDS = frozenset({"schema", "program", "label", "unit", "budget", "settings", "policy", "completions"})


def read_signature(cls: type) -> inspect.Signature:
    """What a class is made with; where it hands `**options` on, those of the class that it hands them to.

    Examples:
        >>> class Base:
        ...     def __init__(self, size=1): ...
        >>> class Derived(Base):
        ...     def __init__(self, colour="red", **options): ...
        >>> list(read_signature(Derived).parameters)
        ['self', 'colour', 'size']
    """
    makers = [vars(base)["__init__"] for base in cls.__mro__ if "__init__" in vars(base)]
    found: dict[str, inspect.Parameter] = {}
    for signature in map(inspect.signature, makers):
        own = dict(signature.parameters)
        rest = [name for name, item in own.items() if item.kind is inspect.Parameter.VAR_KEYWORD]
        found |= {name: item for name, item in own.items() if name not in found and name not in rest}
        if not rest:
            break
    return inspect.Signature(list(found.values()))


def describe_settings(cls: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, str]:
    """What an object is made with, by the names of its constructor's arguments, defaults included.

    Two objects with equal descriptions do the same; `label` is left out, since it names and changes nothing.

    Args:
        cls: The object's class.
        args, kwargs: What its constructor is given; `{}` where they do not fit (the constructor will say so).
    """
    try:
        bound = read_signature(cls).bind(None, *args, **kwargs)
    except TypeError:
        return {}
    bound.apply_defaults()
    _, *given = bound.arguments.items()
    return {name: describe_value(value) for name, value in given if name != "label"}


def describe_value(value: object) -> str:
    """A text that is the same for equal values in every process.

    Examples:
        >>> describe_value(len), describe_value((1, "a"))
        ('builtins.len', "(1, 'a')")
    """
    if inspect.isroutine(value) or inspect.isclass(value):
        return f"{value.__module__}.{value.__qualname__}"
    if is_dataclass(value) or type(value).__repr__ is not object.__repr__:
        return repr(value)
    return f"{type(value).__module__}.{type(value).__qualname__}"  # a bare repr holds an address


def completion_to_dict(completion: Completion) -> dict[str, Any]:
    """A completion, ready for JSON; fields that hold their default are left out, so is the program's id."""
    row: dict[str, Any] = {
        item.name: value
        for item in fields(completion)
        if item.name not in ("key", "usage") and (value := getattr(completion, item.name)) != item.default
    }
    usage = {item.name: value for item in fields(Usage) if (value := getattr(completion.usage, item.name))}
    return row | {
        "request_id": completion.key.request_id,
        "finish_reason": completion.finish_reason.value,
        "usage": usage,
    }


def completion_from_dict(row: Mapping[str, Any], program_id: str) -> Completion:
    """The completion that `completion_to_dict` wrote, for the program that reads it."""
    values = dict(row)
    values |= {name: _freeze(value) for name, value in values.items()}
    return Completion(
        **{
            name: value
            for name, value in values.items()
            if name not in ("request_id", "usage", "finish_reason")
        },
        key=RequestKey(program_id=program_id, request_id=values["request_id"]),
        finish_reason=FinishReason(values["finish_reason"]),
        usage=Usage(**values["usage"]),
    )


def check_snapshot(snapshot: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise if a snapshot was taken of another program than the one that is to go on from it.

    Args:
        snapshot: As `ReasoningProgram.snapshot` gives it.
        expected: The `program`, `unit`, `budget` and `settings` of the program that reads it.

    Raises:
        ConfigurationError: It is no snapshot, has another schema, or names what differs.
    """
    if not isinstance(snapshot, Mapping) or not set(snapshot) >= _FIELDS:
        raise ConfigurationError(
            f"Got no snapshot of a program: expected the fields {', '.join(sorted(_FIELDS))}."
        )
    if snapshot["schema"] != SCHEMA:
        raise ConfigurationError(
            f"Got a snapshot of schema {snapshot['schema']!r} but expected {SCHEMA}. "
            "Read it with the version of hf_dynasor that wrote it."
        )
    for name in ("program", "unit", "budget"):
        _check_same(name, snapshot[name], expected[name])
    for name in sorted({*snapshot["settings"], *expected["settings"]}):
        _check_same(name, snapshot["settings"].get(name), expected["settings"].get(name))


class Journal:
    """Every completion that one flow has seen, and those that it is to be fed first."""

    def __init__(self) -> None:
        self._completions: list[Completion] = []
        self._recorded: list[Completion] = []
        self._policy: str | None = None

    def append(self, completion: Completion) -> None:
        """Note what the flow is sent next."""
        self._completions.append(completion)

    def restore(self, snapshot: Mapping[str, Any], program_id: str) -> None:
        """Take over what a checked snapshot holds, for a program that has not begun."""
        self._recorded = [completion_from_dict(row, program_id) for row in snapshot["completions"]]
        self._policy = snapshot["policy"]

    def begin(self, policy: str) -> None:
        """Note the policy; raises `ConfigurationError` if the snapshot's program was granted its units by another."""
        if self._policy is not None:
            _check_same("policy", self._policy, policy)
        self._policy = policy

    def catch_up(self, flow: Generator[tuple[Command, ...], Completion, Any]) -> tuple[Command, ...]:
        """Begin a flow and feed it what is recorded; returns the first commands for an engine."""
        return catch_up(flow, self._recorded, self._completions) if self._recorded else next(flow)

    def to_dict(self) -> dict[str, Any]:
        """Its part of a snapshot."""
        is_behind = len(self._completions) < len(self._recorded)  # while it catches up, or before
        seen = list(self._recorded if is_behind else self._completions)
        return {
            "schema": SCHEMA,
            "policy": self._policy,
            "completions": [completion_to_dict(completion) for completion in seen],
        }


def catch_up(
    flow: Generator[tuple[Command, ...], Completion, Any],
    recorded: Sequence[Completion],
    journal: list[Completion],
) -> tuple[Command, ...]:
    """Feed a fresh flow the completions that an equal one has seen.

    What had been cancelled and not ended yet ends as cancelled here: nobody wants it, so it is not asked for again.

    Args:
        flow: Not begun yet; its `StopIteration` passes through where it ends on the way.
        recorded: In the order in which they came.
        journal: Gets each completion that the flow is sent.

    Returns:
        The requests that the flow waits for then.

    Raises:
        ProgramError: The flow has not asked for one of them.
    """
    waiting: dict[RequestKey, Request] = {}
    cancelled: set[RequestKey] = set()
    _note(next(flow), waiting, cancelled)
    for completion in recorded:
        if waiting.pop(completion.key, None) is None:
            raise ProgramError(
                f"The snapshot holds a completion of {completion.key.request_id!r}, which this program has not "
                "asked for. It was written by another version of the program, or changed."
            )
        journal.append(completion)
        _note(flow.send(completion), waiting, cancelled)
    while (key := next((key for key in waiting if key in cancelled), None)) is not None:
        del waiting[key]
        journal.append(Completion(key=key, finish_reason=FinishReason.CANCELLED))
        _note(flow.send(journal[-1]), waiting, cancelled)
    return tuple(waiting.values())


def _note(
    commands: tuple[Command, ...], waiting: dict[RequestKey, Request], cancelled: set[RequestKey]
) -> None:
    for command in commands:
        if isinstance(command, Cancel):
            cancelled.update(command.keys)
        else:
            waiting[command.key] = command


def _freeze(value: Any) -> Any:
    """JSON has lists where messages have tuples."""
    return tuple(_freeze(item) for item in value) if isinstance(value, list) else value


def _check_same(name: str, theirs: object, ours: object) -> None:
    if theirs != ours:
        raise ConfigurationError(
            f"Got a snapshot of a program with {name} = {theirs} but this one has {name} = {ours}. "
            "Make the program with the settings of the one that was written down."
        )
