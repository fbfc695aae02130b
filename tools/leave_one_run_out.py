"""Chooses a threshold on all recorded runs but one and tests it on that one, with giving up and without.

    python tools/leave_one_run_out.py boundary_*.jsonl

A row is a way of giving up and a run left out: the threshold that saves most net tokens at no more than half a point
lost on the other runs, and its points gained and percent saved on that run; then the same over all runs left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from hf_dynasor.errors import InputError
from hf_dynasor.evaluation.replay_depth import replay_depth
from hf_dynasor.evaluation.traces import DepthTrace, read_traces
from hf_dynasor.scheduler.depth import ConfidenceExit, DepthPolicy
from hf_dynasor.scheduler.depth_evidence import EvidenceExit

THRESHOLDS = (6, 7, 7.5, 8, 8.25, 8.5, 9, 9.5, 10, 11, 12, 14)
FAMILIES: Mapping[str, Sequence[DepthPolicy]] = {
    "gives up at 0.6": [EvidenceExit(threshold=value, give_up=0.6) for value in THRESHOLDS],
    "gives up at 0.8": [EvidenceExit(threshold=value, give_up=0.8) for value in THRESHOLDS],
    "never gives up": [EvidenceExit(threshold=value, give_up=None) for value in THRESHOLDS],
    "confidence": [
        ConfidenceExit(threshold=value) for value in (0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995)
    ],
}
"""From bold to careful."""

MAX_LOSS = 0.5

Counts = tuple[int, int, int, int]
"""Chains, answers gained less those lost, net tokens, tokens of the full runs."""


def main() -> None:
    """Replay everything once, then leave out one run after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("traces", nargs="+", metavar="TRACES", help="at least two runs")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES), help="which ways")
    options = parser.parse_args()
    runs = {path: read_traces([path]).depth() for path in options.traces}
    if len(runs) < 2:
        raise InputError(f"Got {len(runs)} run but expected at least two: one is left out.")
    for family, policies in ((name, FAMILIES[name]) for name in options.families):
        counts = [{run: count(traces, policy) for run, traces in runs.items()} for policy in policies]
        total: Counts = (0, 0, 0, 0)
        for left_out, traces in runs.items():
            others = [[each[run] for run in runs if run != left_out] for each in counts]
            figures = [describe(add(*of_policy)) for of_policy in others]
            allowed = [index for index, (gain, _) in enumerate(figures) if gain >= -MAX_LOSS]
            best = max(allowed, key=lambda index: figures[index][1]) if allowed else len(policies) - 1
            total = add(total, counts[best][left_out])
            gain, saved = describe(counts[best][left_out])
            threshold = getattr(policies[best], "threshold", None)
            print(f"{family:16} {traces[0].run:32} {threshold!s:>6} {gain:+6.2f} points {saved:5.1f}% saved")
        gain, saved = describe(total)
        print(f"{family:16} {'all runs left out':32} {'':6} {gain:+6.2f} points {saved:5.1f}% saved")


def count(traces: Sequence[DepthTrace], policy: DepthPolicy) -> Counts:
    """What a policy did on one run."""
    rows = replay_depth(traces, policy)
    gained = sum(row.is_correct - row.baseline_is_correct for row in rows)
    return len(rows), gained, sum(row.net_tokens for row in rows), sum(row.baseline_tokens for row in rows)


def add(*counts: Counts) -> Counts:
    """Over several runs, chain by chain."""
    chains, gained, spent, full = (sum(column) for column in zip(*counts, strict=True))
    return chains, gained, spent, full


def describe(counts: Counts) -> tuple[float, float]:
    """Points of accuracy gained, and percent of the net tokens saved."""
    chains, gained, spent, full = counts
    return 100 * gained / chains, 100 * (1 - spent / full)


if __name__ == "__main__":
    main()
