"""Chooses the numbers of `EvidenceExit` on some recorded runs and tests them on others.

Settings are drawn at random around the default. Each is replayed on the training runs; its accuracy and savings are
then averaged with those of its nearest settings, so that a lucky spike is not chosen but a plateau. The setting that
saves most net tokens among those that lose at most `--max-loss` points on that average is replayed on the test runs.

    python tools/fit_depth_policy.py --train boundary_r1*math*.jsonl --test boundary_qwen3*math*.jsonl

Prints what it chose and ends with one JSON line. `--output FILE` writes the choice as a policy file.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Mapping, Sequence

from hf_dynasor.evaluation.replay_depth import replay_depth
from hf_dynasor.evaluation.replayed import summarise
from hf_dynasor.evaluation.traces import DepthTrace, read_traces
from hf_dynasor.scheduler.depth_evidence import EvidenceExit
from hf_dynasor.scheduler.policy_file import PolicyFile

RANGES: Mapping[str, tuple[float, float]] = {
    "threshold": (7.0, 10.5),
    "carry": (0.3, 0.8),
    "apart": (50.0, 300.0),
    "support": (1.8, 2.8),
    "least": (1.4, 3.0),
    "caution": (0.0, 5.0),
    "fall": (0.0, 3.5),
    "promising": (2.2, 3.6),
    "spacing": (0.0, 0.08),
}
NUM_NEAREST = 12

Figures = tuple[float, float]
"""Points of accuracy gained (negative: lost), and percent of the net tokens saved."""


def main() -> None:
    """Draw, replay, smooth, choose, test."""
    options = _parse()
    train, test = read_traces(options.train).depth(), read_traces(options.test).depth()
    generator = random.Random(options.seed)
    tries = [_draw(generator) for _ in range(options.num_tries)]
    figures = [measure(train, EvidenceExit(**setting)) for setting in tries]
    smooth = [_smooth(index, tries, figures) for index in range(len(tries))]
    allowed = [index for index, (gain, _) in enumerate(smooth) if gain >= -options.max_loss]
    if not allowed:
        raise SystemExit(f"No setting lost at most {options.max_loss} points on the training runs.")
    best = max(allowed, key=lambda index: smooth[index][1])
    policy = EvidenceExit(**tries[best])
    for name, value in tries[best].items():
        print(f"{name:10s} {value:8.2f}")
    rows = {
        "train": figures[best],
        "train_smoothed": smooth[best],
        "test": measure(test, policy),
        "default_on_train": measure(train, EvidenceExit()),
        "default_on_test": measure(test, EvidenceExit()),
    }
    for name, (gain, saved) in rows.items():
        print(f"{name:18s} {gain:+6.2f} points {saved:6.1f}% saved")
    if options.output:
        PolicyFile(kind="depth", name="evidence", parameters=tries[best]).save(options.output)
    print(json.dumps({"setting": tries[best], **{name: list(row) for name, row in rows.items()}}))


def measure(traces: Sequence[DepthTrace], policy: EvidenceExit) -> Figures:
    """What a setting gains and saves on some runs."""
    total = summarise(replay_depth(traces, policy))
    return (
        round(100 * (total.accuracy - total.baseline_accuracy), 3),
        round(100 * (1 - total.net_tokens / total.baseline_tokens), 3),
    )


def _draw(generator: random.Random) -> dict[str, float]:
    return {name: round(generator.uniform(low, high), 3) for name, (low, high) in RANGES.items()}


def _smooth(index: int, tries: Sequence[Mapping[str, float]], figures: Sequence[Figures]) -> Figures:
    """Mean figures of the settings nearest to one, itself included."""

    def distance(other: int) -> float:
        return math.fsum(
            ((tries[index][name] - tries[other][name]) / (high - low)) ** 2
            for name, (low, high) in RANGES.items()
        )

    nearest = sorted(range(len(tries)), key=distance)[:NUM_NEAREST]
    gains, savings = zip(*(figures[i] for i in nearest), strict=True)
    return round(math.fsum(gains) / len(gains), 3), round(math.fsum(savings) / len(savings), 3)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", nargs="+", required=True)
    parser.add_argument("--test", nargs="+", required=True)
    parser.add_argument("--num-tries", type=int, default=300)
    parser.add_argument("--max-loss", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output")
    return parser.parse_args()


if __name__ == "__main__":
    main()
