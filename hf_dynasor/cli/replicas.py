"""`hf-dynasor serve --replicas K`: several servers behind one address, through Ray Serve."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from hf_dynasor.cli.options import positive
from hf_dynasor.errors import ConfigurationError, MissingExtraError
from hf_dynasor.scheduler.routing import ROUTING_POLICIES

if TYPE_CHECKING:
    from hf_dynasor.serving.http.settings import ServerSettings


def add_replica_options(parser: argparse.ArgumentParser) -> None:
    """How many servers there are, and who goes where."""
    group = parser.add_argument_group("several servers behind one address (docs/scale.md)")
    group.add_argument(
        "--replicas",
        type=positive,
        default=1,
        metavar="K",
        help="servers, each with a model of its own; needs Ray",
    )
    group.add_argument(
        "--max-replicas", type=positive, metavar="K", help="add servers up to so many while programs wait"
    )
    known = ", ".join(sorted(ROUTING_POLICIES))
    group.add_argument(
        "--routing",
        default="least_cost",
        help=f"which of them takes a program: {known} (default: least_cost)",
    )


def serve_replicas(arguments: argparse.Namespace, settings: ServerSettings, reward: str | None) -> int:
    """Start Ray and the replicas, serve until a signal.

    Raises:
        ConfigurationError: An option that replicas cannot have.
        MissingExtraError: Ray is not installed.
    """
    _check(arguments)
    from hf_dynasor.serving.replicas.local import prepare_ray, run_replicas

    prepare_ray()
    try:
        from hf_dynasor.serving.replicas.application import Scale, build_application
        from hf_dynasor.serving.replicas.replica import ModelChoice
    except ImportError as error:
        raise MissingExtraError(
            f"Replicas need the package {error.name!r}: pip install 'hf-dynasor[ray,serve]'."
        ) from None
    choice = ModelChoice(
        model=arguments.model,
        engine=arguments.engine,
        scheduler=arguments.scheduler,
        dtype=arguments.dtype,
        device=arguments.device,
        reward=reward,
        reward_kind=arguments.reward_kind,
    )
    # On one machine the replicas share its processors, however many there are.
    scale = Scale(
        replicas=arguments.replicas,
        max_replicas=arguments.max_replicas,
        routing=arguments.routing,
        num_cpus=0,
    )
    application = build_application(choice, settings, scale, job_store=arguments.job_store)
    name = settings.model_name or arguments.model
    run_replicas(
        application,
        host=arguments.host,
        port=arguments.port,
        on_ready=lambda address: print(
            f"{arguments.replicas} replicas serve {name} on {address}", flush=True
        ),
    )
    return 0


def _check(arguments: argparse.Namespace) -> None:
    refused = {
        "--tensor-parallel": arguments.tensor_parallel > 1,
        "--device-map": arguments.device_map is not None,
        "--backend": getattr(arguments, "backend", None) is not None,
        "--tls-certificate": arguments.tls_certificate is not None,
        "--tls-key": arguments.tls_key is not None,
    }
    for option, is_there in refused.items():
        if is_there:
            raise ConfigurationError(
                f"Got {option} with --replicas {arguments.replicas}, which it does not go with here (docs/scale.md). "
                "Leave one of them out."
            )


__all__ = ["add_replica_options", "serve_replicas"]
