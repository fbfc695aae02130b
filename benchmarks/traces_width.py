"""The tables of `traces.py` over many chains of each question: joint policies, and their settings on held-out halves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hf_dynasor.evaluation import paired_difference
from hf_dynasor.evaluation.replay_width_depth import replay_width_depth
from hf_dynasor.evaluation.replayed import ReplayedQuestion
from hf_dynasor.evaluation.traces import WidthDepthTrace
from hf_dynasor.scheduler.joint import JointPolicy, SettledMajority
from hf_dynasor.scheduler.joint_baselines import (
    AdaptiveConsistency,
    EarlyStoppingWindows,
    FullWidth,
    ParallelConsensus,
)

WIDTH: Mapping[str, JointPolicy] = {
    "SC@64": FullWidth(),
    "SC@16": FullWidth(width=16),
    "SC@8": FullWidth(width=8),
    "SC@4": FullWidth(width=4),
    "adaptive-consistency": AdaptiveConsistency(),
    "ESC, waves of 8": EarlyStoppingWindows(window=8),
    "ESC, waves of 5": EarlyStoppingWindows(window=5),
    "parallel consensus, hold 8": ParallelConsensus(),
    "parallel consensus, hold 30": ParallelConsensus(hold=30, patience=100),
    "settled majority": SettledMajority(),
    "settled majority, 8": SettledMajority(width=8),
    "settled majority, 32": SettledMajority(width=32),
}
SETTLED = tuple(
    SettledMajority(width=width, confidence=confidence, share=share)
    for width in (4, 8, 12, 16, 24, 32)
    for confidence in (0.9, 0.95, 0.99)
    for share in (0.5, 0.75, 1.0)
)


def summarise_width(rows: Sequence[ReplayedQuestion]) -> dict[str, float]:
    """Accuracy with the 95% interval of its gain over questions, and tokens a question, in thousands."""
    by_question: dict[str, list[ReplayedQuestion]] = {}
    for row in rows:
        by_question.setdefault(row.id, []).append(row)
    before = [_mean(r.baseline_is_correct for r in group) for group in by_question.values()]
    after = [_mean(r.is_correct for r in group) for group in by_question.values()]
    gain = paired_difference(before, after)
    return {
        "accuracy": round(100 * _mean(after), 2),
        "gain": round(100 * gain.mean, 2),
        "low": round(100 * gain.low, 2),
        "high": round(100 * gain.high, 2),
        "total": round(_mean(r.net_tokens for r in rows) / 1000, 1),
        "sequential": round(_mean(r.sequential_tokens for r in rows) / 1000, 2),
        "total_share": round(sum(r.net_tokens for r in rows) / sum(r.baseline_tokens for r in rows), 3),
        "sequential_share": round(
            sum(r.sequential_tokens for r in rows) / sum(r.baseline_sequential_tokens for r in rows), 3
        ),
    }


def tabulate_width(chains: Sequence[WidthDepthTrace], draws: int) -> dict[str, dict[str, float]]:
    """Every joint policy over the same draws."""
    table = {}
    print(f"\n{'policy':28s} accuracy   gain (95% interval)      total   share   sequential   share")
    for name, policy in WIDTH.items():
        row = table[name] = summarise_width(replay_width_depth(chains, policy, draws=draws))
        interval = f"{row['gain']:+6.2f} ({row['low']:+.2f} to {row['high']:+.2f})"
        print(
            f"{name:28s} {row['accuracy']:7.2f}   {interval:24s} {row['total']:6.1f}K {row['total_share']:6.3f}   "
            f"{row['sequential']:9.2f}K {row['sequential_share']:7.3f}"
        )
    return table


def split_width(chains: Sequence[WidthDepthTrace], draws: int) -> list[dict[str, Any]]:
    """The settings that spend least at no loss on half of the questions, on the other half; both ways."""
    rows = []
    print("\nhalves of the questions: chosen setting, then its figures on the other half")
    for first in (0, 1):
        train, test = chains[first::2], chains[1 - first :: 2]
        tried = [
            (policy, summarise_width(replay_width_depth(train, policy, draws=draws))) for policy in SETTLED
        ]
        fit = [item for item in tried if item[1]["gain"] >= 0]
        policy, chosen = min(
            fit, key=lambda item: math.hypot(item[1]["total_share"], item[1]["sequential_share"])
        )
        tested = summarise_width(replay_width_depth(test, policy, draws=draws))
        setting = {"width": policy.width, "confidence": policy.confidence, "share": policy.share}
        rows.append({"setting": setting, "chosen": chosen, "tested": tested})
        print(setting, {name: tested[name] for name in ("gain", "total_share", "sequential_share")})
    return rows


def _mean(values: Iterable[float]) -> float:
    items = list(values)
    return math.fsum(items) / len(items)
