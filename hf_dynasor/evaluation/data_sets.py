"""Rows of a data set, from the hub or from a local file, through the library `datasets`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_dynasor.errors import ConfigurationError, InputError, MissingExtraError
from hf_dynasor.evaluation.tasks import TaskItem, TaskTemplate

BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
"""What reads a local file, by its ending."""


def load_items(
    template: TaskTemplate,
    *,
    data_file: str | None = None,
    dataset: str | None = None,
    config: str | None = None,
    split: str | None = None,
    limit: int | None = None,
) -> tuple[TaskItem, ...]:
    """The first questions of a data set.

    Args:
        template: How a row becomes a question; also where the data set is, if nothing else is named.
        data_file: A local JSON, JSON-lines, Parquet or CSV file.
        dataset, config, split: A data set of the hub.
        limit: Most questions; `None` takes all.

    Raises:
        ConfigurationError: Nothing is named, both are, or the file's kind is unknown.
        InputError: It cannot be loaded, or a row cannot be read.
        MissingExtraError: The package `datasets` is not installed (extra `eval`).
    """
    if limit is not None and limit < 1:
        raise ConfigurationError(f"Got max_eval_samples {limit} but expected at least 1.")
    if data_file is not None:
        if dataset or config or split:
            raise ConfigurationError(
                "Got a data file and also a data set of the hub. Expected the one or the other."
            )
        rows = _load_file(data_file)
    else:
        name = dataset or template.dataset
        if not name:
            raise ConfigurationError(
                f"Task {template.name!r} names no data set. Pass --data_file FILE.jsonl or --dataset_name NAME."
            )
        rows = _load_hub(
            name, config or (None if dataset else template.config) or None, split or template.split
        )
    taken = rows if limit is None else rows.select(range(min(limit, len(rows))))
    return tuple(template.make_item(row, number=number) for number, row in enumerate(taken))


def _load_file(path: str) -> Any:
    builder = BUILDERS.get(Path(path).suffix.lower())
    if builder is None:
        raise ConfigurationError(
            f"Got data file {path!r} but expected one that ends with {', '.join(BUILDERS)}."
        )
    if not Path(path).is_file():
        raise InputError(f"Cannot read {path}: no such file.")
    return _load(path, builder, data_files={"data": path}, split="data")


def _load_hub(name: str, config: str | None, split: str) -> Any:
    return _load(name, name, name=config, split=split)


def _load(label: str, *names: Any, **options: Any) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(
            "Data sets need the package datasets: pip install 'hf-dynasor[eval]'."
        ) from error
    try:
        rows = datasets.load_dataset(*names, **options)
    except (OSError, ValueError, RuntimeError, KeyError, datasets.exceptions.DatasetsError) as error:
        raise InputError(f"Cannot load {label}: {_first_line(error)}") from error
    if not len(rows):
        raise InputError(f"{label} has no rows.")
    return rows


def _first_line(error: BaseException) -> str:
    causes: Sequence[BaseException] = [item for item in (error.__cause__, error) if item is not None]
    return next(
        (str(item).strip().splitlines()[0] for item in causes if str(item).strip()), type(error).__name__
    )
