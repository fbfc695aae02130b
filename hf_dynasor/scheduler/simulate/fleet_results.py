"""What a simulated fleet ends with: the figures of one simulation, and those of each replica."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_dynasor.scheduler.simulate.results import SimulationResult

if TYPE_CHECKING:
    from hf_dynasor.scheduler.simulate.virtual_engine import VirtualEngine


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaFigures:
    """What one replica did, its successors included.

    Args:
        num_steps: Steps.
        num_requests: Requests that ended.
        num_preemptions: Requests that lost their place, or their memory.
        busy_seconds: Time in which a step ran.
    """

    num_steps: int = 0
    num_requests: int = 0
    num_preemptions: int = 0
    busy_seconds: float = 0.0

    def plus(self, engine: VirtualEngine) -> ReplicaFigures:
        """These and what an engine did."""
        return ReplicaFigures(
            num_steps=self.num_steps + engine.num_steps,
            num_requests=self.num_requests + engine.num_requests,
            num_preemptions=self.num_preemptions + engine.num_preemptions,
            busy_seconds=self.busy_seconds + engine.busy_seconds,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetResult:
    """How the programs of a fleet went.

    Args:
        result: All programs; its busy seconds are those of all replicas together.
        replicas: What each did.
        num_shared_tokens: Tokens of prompts that begin as others do.
        num_cached_tokens: How many of them a replica held when the program came.
        num_restarted: Programs that were begun anew because their replica died.
        num_lost_tokens: Tokens that those had generated.
    """

    result: SimulationResult
    replicas: tuple[ReplicaFigures, ...]
    num_shared_tokens: int = 0
    num_cached_tokens: int = 0
    num_restarted: int = 0
    num_lost_tokens: int = 0

    @property
    def hit_rate(self) -> float:
        """Share of the shared tokens that were held."""
        return self.num_cached_tokens / self.num_shared_tokens if self.num_shared_tokens else 0.0

    @property
    def imbalance(self) -> float:
        """Busy time of the busiest replica over the mean; 1 is even."""
        times = [each.busy_seconds for each in self.replicas]
        total = sum(times)
        return max(times) * len(times) / total if total else 1.0

    def summary(self) -> dict[str, Any]:
        """The figures, ready for JSON; `busy_share` is the mean over the replicas."""
        row = self.result.summary()
        return row | {
            "busy_share": round(row["busy_share"] / len(self.replicas), 6),
            "num_replicas": len(self.replicas),
            "imbalance": round(self.imbalance, 6),
            "hit_rate": round(self.hit_rate, 6),
            "num_restarted": self.num_restarted,
            "num_lost_tokens": self.num_lost_tokens,
        }


__all__ = ["FleetResult", "ReplicaFigures"]
