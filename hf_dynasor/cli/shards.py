"""`hf-dynasor serve --tensor-parallel N`: one server over several processes that hold one model together."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hf_dynasor.cli.options import positive
from hf_dynasor.errors import ConfigurationError, EngineError

if TYPE_CHECKING:
    from hf_dynasor.engine import Engine
    from hf_dynasor.serving.shards import ShardGroup

logger = logging.getLogger(__name__)

HEALTH_CHECK_S = 0.5


def add_shard_options(parser: argparse.ArgumentParser) -> None:
    """How a model that one device does not hold is spread."""
    group = parser.add_argument_group("a model over several devices (docs/scale.md)")
    group.add_argument(
        "--tensor-parallel",
        type=positive,
        default=1,
        metavar="N",
        help="processes that split each layer; start them with torchrun or accelerate launch",
    )
    group.add_argument(
        "--device-map",
        choices=["auto"],
        help="spread whole layers over the devices of one process, for models without a tensor-parallel plan",
    )


def load_served_model(arguments: argparse.Namespace) -> tuple[Any, ShardGroup | None]:
    """The model, or this process's part of it, and its place in the group if it is split."""
    from hf_dynasor.serving.loading import load_model

    size = arguments.tensor_parallel
    group = _join(arguments, size) if size > 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1 else None
    loaded = load_model(
        arguments.model,
        dtype=arguments.dtype,
        device=arguments.device if group is None else group.device,
        device_map=arguments.device_map,
        tensor_parallel=size,
        quantization=arguments.quantization,
    )
    return loaded, group


def follow_driver(loaded: Any, group: ShardGroup) -> int:
    """Run the driver's steps; the driver alone hears of signals, drains, and ends the group."""
    from hf_dynasor.serving.shards import follow

    follow(loaded, on_start=_leave_signals_to_driver)
    group.leave()
    return 0


def _leave_signals_to_driver() -> None:
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)


@contextmanager
def ending_with_group(engine: Engine, group: ShardGroup | None) -> Iterator[None]:
    """Within it the server ends when the group does: an engine that lost a process cannot be made again.

    Raises:
        EngineError: The group ended before the server was told to.
    """
    if group is None:
        yield
        return
    # The server raises its signal again once it has drained; ending by it would hide the error and the exit code.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    done = threading.Event()
    threading.Thread(target=_watch, args=(engine, done), daemon=True).start()
    try:
        yield
    finally:
        done.set()
        if why := _find_death(engine):
            raise EngineError(f"The server ended with its shard group: {why}")


def _watch(engine: Engine, done: threading.Event) -> None:
    while not done.wait(HEALTH_CHECK_S):
        if why := _find_death(engine):
            logger.error("The server ends: %s", why)
            os.kill(os.getpid(), signal.SIGTERM)  # what was in flight has failed, so there is little to drain
            return


def _find_death(engine: Engine) -> str | None:
    try:
        engine.check_health()
    except EngineError as error:
        return str(error)
    return None


def end_at_once(error: BaseException | None) -> None:
    """End this process without the interpreter's farewells, which could wait for a process that is gone."""
    if error is not None:
        print(f"hf-dynasor: error: {error}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _join(arguments: argparse.Namespace, size: int) -> ShardGroup:
    from hf_dynasor.serving.shards import check_launched, join_group
    from hf_dynasor.serving.shards.group import watch_launcher

    check_launched(size)
    if arguments.engine == "generate":
        raise ConfigurationError(
            f"Got --engine generate with --tensor-parallel {size}: only continuous batching steps in several processes. "
            "Leave --engine out."
        )
    watch_launcher(_make_end())
    return join_group(size, device=arguments.device)


def _make_end() -> Callable[[], None]:
    return lambda: end_at_once(EngineError("The launcher of the shard group is gone."))


__all__ = ["add_shard_options", "end_at_once", "ending_with_group", "follow_driver", "load_served_model"]
