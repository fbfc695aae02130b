"""What a server is told when it starts: its limits, its keys, its defaults. Checked as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hf_dynasor.errors import ConfigurationError
from hf_dynasor.recipe import Recipe

_AT_LEAST_ONE = (
    "max_running",
    "max_waiting",
    "max_body_bytes",
    "max_choices",
    "max_prompts",
    "max_stop_strings",
    "max_programs_kept",
    "max_programs",
    "max_responses_kept",
    "max_response_characters",
)
_ABOVE_ZERO = ("request_timeout_s", "program_timeout_s", "drain_timeout_s", "keep_alive_s", "restart_delay_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """On whose behalf requests come: those of one tenant are weighed together against the others'.

    Args:
        name: Tells tenants apart.
        weight: What its waiting counts, above 0: `fair` gives a tenant of weight 2 twice the share of one of 1.
    """

    name: str = ""
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise ConfigurationError(
                f"Got {self.weight = } of tenant {self.name!r} but expected a finite number above 0."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How a server behaves, whatever its model.

    Args:
        model_name: What clients call the model; by default the engine's.
        max_running: Most requests (each choice counts) that the engine holds at once.
        max_waiting: Most HTTP requests that wait for room; the next one gets 429 with Retry-After.
        max_body_bytes: Largest request body.
        max_choices: Largest `n`.
        max_prompts: Most prompts in one completions request.
        max_stop_strings: Most stop strings in one request.
        max_programs_kept: Finished programs that `/v1/programs` remembers; the oldest are forgotten first.
        max_programs: Programs of `/v1/programs` and batches that run at once.
        max_responses_kept: Responses that `/v1/responses` remembers; the oldest are forgotten first.
        max_response_characters: Most characters of all of them together, their conversations included.
        program_timeout_s: Seconds that one of those may take.
        request_timeout_s: Seconds after which a request is cancelled and answered with 504.
        drain_timeout_s: Seconds that running requests get to finish after SIGTERM.
        keep_alive_s: Seconds of silence after which a stream sends a comment.
        restart_delay_s: Seconds before a dead engine is started again; doubled with each failure, at most 60.
        api_keys: Keys that clients must show as `Authorization: Bearer KEY`; none leaves the server open.
        tenants: Whose each key is; a key that is not here is a tenant of its own, of weight 1.
        requests_per_minute: Limit for each key (or, without keys, each address); `None` sets none.
        max_concurrent_per_key: Requests that one key may have in flight; `None` sets none.
        allowed_origins: Browser origins that may call the server; none by default.
        recipe: Defaults of programs that a request starts.
    """

    model_name: str | None = None
    max_running: int = 256
    max_waiting: int = 512
    max_body_bytes: int = 4 * 2**20
    max_choices: int = 128
    max_prompts: int = 128
    max_stop_strings: int = 16
    max_programs_kept: int = 1000
    max_programs: int = 16
    max_responses_kept: int = 1000
    max_response_characters: int = 64 * 2**20
    program_timeout_s: float = 3600.0
    request_timeout_s: float = 600.0
    drain_timeout_s: float = 30.0
    keep_alive_s: float = 15.0
    restart_delay_s: float = 1.0
    api_keys: tuple[str, ...] = ()
    tenants: Mapping[str, Tenant] = field(default_factory=dict)
    requests_per_minute: int | None = None
    max_concurrent_per_key: int | None = None
    allowed_origins: tuple[str, ...] = ()
    recipe: Recipe = field(default_factory=Recipe)

    def __post_init__(self) -> None:
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ConfigurationError(f"Got {name} = {getattr(self, name)} but expected at least 1.")
        for name in _ABOVE_ZERO:
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"Got {name} = {getattr(self, name)} but expected seconds above 0.")
        for name in ("requests_per_minute", "max_concurrent_per_key"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigurationError(
                    f"Got {name} = {value} but expected at least 1, or None for no limit."
                )
        for name in ("api_keys", "allowed_origins"):
            if isinstance(getattr(self, name), str):  # each of its letters would be one
                raise ConfigurationError(f"Got one text as {name} but expected a list of texts.")
        if any(not key.strip() for key in self.api_keys):
            raise ConfigurationError("Got an empty API key. Remove it, or give it some characters.")
        if unknown := len(set(self.tenants) - set(self.api_keys)):
            raise ConfigurationError(
                f"Got tenants for {unknown} keys that are not among api_keys. Add the keys, or leave the tenants out."
            )

    def find_weight(self, tenant: str) -> float:
        """The weight of a tenant by its name; 1 for one that is unknown."""
        return next((each.weight for each in self.tenants.values() if each.name == tenant), 1.0)
