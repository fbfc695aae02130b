"""What a scheduling policy sees: frozen views of programs and requests, and a snapshot of all of them.

A view holds a program as of the last thing that happened to it. It changes by events (a branch ended, a reading
came), never by the mere passing of tokens, so a rank made from it stays true until the next event of the program.
"""

from __future__ import annotations

from dataclasses import dataclass

from hf_dynasor.core import RequestKey
from hf_dynasor.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramSpec:
    """What is said of a program when it arrives.

    Args:
        program_id: Its name among the programs of an engine.
        kind: What sort of program it is (algorithm and dataset): estimates are shared within a kind.
        planned_units: Units of its knob that it may be granted in all.
        deadline: When it should have ended, in seconds of the scheduler's clock; `None` for never.
        priority: Higher goes first.
        tenant: Whose it is.
        weight: What its waiting costs against others', above 0: a weight of 2 stands before one of 1 that has
            as much work left, and the policy `fair` gives the tenant twice the share.
    """

    program_id: str
    kind: str = "program"
    planned_units: int = 1
    deadline: float | None = None
    priority: int = 0
    tenant: str = ""
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.planned_units < 1:
            raise ConfigurationError(f"Got {self.planned_units = } but expected at least 1.")
        if not 0 < self.weight < float("inf"):
            raise ConfigurationError(f"Got {self.weight = } but expected a finite number above 0.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSpec:
    """What is said of a request when it is submitted.

    Args:
        key: Names it; its program is `key.program_id`.
        prompt_tokens: Tokens of its prompt.
        shared_tokens: Leading tokens of the prompt that all requests of its program share; `None` for all.
        max_tokens: Most tokens that it generates.
        units: Units of the program's knob that it is.
    """

    key: RequestKey
    prompt_tokens: int
    shared_tokens: int | None = None
    max_tokens: int = 512
    units: int = 1

    def __post_init__(self) -> None:
        if self.prompt_tokens < 1 or self.max_tokens < 1 or self.units < 0:
            raise ConfigurationError(
                f"Got {self.prompt_tokens = }, {self.max_tokens = } and {self.units = } "
                "but expected at least 1, 1 and 0."
            )
        if self.shared_tokens is not None and not 0 <= self.shared_tokens <= self.prompt_tokens:
            raise ConfigurationError(
                f"Got {self.shared_tokens = } but expected 0 to {self.prompt_tokens = }, or None for all."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramView:
    """One program as a policy sees it.

    Args:
        program_id, kind, deadline, priority, tenant, weight: As it was submitted.
        serial: Its place in the order of arrival; no two programs share one.
        arrived_at: Seconds.
        num_waiting: Its requests that are not running.
        num_running: Its requests that are.
        num_unfinished: Units of its knob that are expected still to be spent.
        remaining_tokens: Estimate of the tokens that it will still generate.
        remaining_steps: Estimate of the steps that it needs at least, waves one after another.
        step_seconds: Duration of a step of the engine of late; 0 where none was seen.
        has_started: Whether any of its requests ever ran.
        waiting_since: Since when the one of its requests that waits longest has waited; `None` if none waits.
        aged_at: When it was raised for waiting too long; `None` if it was not. Once raised it stays so.
        fair_tag: Its start in the virtual time of weighted fair queueing.
    """

    program_id: str
    serial: int
    kind: str = "program"
    tenant: str = ""
    weight: float = 1.0
    priority: int = 0
    arrived_at: float = 0.0
    deadline: float | None = None
    num_waiting: int = 0
    num_running: int = 0
    num_unfinished: float = 0.0
    remaining_tokens: float = 0.0
    remaining_steps: float = 0.0
    step_seconds: float = 0.0
    has_started: bool = False
    waiting_since: float | None = None
    aged_at: float | None = None
    fair_tag: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestView:
    """One request as a policy sees it.

    Args:
        key: Names it.
        serial: Its place in the order of submission; no two requests share one.
        submitted_at: Seconds.
        cached_tokens: Leading tokens of its prompt whose keys and values are in memory.
        is_running: Whether it was in the last step.
        is_paused: Whether it ran before and keeps its memory while it waits.
    """

    key: RequestKey
    serial: int
    submitted_at: float = 0.0
    cached_tokens: int = 0
    is_running: bool = False
    is_paused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything that waits or runs at one time. The order of the tuples carries no meaning."""

    now: float
    programs: tuple[ProgramView, ...]
    requests: tuple[RequestView, ...]


__all__ = ["ProgramSpec", "ProgramView", "RequestSpec", "RequestView", "Snapshot"]
