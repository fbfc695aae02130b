"""`hf-dynasor serve`: the HTTP server over one model."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from hf_dynasor.cli.api_keys import API_KEY_VARIABLE, read_api_keys
from hf_dynasor.cli.backends import check_backend_options, find_backend_model, open_backend
from hf_dynasor.cli.options import add_model_options, add_program_options, make_recipe, positive
from hf_dynasor.cli.replicas import add_replica_options, serve_replicas
from hf_dynasor.cli.shards import add_shard_options, ending_with_group, follow_driver, load_served_model
from hf_dynasor.errors import MissingExtraError

EPILOG = f"""\
examples:
  hf-dynasor serve
  hf-dynasor serve --model Qwen/Qwen3-0.6B --port 9000
  hf-dynasor serve --policy calibrated.json --budget 20
  hf-dynasor serve --api-key-file keys.txt --requests-per-minute 600
  hf-dynasor serve --backend http://127.0.0.1:8001/v1 --port 8000

Without --model it serves the embedded model, and with --backend another server's. It listens on loopback unless --host
says otherwise. API keys come from --api-key-file (a line each, with the tenant that the key stands for and its weight, if
any) or from the variable {API_KEY_VARIABLE}; never from the command line, where other users of the machine could read
them. SIGTERM lets running requests finish; a second signal ends them."""


def add_serve_options(parser: argparse.ArgumentParser) -> None:
    """The options of `serve`; those of the program are defaults that a request may change."""
    add_model_options(parser, waits=False)
    add_program_options(parser, prints=False)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: loopback)")
    parser.add_argument("--port", type=int, default=8000, help="port; 0 takes a free one (default: 8000)")
    parser.add_argument("--served-model-name", metavar="NAME", help="what clients call the model")
    parser.add_argument("--max-running", type=positive, default=256, help="choices in the engine at once")
    parser.add_argument("--max-waiting", type=positive, default=512, help="requests that may wait; then 429")
    parser.add_argument("--max-body-bytes", type=positive, default=4 * 2**20, help="largest request body")
    parser.add_argument("--request-timeout", type=float, default=600.0, metavar="S", help="then 504")
    parser.add_argument("--drain-timeout", type=float, default=30.0, metavar="S", help="after SIGTERM")
    parser.add_argument(
        "--job-store", metavar="FILE", help="keeps /v1/programs and batches across restarts (default: memory)"
    )
    parser.add_argument(
        "--api-key-file",
        metavar="FILE",
        help="keys that clients must show, a line each: KEY [TENANT [WEIGHT]]",
    )
    parser.add_argument("--requests-per-minute", type=positive, help="limit for each key")
    parser.add_argument("--max-concurrent-per-key", type=positive, help="requests of one key in flight")
    parser.add_argument("--allowed-origin", action="append", default=[], help="browser origin; repeatable")
    parser.add_argument("--tls-certificate", metavar="FILE", help="for HTTPS, with --tls-key")
    parser.add_argument("--tls-key", metavar="FILE", help="for HTTPS, with --tls-certificate")
    add_shard_options(parser)
    add_replica_options(parser)
    parser.set_defaults(run=run_serve)


def run_serve(arguments: argparse.Namespace) -> int:
    """Load the model, listen, serve until a signal."""
    keys = read_api_keys(arguments.api_key_file)
    try:
        from hf_dynasor.serving.http.app import create_app
        from hf_dynasor.serving.http.job_store import SqliteJobStore
        from hf_dynasor.serving.http.run import run_server
        from hf_dynasor.serving.http.settings import ServerSettings
        from hf_dynasor.serving.http.tracing_setup import open_tracer
    except ImportError as error:
        raise MissingExtraError(
            f"The server needs the package {error.name!r}: pip install 'hf-dynasor[serve]'."
        ) from None
    from hf_dynasor.serving.http.model_info import ServedModel

    settings = ServerSettings(**read_settings(arguments, keys))
    if arguments.replicas > 1:
        return serve_replicas(arguments, settings, choose_reward(arguments))
    _log_to_stderr()
    capacity, group = None, None
    if check_backend_options(arguments):
        loaded, name, capacity = find_backend_model(arguments)
    else:
        loaded, group = load_served_model(arguments)
        name = loaded.name
    if group is not None and not group.is_driver:
        return follow_driver(loaded, group)
    store = SqliteJobStore(arguments.job_store or ":memory:")
    states: list[Any] = []
    engine = _make_engine(loaded, arguments, settings.restart_delay_s, states)
    stack = ExitStack()
    try:
        model = ServedModel(loaded, settings.model_name or name, int(time.time()), capacity)
        tracer = stack.enter_context(open_tracer())
        app = create_app(engine, model, settings, store=store, tracer=tracer)
        states.append(app.state)
        with ending_with_group(engine, group):
            run_server(
                app,
                settings,
                host=arguments.host,
                port=arguments.port,
                tls_certificate=arguments.tls_certificate,
                tls_key=arguments.tls_key,
                on_ready=lambda address: print(f"{engine.name} serves {model.name} on {address}", flush=True),
            )
    finally:
        engine.close()
        stack.close()
    if group is not None:
        group.leave()
    return 0


def _make_engine(loaded: Any, arguments: argparse.Namespace, delay_s: float, states: list[Any]) -> Any:
    """The engine of a server, replaced when it dies; that of a shard group ends with the group."""
    from hf_dynasor.serving.http.supervisor import SupervisedEngine
    from hf_dynasor.serving.serve_engine import make_serving_engine

    make: Callable[[], Any] = partial(
        make_serving_engine,
        loaded,
        arguments.engine,
        scheduler=arguments.scheduler,
        reward=choose_reward(arguments),
        reward_kind=arguments.reward_kind,
    )
    if arguments.backend is not None:
        make = partial(open_backend, arguments, tokenizer=loaded)

    def note_restart() -> None:
        for state in states:
            if hasattr(state, "server"):  # there once the server's loop runs
                state.server.metrics.engine_restarts.inc()

    if loaded.num_shards > 1:
        return make()
    return SupervisedEngine(make, delay_s=delay_s, on_restart=note_restart)


def read_settings(arguments: argparse.Namespace, keys: dict[str, Any]) -> dict[str, Any]:
    """What of the options `ServerSettings` holds, with what `read_api_keys` found."""
    return {
        "model_name": arguments.served_model_name,
        "max_running": arguments.max_running,
        "max_waiting": arguments.max_waiting,
        "max_body_bytes": arguments.max_body_bytes,
        "request_timeout_s": arguments.request_timeout,
        "drain_timeout_s": arguments.drain_timeout,
        **keys,
        "requests_per_minute": arguments.requests_per_minute,
        "max_concurrent_per_key": arguments.max_concurrent_per_key,
        "allowed_origins": tuple(arguments.allowed_origin),
        "recipe": make_recipe(arguments),
    }


def choose_reward(arguments: argparse.Namespace) -> str | None:
    """What rates steps; the embedded model has a reward of its own."""
    is_embedded = arguments.model in (None, "embedded")
    asked: str | None = arguments.reward_model
    return "embedded" if asked == "auto" and is_embedded else asked


def _log_to_stderr() -> None:
    """Our own records, one a line; other libraries keep their own levels."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("hf_dynasor")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
