"""The engine protocol: what runs requests, wherever the model is.

An engine owns its threads. It takes requests at any time from any thread and reports on each through the
sink that came with it: any number of `TokenDelta`s if the request streams, then exactly one `Completion`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Protocol, TypeAlias, runtime_checkable

from hf_dynasor.core import Event, Prompt, Request, RequestKey, Score
from hf_dynasor.errors import UnsupportedError

Sink: TypeAlias = Callable[[Event], None]


class Ability(str, Enum):
    """What not every engine can do. Asking for one that is not declared is an error."""

    SEEDS = "per-request seeds"
    LOGPROBS = "log-probabilities"
    SCORE = "reward scores"
    PREFIX_REUSE = "prefix reuse"
    STREAM = "streaming"
    HIDDEN_STATES = "hidden states"


@runtime_checkable
class Engine(Protocol):
    """Runs requests and reports on each exactly once.

    `sink` is called from the engine's own thread (or from inside `submit`): it must return at once and must
    not call the engine back. A sink that hands events to a queue is right.
    """

    @property
    def name(self) -> str:
        """What it is, for messages and records, such as `generate(reasoner)`."""
        ...

    @property
    def abilities(self) -> frozenset[Ability]:
        """What it can do besides generating."""
        ...

    def submit(self, requests: Sequence[Request], sink: Sink) -> None:
        """Take requests. All or none are taken.

        Raises:
            UnsupportedError: A request needs an ability that is not declared.
            ConfigurationError: A prompt cannot be encoded or does not fit, or a key is already in flight.
            EngineError: The engine is closed or dead.
        """
        ...

    def cancel(self, keys: Sequence[RequestKey]) -> None:
        """Ask requests to end soon; unknown or finished keys are ignored. Their completions still come."""
        ...

    def check_health(self) -> None:
        """Return if the engine works; raise `EngineError` with the cause if it died or was closed."""
        ...

    def close(self) -> None:
        """End everything in flight as cancelled, free the memory, join the threads. Safe to call twice."""
        ...


_REMEDIES = {
    Ability.SCORE: " Give it a reward model: make_engine(..., reward=...), Solver(..., reward=...), or --reward-model; "
    "'embedded' or 'likelihood' need no download."
}


def check_abilities(engine_name: str, abilities: Iterable[Ability], requests: Sequence[Request]) -> None:
    """Raise `UnsupportedError` for the first request that needs an ability which is not declared."""
    declared = frozenset(abilities)
    for request in requests:
        for ability in _list_needed_abilities(request):
            if ability not in declared:
                raise UnsupportedError(
                    f"{engine_name} has no {ability.value}, which request {request.key.request_id!r} asks for. "
                    f"It has: {', '.join(sorted(a.value for a in declared)) or 'no optional ability'}."
                    + _REMEDIES.get(ability, "")
                )


def _list_needed_abilities(request: Request) -> list[Ability]:
    if isinstance(request, Score):
        return [Ability.SCORE]
    needs = {
        Ability.SEEDS: request.sampling.seed is not None and request.sampling.temperature > 0,
        Ability.LOGPROBS: request.sampling.logprobs,
        Ability.STREAM: request.stream,
    }
    return [ability for ability, is_needed in needs.items() if is_needed]


@runtime_checkable
class ReportsProgress(Protocol):
    """An engine that shows whether it is at work, so that a driver can tell a slow engine from a stuck one."""

    @property
    def progress(self) -> int:
        """Grows whenever the engine got anything done, a part of a prompt included; never shrinks."""
        ...


@runtime_checkable
class MeasuresRoom(Protocol):
    """An engine that knows how much of its model's context a prompt leaves, so that a default budget can fit."""

    def count_room(self, prompt: Prompt) -> int | None:
        """Most tokens that may follow a prompt, at least 0; `None` where no limit is known.

        Raises:
            ConfigurationError: The prompt cannot be encoded.
        """
        ...


@runtime_checkable
class ReadsHiddenStates(Protocol):
    """An engine that hands out what its model's last layer holds (`Ability.HIDDEN_STATES`)."""

    def read_hidden_states(self, prompts: Sequence[Prompt]) -> list[tuple[float, ...]]:
        """The hidden state of each prompt's last token. Runs in the caller's thread, beside other requests.

        Raises:
            ConfigurationError: A prompt cannot be encoded or does not fit.
            EngineError: The engine is closed or dead.
        """
        ...
