"""How many replicas there should be: enough for the programs that there are to do. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

PROGRAMS_PER_REPLICA = 32.0
"""Programs and requests, running, waiting or queued, that one replica is meant to have."""


def count_replicas(own: Mapping[Any, float], queued: Mapping[Any, float], per_replica: float) -> int:
    """Replicas for a backlog: what each has, and the queue that all of them see alike.

    Examples:
        >>> count_replicas({"a": 30.0, "b": 10.0}, {"a": 25.0, "b": 24.0}, per_replica=32)
        3
        >>> count_replicas({}, {}, per_replica=32)
        1
    """
    backlog = sum(own.values()) + max(queued.values(), default=0.0)
    return max(1, math.ceil(backlog / per_replica))


def scale_by_backlog(context: Any) -> tuple[int, dict[str, Any]]:
    """Ray Serve's autoscaling policy: `Replica.record_autoscaling_stats` in, a number of replicas out."""
    found = context.aggregated_metrics or {}
    wanted = count_replicas(found.get("own", {}), found.get("queued", {}), PROGRAMS_PER_REPLICA)
    most, least = context.capacity_adjusted_max_replicas, context.capacity_adjusted_min_replicas
    return max(least, min(most, wanted)), {}


__all__ = ["PROGRAMS_PER_REPLICA", "count_replicas", "scale_by_backlog"]
