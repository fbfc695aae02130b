"""What a scheduler is allowed and what it decides: limits, and the plan of one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hf_dynasor.core import RequestKey
from hf_dynasor.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one step may use, and how much may queue.

    Args:
        max_requests: Most requests that run in a step.
        max_tokens: Most tokens that a step computes: one for each decoding request, the rest for prompts. At least
            `max_requests`, so that whoever has a place can decode.
        num_blocks: Blocks of keys and values; `None` where the engine keeps its own account of them.
        page_size: Tokens of a block.
        headroom_steps: Steps for which what runs must have room to grow before another request starts. Too few,
            and requests start only to lose their memory again.
        max_waiting: Most requests that wait.
        max_idle_s: Seconds after which a program without any request is forgotten, though nobody said it ended.
    """

    max_requests: int = 256
    max_tokens: int = 2048
    num_blocks: int | None = None
    page_size: int = 16
    headroom_steps: int = 64
    max_waiting: int = 1_000_000
    max_idle_s: float = 3600.0

    def __post_init__(self) -> None:
        for name in ("max_requests", "max_tokens", "page_size", "max_waiting"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"Got {name} = {getattr(self, name)} but expected at least 1.")
        if self.max_tokens < self.max_requests:
            raise ConfigurationError(
                f"Got {self.max_tokens = } but expected at least {self.max_requests = }: each takes a token."
            )
        if self.num_blocks is not None and self.num_blocks < 1:
            raise ConfigurationError(f"Got {self.num_blocks = } but expected at least 1, or None.")
        if self.headroom_steps < 0 or self.max_idle_s <= 0:
            raise ConfigurationError(
                f"Got {self.headroom_steps = } and {self.max_idle_s = } but expected at least 0 and more than 0 s."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillChunk:
    """Prompt tokens of one request that a step computes.

    Args:
        key: The request.
        num_tokens: Tokens of the chunk.
        is_last: Whether the prompt is complete with it; then the step also yields the request's next token.
    """

    key: RequestKey
    num_tokens: int
    is_last: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """What the next step runs. It holds for `max_steps` steps unless something is told to the scheduler before.

    Args:
        decode: Requests that generate one token each.
        prefill: Parts of prompts that are computed.
        started: Requests that get a place with this plan, in the order of their ranks.
        paused: Requests that lose theirs and keep their memory.
        dropped: Requests that lose their memory; what they had is computed again when they run again.
        evicted: Programs whose shared prompt leaves the memory.
        num_context_tokens: Tokens that the decoding requests look back at, in all.
        max_steps: Steps for which the plan holds: 1 where a prompt is computed, else until memory runs short.
        valid_until: Time until which it holds, in seconds.
    """

    decode: tuple[RequestKey, ...] = ()
    prefill: tuple[PrefillChunk, ...] = ()
    started: tuple[RequestKey, ...] = ()
    paused: tuple[RequestKey, ...] = ()
    dropped: tuple[RequestKey, ...] = ()
    evicted: tuple[str, ...] = ()
    num_context_tokens: int = 0
    max_steps: int = 1
    valid_until: float = float("inf")

    @property
    def num_prefill_tokens(self) -> int:
        """Prompt tokens that are computed."""
        return sum(chunk.num_tokens for chunk in self.prefill)

    @property
    def num_tokens(self) -> int:
        """Tokens that are computed."""
        return len(self.decode) + self.num_prefill_tokens

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to run."""
        return not self.decode and not self.prefill

    def to_dict(self) -> dict[str, Any]:
        """The decisions, ready for JSON; empty ones are left out."""
        row: dict[str, Any] = {
            "decode": [_write(key) for key in self.decode],
            "prefill": [[_write(chunk.key), chunk.num_tokens] for chunk in self.prefill],
            "started": [_write(key) for key in self.started],
            "paused": [_write(key) for key in self.paused],
            "dropped": [_write(key) for key in self.dropped],
            "evicted": list(self.evicted),
        }
        return {name: value for name, value in row.items() if value}


def _write(key: RequestKey) -> list[str]:
    return [key.program_id, key.request_id]


__all__ = ["Limits", "PrefillChunk", "StepPlan"]
