"""Where the curve of a running evaluation goes: TensorBoard or Weights & Biases, through accelerate's trackers."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from hf_dynasor.errors import MissingExtraError

PROJECT = "reasoning_eval"


class Reporter(Protocol):
    """Takes figures as they come."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Figures after so many questions."""

    def close(self) -> None:
        """Write what is left."""


class NoReporter:
    """Takes figures and tells nobody."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class TrackerReporter:
    """One of accelerate's trackers; see `open_reporter`."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        from accelerate import Accelerator

        self._accelerator = Accelerator(log_with=name, project_dir=str(folder))
        plain = {key: value for key, value in settings.items() if isinstance(value, bool | int | float | str)}
        self._accelerator.init_trackers(PROJECT, config=plain)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Hand over."""
        self._accelerator.log(dict(values), step=step)

    def close(self) -> None:
        """End the tracker's run."""
        self._accelerator.end_training()


def open_reporter(name: str, folder: Path, settings: Mapping[str, Any]) -> Reporter:
    """The reporter of that name.

    Args:
        name: `none`, `tensorboard` or `wandb`.
        folder: Where TensorBoard's files go.
        settings: Told with the run; values that are neither text nor number are left out.

    Raises:
        MissingExtraError: The package is not installed.
    """
    if name == "none":
        return NoReporter()
    if importlib.util.find_spec(name) is None:
        raise MissingExtraError(f"Reporting to {name} needs its package: pip install {name}.")
    return TrackerReporter(name, folder, settings)
