"""How long a step of an engine takes: a model with four costs and a knee, fitted to measured steps.

seconds = base + per_request · max(0, requests - free_requests) + per_context · context + per_prefill · prompt tokens

A small batch on an accelerator costs what reading the weights costs, however many requests share it; from
`free_requests` on each one adds its part. `free_requests = 0` is the linear model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from hf_dynasor.errors import ConfigurationError, InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """One measured step.

    Args:
        num_requests: Requests that decoded.
        num_context_tokens: Tokens that they looked back at, in all.
        num_prefill_tokens: Prompt tokens that were computed.
        seconds: How long it took.
    """

    num_requests: int
    num_context_tokens: int
    num_prefill_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineModel:
    """Seconds of a step.

    Args:
        base: Of any step.
        per_request: Of each decoding request beyond `free_requests`.
        per_context: Of each token that decoding requests look back at.
        per_prefill: Of each prompt token.
        free_requests: Requests that the base pays for.
        name: What engine it stands for.
    """

    base: float
    per_request: float = 0.0
    per_context: float = 0.0
    per_prefill: float = 0.0
    free_requests: int = 0
    name: str = "engine"

    def __post_init__(self) -> None:
        values = (self.base, self.per_request, self.per_context, self.per_prefill, self.free_requests)
        if any(not (math.isfinite(value) and value >= 0) for value in values) or self.base <= 0:
            raise ConfigurationError(
                f"Got {self} but expected finite costs of at least 0 and a base above 0."
            )

    def time_step(self, num_requests: int, num_context_tokens: int, num_prefill_tokens: int = 0) -> float:
        """Seconds of one step."""
        return (
            self.base
            + self.per_request * max(0, num_requests - self.free_requests)
            + self.per_context * num_context_tokens
            + self.per_prefill * num_prefill_tokens
        )

    def time_steps(self, num_requests: int, num_context_tokens: int, num_steps: int) -> float:
        """Seconds of so many steps in which the same requests decode: each adds their number to the context."""
        first = self.time_step(num_requests, num_context_tokens)
        return num_steps * first + self.per_context * num_requests * num_steps * (num_steps - 1) / 2

    def count_steps(self, num_requests: int, num_context_tokens: int, seconds: float, limit: int) -> int:
        """Steps of the same requests until at least so many seconds have passed; 1 to `limit`."""
        first = self.time_step(num_requests, num_context_tokens)
        growth = self.per_context * num_requests / 2
        linear = first - growth
        if growth <= 1e-15 * first:
            guess = seconds / first
        else:
            guess = (math.sqrt(linear * linear + 4 * growth * max(0.0, seconds)) - linear) / (2 * growth)
        steps = max(1, min(limit, math.ceil(guess - 1e-9)))
        # The closed form may be off by rounding: the first step count that reaches the time is wanted.
        while steps < limit and self.time_steps(num_requests, num_context_tokens, steps) < seconds:
            steps += 1
        return steps

    def to_dict(self) -> dict[str, Any]:
        """The model, ready for JSON."""
        return asdict(self)


LARGE_MODEL = EngineModel(
    base=0.018,
    per_request=2.0e-5,
    per_context=5.0e-8,
    per_prefill=6.0e-5,
    free_requests=16,
    name="8B on one large accelerator",
)
"""A round-figure stand-in for an 8B model in 16 bits on an 80 GB accelerator: 16 GB of weights read in about 10 ms
plus launches, 0.13 MB of keys and values for each context token at 2.5 TB/s, prompts at 16,000 tokens/s. Not
measured: fit your own engine for figures that must hold on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFit:
    """A fitted model and how well it fits.

    Args:
        model: The model.
        mean_error: Mean of |predicted - measured| / measured.
        num_rows: Steps that it was fitted to.
    """

    model: EngineModel
    mean_error: float
    num_rows: int


def fit_engine(rows: Sequence[StepRow], *, name: str = "engine", saturating: bool = True) -> EngineFit:
    """The model with least squared relative error, no cost negative, scaled to the measured total.

    Without the scale a model of noisy steps is too fast: relative errors forgive a long step more than a short one.

    Args:
        rows: Measured steps, at least 8, of several batch sizes.
        name: What engine they are of.
        saturating: Whether to look for a knee in the number of requests; else the linear model.

    Raises:
        InputError: Too few rows, or a step without duration.
    """
    if len(rows) < 8 or any(row.seconds <= 0 for row in rows):
        raise InputError(f"Got {len(rows)} steps but expected at least 8, each of more than 0 s.")
    largest = max(row.num_requests for row in rows)
    knees = sorted({0, *(2**power for power in range(10) if 2**power < largest)}) if saturating else [0]
    fits = [_fit_knee(rows, knee, name) for knee in knees]
    return _scale(min(fits, key=lambda fit: fit.mean_error), rows)


def read_step_rows(path: str | Path) -> list[StepRow]:
    """Measured steps, one JSON object a line.

    Raises:
        InputError: The file cannot be read or a line is no step.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        return [StepRow(**json.loads(line)) for line in lines if line.strip()]
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}.") from None
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path} is no file of measured steps ({error}). Expected num_requests, "
            "num_context_tokens, num_prefill_tokens, seconds."
        ) from None


def _fit_knee(rows: Sequence[StepRow], knee: int, name: str) -> EngineFit:
    features = [
        (
            1.0,
            float(max(0, row.num_requests - knee)),
            float(row.num_context_tokens),
            float(row.num_prefill_tokens),
        )
        for row in rows
    ]
    targets = [row.seconds for row in rows]
    costs = _solve_non_negative(features, targets)
    model = EngineModel(
        base=max(costs[0], 1e-9),
        per_request=costs[1],
        per_context=costs[2],
        per_prefill=costs[3],
        free_requests=knee,
        name=name,
    )
    errors = [
        abs(model.time_step(row.num_requests, row.num_context_tokens, row.num_prefill_tokens) - row.seconds)
        / row.seconds
        for row in rows
    ]
    return EngineFit(model=model, mean_error=sum(errors) / len(errors), num_rows=len(rows))


def _scale(fit: EngineFit, rows: Sequence[StepRow]) -> EngineFit:
    predicted = math.fsum(
        fit.model.time_step(row.num_requests, row.num_context_tokens, row.num_prefill_tokens) for row in rows
    )
    factor = math.fsum(row.seconds for row in rows) / predicted
    costs = ("base", "per_request", "per_context", "per_prefill")
    return replace(
        fit, model=replace(fit.model, **{cost: getattr(fit.model, cost) * factor for cost in costs})
    )


def _solve_non_negative(features: Sequence[Sequence[float]], targets: Sequence[float]) -> list[float]:
    """Least squares of relative errors with no coefficient below 0: the best subset of four columns."""
    width = len(features[0])
    best, best_error = [0.0] * width, math.inf
    for size in range(1, width + 1):
        for columns in combinations(range(width), size):
            solved = _solve([[row[i] / y for i in columns] for row, y in zip(features, targets, strict=True)])
            if solved is None or min(solved) < 0:
                continue
            costs = [0.0] * width
            for column, value in zip(columns, solved, strict=True):
                costs[column] = value
            error = math.fsum(
                (math.fsum(c * x for c, x in zip(costs, row, strict=True)) / y - 1) ** 2
                for row, y in zip(features, targets, strict=True)
            )
            if error < best_error:
                best, best_error = costs, error
    return best


def _solve(rows: Sequence[Sequence[float]]) -> list[float] | None:
    """Normal equations for targets of 1, columns scaled, by elimination; `None` where columns depend on each other."""
    width = len(rows[0])
    scales = [max(abs(row[i]) for row in rows) or 1.0 for i in range(width)]
    scaled = [[row[i] / scales[i] for i in range(width)] for row in rows]
    matrix = [
        [math.fsum(row[i] * row[j] for row in scaled) for j in range(width)]
        + [math.fsum(row[i] for row in scaled)]
        for i in range(width)
    ]
    for pivot in range(width):
        best = max(range(pivot, width), key=lambda i: abs(matrix[i][pivot]))
        matrix[pivot], matrix[best] = matrix[best], matrix[pivot]
        if abs(matrix[pivot][pivot]) < 1e-9 * len(rows):
            return None
        for other in range(width):
            if other != pivot:
                factor = matrix[other][pivot] / matrix[pivot][pivot]
                matrix[other] = [a - factor * b for a, b in zip(matrix[other], matrix[pivot], strict=True)]
    return [matrix[i][width] / matrix[i][i] / scales[i] for i in range(width)]


__all__ = ["LARGE_MODEL", "EngineFit", "EngineModel", "StepRow", "fit_engine", "read_step_rows"]
