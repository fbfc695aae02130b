"""The Ray Serve application: an ingress before replicas. Built from Python, or from a `serve` config file."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig
from starlette.requests import Request
from starlette.responses import Response

from hf_dynasor.errors import ConfigurationError, name_unknown
from hf_dynasor.recipe import Recipe
from hf_dynasor.scheduler.routing import make_routing_policy
from hf_dynasor.serving.http.settings import ServerSettings, Tenant
from hf_dynasor.serving.replicas.account import get_account
from hf_dynasor.serving.replicas.ingress import Ingress
from hf_dynasor.serving.replicas.ray_router import ProgramRouter
from hf_dynasor.serving.replicas.replica import ModelChoice, Replica, split_limits

_ONGOING = 100_000
"""Calls that Ray lets through to a replica at once: the server behind has a queue of its own, and says 429."""

_HANDOVER_S = 10.0
"""Seconds that an ingress outlives the longest request in an update. Ray kills it then without a word, and what it passes on
would be cut; it holds no model, so that it waits costs little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How many replicas there are, and who goes where.

    Args:
        replicas: How many; with `max_replicas` the fewest.
        max_replicas: The most, between which the number follows the backlog of programs; `None` keeps it.
        upscale_delay_s, downscale_delay_s: Seconds that the backlog must ask for more replicas, or for fewer, before
            there are.
        routing: The name of a routing policy.
        num_cpus, num_gpus: What Ray reserves for each replica, to place them.
        health_check_period_s: Seconds between two looks at a replica's health.
    """

    replicas: int = 2
    max_replicas: int | None = None
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0
    routing: str = "least_cost"
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    health_check_period_s: float = 5.0

    def __post_init__(self) -> None:
        make_routing_policy(self.routing)
        if self.replicas < 1 or (self.max_replicas is not None and self.max_replicas < self.replicas):
            raise ConfigurationError(
                f"Got {self.replicas = } and {self.max_replicas = } but expected 1 <= replicas <= max_replicas."
            )
        if min(self.upscale_delay_s, self.downscale_delay_s) < 0:
            raise ConfigurationError(
                f"Got {self.upscale_delay_s = } and {self.downscale_delay_s = } but expected seconds of at least 0."
            )


class IngressDeployment:
    """The ingress in a process of Ray's."""

    def __init__(self, replicas: Any, max_body_bytes: int, routing: str) -> None:
        handle = replicas.options(stream=True)
        account = get_account(serve.get_replica_context().app_name, routing)
        self._ingress = Ingress(
            handle.handle.remote, account, max_body_bytes=max_body_bytes, lost=(RayActorError,)
        )

    async def __call__(self, request: Request) -> Response:
        """One request."""
        return await self._ingress.answer(request)


def build_application(
    choice: ModelChoice | None = None,
    settings: ServerSettings | None = None,
    scale: Scale | None = None,
    *,
    job_store: str | None = None,
) -> Any:
    """The application, for `serve.run`.

    Args:
        choice: The model and its engine.
        settings: As of a single server; limits for each caller are divided among the replicas.
        scale: How many replicas.
        job_store: A file that the replicas share, for programs and batches.

    Raises:
        ConfigurationError: Without a file more than one replica could not tell of another's programs.
    """
    choice, settings, scale = choice or ModelChoice(), settings or ServerSettings(), scale or Scale()
    if job_store is None and (scale.max_replicas or scale.replicas) > 1:
        raise ConfigurationError(
            "Replicas share their programs and batches through a file. Name one: job_store=... (--job-store FILE)."
        )
    replicas = serve.deployment(Replica, name="Replica").options(
        **_count_replicas(scale),
        max_ongoing_requests=_ONGOING,
        ray_actor_options={"num_cpus": scale.num_cpus, "num_gpus": scale.num_gpus},
        health_check_period_s=scale.health_check_period_s,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=1,
        graceful_shutdown_timeout_s=settings.drain_timeout_s,
        request_router_config=RequestRouterConfig(
            request_router_class=ProgramRouter, request_router_kwargs={"routing": scale.routing}
        ),
    )
    bound = replicas.bind(choice, split_limits(settings, scale.replicas), job_store)
    ingress = serve.deployment(IngressDeployment, name="Ingress").options(
        max_ongoing_requests=_ONGOING,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=settings.request_timeout_s + _HANDOVER_S,
        **_let_successor_overlap(),
    )
    return ingress.bind(bound, settings.max_body_bytes, scale.routing)


def from_config(arguments: Mapping[str, Any]) -> Any:
    """The application of a `serve` config file: `import_path: hf_dynasor.serving.replicas.application:from_config`.

    Args:
        arguments: `model` (fields of `ModelChoice`), `settings` (of `ServerSettings`), `recipe` (of `Recipe`), `scale`
            (of `Scale`), each a mapping, and `job_store`. `settings.tenants` maps keys to fields of `Tenant`.

    Raises:
        ConfigurationError: A section or a field is unknown.
    """
    known = ("model", "settings", "recipe", "scale", "job_store")
    for name in arguments:
        if name not in known:
            raise name_unknown("section", name, known)
    choice: ModelChoice = _read(ModelChoice, arguments.get("model"))
    recipe: Recipe = _read(Recipe, arguments.get("recipe"))
    settings = _read_settings(arguments.get("settings") or {}, recipe)
    scale: Scale = _read(Scale, arguments.get("scale"))
    return build_application(choice, settings, scale, job_store=arguments.get("job_store"))


def _read_settings(section: Mapping[str, Any], recipe: Recipe) -> ServerSettings:
    """Settings whose lists and mappings are YAML's own."""
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in section.items()}
    tenants = {key: _read(Tenant, told) for key, told in (section.get("tenants") or {}).items()}
    found: ServerSettings = _read(ServerSettings, {**values, "tenants": tenants, "recipe": recipe})
    return found


def _read(kind: Any, section: Mapping[str, Any] | None) -> Any:
    names = {field.name for field in fields(kind)}
    for name in section or {}:
        if name not in names:
            raise name_unknown(f"field of {kind.__name__}", name, names)
    return kind(**(section or {}))


def _let_successor_overlap() -> dict[str, Any]:
    """Have an update start the next ingress before the last one ends; Ray before 2.60 lets requests wait meanwhile."""
    is_known = "max_surge_percent" in inspect.signature(serve.Deployment.options).parameters
    return {"max_surge_percent": 100} if is_known else {}


def _count_replicas(scale: Scale) -> dict[str, Any]:
    if scale.max_replicas is None:
        return {"num_replicas": scale.replicas}
    policy = AutoscalingPolicy(policy_function="hf_dynasor.serving.replicas.scaling:scale_by_backlog")
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=scale.replicas,
            max_replicas=scale.max_replicas,
            upscale_delay_s=scale.upscale_delay_s,
            downscale_delay_s=scale.downscale_delay_s,
            policy=policy,
        )
    }


__all__ = ["Scale", "build_application", "from_config"]
