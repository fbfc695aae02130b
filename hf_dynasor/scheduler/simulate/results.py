"""What a simulation ends with: one outcome for each program, and the figures made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hf_dynasor.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedOutcome:
    """How one program went.

    Args:
        question_id: What it answered.
        difficulty: 1 always right, 2 sometimes, 3 never.
        arrived_at, started_at, finished_at: Seconds; it started when its first request did.
        num_tokens: Tokens that it generated.
        num_units: Units of its knob that it was granted.
        is_correct: Whether its answer is right.
    """

    question_id: str
    difficulty: int
    arrived_at: float
    started_at: float
    finished_at: float
    num_tokens: int
    num_units: int
    is_correct: bool

    @property
    def latency(self) -> float:
        """Seconds from arrival to answer."""
        return self.finished_at - self.arrived_at

    def to_dict(self) -> dict[str, Any]:
        """The outcome, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationResult:
    """Outcomes of all programs, in the order of arrival, and what the engine did.

    Args:
        outcomes: One for each program.
        num_steps: Steps of the engine.
        num_requests: Requests that ended.
        busy_seconds: Time in which the engine ran.
        num_preemptions: Requests that lost their place, or their memory, before they ended.
    """

    outcomes: tuple[SimulatedOutcome, ...]
    num_steps: int
    num_requests: int
    busy_seconds: float
    num_preemptions: int

    @property
    def latencies(self) -> list[float]:
        """Of each program, in the order of arrival."""
        return [outcome.latency for outcome in self.outcomes]

    @property
    def mean_latency(self) -> float:
        """Seconds."""
        return math.fsum(self.latencies) / len(self.outcomes)

    @property
    def accuracy(self) -> float:
        """Share of the programs whose answer is right."""
        return sum(outcome.is_correct for outcome in self.outcomes) / len(self.outcomes)

    @property
    def num_tokens(self) -> int:
        """Tokens that all programs generated."""
        return sum(outcome.num_tokens for outcome in self.outcomes)

    def attainment(self, slo_scale: float, base: float) -> float:
        """Share of the programs that met the deadline of scale times difficulty times base (paper §5)."""
        met = sum(outcome.latency <= slo_scale * outcome.difficulty * base for outcome in self.outcomes)
        return met / len(self.outcomes)

    def tightest_scale(self, base: float, share: float = 0.9) -> float:
        """The smallest SLO scale that this share of the programs meets."""
        scaled = [outcome.latency / (outcome.difficulty * base) for outcome in self.outcomes]
        return quantile(scaled, share)

    def fairness(self) -> list[float]:
        """Finish-time fairness of each program: latency for each token that it generated (paper §4)."""
        return [outcome.latency / max(1, outcome.num_tokens) for outcome in self.outcomes]

    def summary(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        latencies = self.latencies
        end = max(outcome.finished_at for outcome in self.outcomes)
        return {
            "num_programs": len(self.outcomes),
            "num_requests": self.num_requests,
            "num_steps": self.num_steps,
            "num_tokens": self.num_tokens,
            "accuracy": round(self.accuracy, 6),
            "mean_latency": round(self.mean_latency, 6),
            "p50_latency": round(quantile(latencies, 0.5), 6),
            "p90_latency": round(quantile(latencies, 0.9), 6),
            "p99_latency": round(quantile(latencies, 0.99), 6),
            "mean_wait": round(math.fsum(o.started_at - o.arrived_at for o in self.outcomes) / len(latencies), 6),
            "max_wait": round(max(o.started_at - o.arrived_at for o in self.outcomes), 6),
            "busy_share": round(self.busy_seconds / end, 6) if end else 0.0,
            "num_preemptions": self.num_preemptions,
        }  # fmt: skip


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all does not exceed.

    Examples:
        >>> quantile([4.0, 1.0, 3.0, 2.0], 0.5), quantile([4.0, 1.0, 3.0, 2.0], 0.9)
        (2.0, 4.0)
    """
    if not values or not 0 < share <= 1:
        raise ConfigurationError(f"Got {len(values)} values and {share = } but expected some and (0, 1].")
    return sorted(values)[max(0, math.ceil(share * len(values) - 1e-9) - 1)]


__all__ = ["SimulatedOutcome", "SimulationResult", "quantile"]
