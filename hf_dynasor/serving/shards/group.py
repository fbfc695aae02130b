"""The processes that hold one model together. The first of them drives; it alone serves HTTP."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as distributed
from accelerate import ParallelismConfig, PartialState

from hf_dynasor.errors import ConfigurationError, EngineError

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 120.0
"""Seconds that a process waits for the others: while they start, and within a forward."""

LAUNCHER_CHECK_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardGroup:
    """A process's place among those that hold one model.

    Args:
        rank: Its number; 0 drives.
        size: How many processes there are.
        device: Where this one's part of the model goes, such as `cpu` or `cuda:1`.
    """

    rank: int
    size: int
    device: str

    @property
    def is_driver(self) -> bool:
        """Whether this process serves, and decides for the others."""
        return self.rank == 0

    def leave(self) -> None:
        """End the connections, once all processes are done. Safe to call twice."""
        if distributed.is_initialized():
            distributed.destroy_process_group()


def check_launched(size: int) -> None:
    """Raise `ConfigurationError` unless a launcher started so many processes.

    `torchrun` and `accelerate launch` tell each process how many there are in the variable `WORLD_SIZE`.
    """
    if size < 1:
        raise ConfigurationError(f"Got tensor_parallel={size} but expected at least 1.")
    num_started = int(os.environ.get("WORLD_SIZE", "1"))
    if num_started != size:
        raise ConfigurationError(
            f"Got --tensor-parallel {size} but {num_started} process{'es' * (num_started != 1)} of it "
            f"run{'s' * (num_started == 1)}. Start it as: torchrun --standalone --nproc-per-node {size} -m hf_dynasor "
            f"serve --tensor-parallel {size} ... (or with accelerate launch --multi_gpu --num_processes {size}, on a CPU too)."
        )


def join_group(size: int, *, device: str | None = None, timeout_s: float = START_TIMEOUT_S) -> ShardGroup:
    """Meet the other processes of the group.

    Args:
        size: How many there are.
        device: `cpu` keeps to the CPU where there is an accelerator, too; `None` or `auto` takes it.
        timeout_s: Seconds to wait for them, now and in every forward.

    Raises:
        ConfigurationError: Another number of processes was started, or a device with a number.
        EngineError: They did not come.
    """
    check_launched(size)
    if device not in (None, "auto", "cpu", "cuda"):
        raise ConfigurationError(
            f"Got {device = } but the processes of a shard group take one device each: expected 'auto' or 'cpu'."
        )
    on_cpu = device == "cpu" or not torch.accelerator.is_available()
    try:
        state = PartialState(cpu=on_cpu, timeout=timedelta(seconds=timeout_s))
    except (RuntimeError, ValueError) as error:
        raise EngineError(f"The processes of the shard group did not meet: {error}") from error
    sizes = ParallelismConfig(tp_size=size)
    if sizes.total_size != state.num_processes:
        raise ConfigurationError(
            f"Got --tensor-parallel {size} but a group of {state.num_processes}. Expected as many."
        )
    name = "cpu" if on_cpu else f"{state.device.type}:{state.local_process_index}"
    return ShardGroup(rank=state.process_index, size=sizes.tp_size, device=name)


def watch_launcher(
    on_loss: Callable[[], None],
    *,
    interval_s: float = LAUNCHER_CHECK_S,
    parent: Callable[[], int] = os.getppid,
) -> threading.Event:
    """Call back once when the process that started this one is gone; setting the event that comes back ends the watch.

    A launcher that is killed cannot end what it started: without this its processes would serve on, unseen.
    """
    done, first = threading.Event(), parent()

    def look() -> None:
        while not done.wait(interval_s):
            if parent() != first:
                logger.error("The launcher of the shard group is gone, so this process ends.")
                on_loss()
                return

    threading.Thread(target=look, name="hf_dynasor-launcher-watch", daemon=True).start()
    return done


__all__ = [
    "LAUNCHER_CHECK_S",
    "START_TIMEOUT_S",
    "ShardGroup",
    "check_launched",
    "join_group",
    "watch_launcher",
]
