"""A run on disk: what was asked, how each question went, and the totals. Knows no engine and no model.

A run is a folder with `all_results.json`, `predictions.jsonl`, `args.json` and, where completions were recorded,
`trace.jsonl`. `write_run` writes one, `read_run` reads it back; docs/evaluation.md describes every field.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hf_dynasor.core import Usage
from hf_dynasor.errors import InputError
from hf_dynasor.evaluation.predictions import Prediction, read_predictions
from hf_dynasor.evaluation.records import parse_object
from hf_dynasor.evaluation.statistics import share_interval

SCHEMA = "hf_dynasor.run/1"

RESULTS_FILE = "all_results.json"
PREDICTIONS_FILE = "predictions.jsonl"
ARGUMENTS_FILE = "args.json"
TRACE_FILE = "trace.jsonl"

__all__ = [
    "ARGUMENTS_FILE",
    "PREDICTIONS_FILE",
    "RESULTS_FILE",
    "SCHEMA",
    "TRACE_FILE",
    "Prediction",
    "RunFolder",
    "RunInfo",
    "RunTotals",
    "read_predictions",
    "read_run",
    "summarise",
    "write_run",
    "write_text",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """What a run was asked to do; everything that it needs to be run again.

    Args:
        name: What to call it in tables, such as `self_consistency static 20`.
        task: Name of the template that made the prompts and graded the answers.
        dataset: Where the questions came from.
        model: Name or path of the model.
        engine: What ran it.
        program: Name of the reasoning program.
        policy: The allocation policy as it was named.
        budget: The knob's maximum.
        unit: The knob's unit.
        seeds: One for each time that every question was asked.
        settings: All other options: the recipe's fields, dtype, device, quantization and so on.
        versions: Of Python and of the packages that a result depends on.
    """

    name: str
    task: str
    dataset: str
    model: str
    engine: str
    program: str
    policy: str
    budget: int
    unit: str
    seeds: tuple[int | None, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The facts, ready for JSON."""
        row = {item.name: getattr(self, item.name) for item in fields(self)}
        return row | {
            "seeds": list(self.seeds),
            "settings": dict(self.settings),
            "versions": dict(self.versions),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTotals:
    """Sums over all predictions of a run; a question that ended with an error counts as wrong.

    Args:
        num_questions: Different questions.
        num_predictions: Questions times seeds.
        num_errors: Predictions that ended with an error.
        accuracy: Share of the predictions that were right.
        accuracy_interval: 95% interval of the accuracy; several seeds of one question are no independent evidence.
        net_tokens: Sampled, forced, probe and reward tokens.
        prompt_tokens, cached_tokens, sampled_tokens, forced_tokens, probe_tokens, reward_tokens: As in `Usage`.
        sequential_tokens: Sum of each prediction's longest chain.
        early_stop_rate: Share of the predictions that were stopped before their budget was spent.
    """

    num_questions: int
    num_predictions: int
    num_errors: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    net_tokens: int
    prompt_tokens: int
    cached_tokens: int
    sampled_tokens: int
    forced_tokens: int
    probe_tokens: int
    reward_tokens: int
    sequential_tokens: int
    early_stop_rate: float

    def to_dict(self) -> dict[str, Any]:
        """The totals, ready for JSON."""
        row = {item.name: getattr(self, item.name) for item in fields(self)}
        return row | {"accuracy_interval": list(self.accuracy_interval)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """A run that was read back.

    Args:
        path: Its folder.
        info: What it was asked to do.
        totals: What came of it.
        predictions: One for each question and seed, in the order of the data set, seed by seed.
        arguments: `args.json`: the arguments as they were given.
        seconds: Wall time, resumed parts included.
    """

    path: Path
    info: RunInfo
    totals: RunTotals
    predictions: tuple[Prediction, ...]
    arguments: Mapping[str, Any]
    seconds: float

    @property
    def trace_path(self) -> Path | None:
        """The recorded completions (`docs/trace_format.md`), where there are any."""
        path = self.path / TRACE_FILE
        return path if path.is_file() else None


def summarise(predictions: Sequence[Prediction]) -> RunTotals:
    """The totals of some predictions.

    Raises:
        InputError: There are none.

    Examples:
        >>> row = dict(seed=0, question="2+2?", gold="4", budget=5, unit="samples")
        >>> right = Prediction(id="a", answer="4", is_right=True, usage=Usage(sampled=30), **row)
        >>> wrong = Prediction(id="b", answer="5", is_right=False, usage=Usage(sampled=10, probe=2), **row)
        >>> totals = summarise([right, wrong])
        >>> totals.accuracy, totals.net_tokens, totals.probe_tokens
        (0.5, 42, 2)
    """
    if not predictions:
        raise InputError("Got no predictions but expected at least one.")
    usage = sum((item.usage for item in predictions), Usage())
    rights: dict[str, list[bool]] = {}
    for item in predictions:
        rights.setdefault(item.id, []).append(item.is_right)
    num = len(predictions)
    accuracy = sum(item.is_right for item in predictions) / num
    return RunTotals(
        num_questions=len(rights),
        num_predictions=num,
        num_errors=sum(item.error is not None for item in predictions),
        accuracy=round(accuracy, 6),
        accuracy_interval=_round_pair(share_interval(list(rights.values()))),
        net_tokens=usage.net_tokens,
        **{f"{item.name}_tokens": getattr(usage, item.name) for item in fields(Usage)},
        sequential_tokens=sum(item.sequential_tokens for item in predictions),
        early_stop_rate=round(sum(item.is_early for item in predictions) / num, 6),
    )


def write_run(
    path: str | Path,
    info: RunInfo,
    predictions: Sequence[Prediction],
    *,
    arguments: Mapping[str, Any],
    seconds: float,
) -> RunTotals:
    """Write a run's files, each of them whole or not at all; `all_results.json` comes last and says that it is done.

    Args:
        path: The folder; it is made if it is not there.
        info: What was asked.
        predictions: In the order in which they are to stand.
        arguments: For `args.json`.
        seconds: Wall time.

    Raises:
        InputError: The folder cannot be written, or there are no predictions.
    """
    folder = Path(path)
    totals = summarise(predictions)
    lines = (json.dumps(item.to_dict(), ensure_ascii=False, allow_nan=False) + "\n" for item in predictions)
    results = {"schema": SCHEMA, **info.to_dict(), **totals.to_dict(), "seconds": round(seconds, 3)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / PREDICTIONS_FILE, lines)
        write_text(folder / ARGUMENTS_FILE, [_format_json(dict(arguments))])
        write_text(folder / RESULTS_FILE, [_format_json(results)])
    except OSError as error:
        raise InputError(f"Cannot write the run {folder}: {error.strerror}.") from None
    return totals


def read_run(path: str | Path) -> RunFolder:
    """Read a run that `write_run` wrote.

    Raises:
        InputError: The folder holds no run that is done, one of another schema, or a line that cannot be read.
    """
    folder = Path(path)
    results = _read_json(folder / RESULTS_FILE)
    if results.pop("schema", None) != SCHEMA:
        raise InputError(f"{folder / RESULTS_FILE} is none of {SCHEMA}. Expected a folder that a run wrote.")
    try:
        seconds = float(results.pop("seconds"))
        names = {item.name for item in fields(RunInfo)}
        facts = {name: value for name, value in results.items() if name in names}
        counts = {name: value for name, value in results.items() if name not in names}
        info = RunInfo(**facts | {"seeds": tuple(facts["seeds"])})
        totals = RunTotals(**counts | {"accuracy_interval": tuple(counts["accuracy_interval"])})
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / RESULTS_FILE} is no {SCHEMA} file ({error}).") from None
    return RunFolder(
        path=folder,
        info=info,
        totals=totals,
        predictions=read_predictions(folder / PREDICTIONS_FILE),
        arguments=_read_json(folder / ARGUMENTS_FILE),
        seconds=seconds,
    )


def write_text(path: Path, parts: Iterable[str]) -> None:
    """Write a file whole or not at all."""
    half = path.with_name(f"{path.name}.part")
    with half.open("w", encoding="utf-8") as file:
        file.writelines(parts)
    os.replace(half, path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return parse_object(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, InputError) as error:
        raise InputError(f"Cannot read {path}: {error}. Expected a folder that a run wrote.") from None


def _format_json(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def _round_pair(pair: tuple[float, float]) -> tuple[float, float]:
    return round(pair[0], 6), round(pair[1], 6)
