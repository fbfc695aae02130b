"""Our exits on recorded chains of real models, beside the known ones: tables, bounds, ablations and two pictures.

Depth: every policy on every run, thresholds chosen on one model and tested on the other, each term of the default
left out in turn, and what an oracle would save. Width: every policy over random draws, its settings chosen on half
of the questions and tested on the other half. Prints tables, then one JSON line.

    python benchmarks/traces.py --traces ../shared/data/traces [--pictures docs/figures] [--draws 20]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from traces_pictures import draw_depth, draw_width
from traces_width import split_width, tabulate_width

from hf_dynasor.evaluation import paired_difference
from hf_dynasor.evaluation.replay_depth import replay_depth
from hf_dynasor.evaluation.replayed import ReplayedQuestion
from hf_dynasor.evaluation.traces import DepthTrace, read_traces
from hf_dynasor.evaluation.traces.judging import judge_depth
from hf_dynasor.scheduler.depth import ConfidenceExit, ConsistencyExit, DepthPolicy, FullDepth
from hf_dynasor.scheduler.depth_evidence import EvidenceExit

RUNS = tuple(
    f"{model}_{data}" for data in ("math500", "amc23", "aime24") for model in ("r1_qwen_7b", "qwen3_8b")
)
DEPTH: Mapping[str, DepthPolicy] = {
    "full": FullDepth(),
    "mild": ConsistencyExit(window=8),
    "low": ConsistencyExit(window=5),
    "mid": ConsistencyExit(window=3),
    "high": ConsistencyExit(window=2),
    "consistency 32": ConsistencyExit(window=32),
    "confidence 0.95": ConfidenceExit(threshold=0.95),
    "confidence 0.98": ConfidenceExit(threshold=0.98),
    "confidence 0.995": ConfidenceExit(threshold=0.995),
    "confidence 0.998": ConfidenceExit(threshold=0.998),
    "evidence": EvidenceExit(),
    "evidence, gives up at 0.8": EvidenceExit(give_up=0.8),
    "evidence, gives up at 0.6": EvidenceExit(give_up=0.6),
}
DEFAULT = EvidenceExit()
ABLATIONS: Mapping[str, EvidenceExit] = {
    "default": DEFAULT,
    "no carry": replace(DEFAULT, carry=0.0),
    "boundaries next door count in full": replace(DEFAULT, apart=1.0),
    "no support": replace(DEFAULT, support=0.0),
    "no caution": replace(DEFAULT, caution=0.0),
    "no fall": replace(DEFAULT, fall=0.0),
    "no hold": replace(DEFAULT, hold=None),
    "every boundary asked": replace(DEFAULT, spacing=0.0),
    "boundaries of 0.95 and more": replace(DEFAULT, least=3.0),
    "gives up at 0.8": replace(DEFAULT, give_up=0.8),
    "gives up at 0.6": replace(DEFAULT, give_up=0.6),
    "probes every 128": replace(DEFAULT, far=128),
    "no probes": replace(DEFAULT, far=10**9, near=10**9, promising=10**9),
}
EVIDENCES = tuple(step / 2 for step in range(8, 31))
CONFIDENCES = (0.9, 0.95, 0.97, 0.98, 0.985, 0.99, 0.993, 0.995, 0.997, 0.998, 0.999, 0.9995, 0.9999)
MAX_LOSS = 0.5


def main() -> None:
    """Every table, the pictures, and the JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--draws", type=int, default=20)
    options = parser.parse_args()
    runs = {run: read_traces(sorted(options.traces.glob(f"boundary_{run}_seed*"))).depth() for run in RUNS}
    chains = read_traces([options.traces / "qwen3_8b_aime24.jsonl"]).width_depth()
    results = {
        "benchmark": "traces",
        "depth": tabulate_depth(runs),
        "oracle": {run: bound(traces) for run, traces in runs.items()},
        "transfer": transfer(runs["r1_qwen_7b_math500"], runs["qwen3_8b_math500"]),
        "ablations": ablate(runs),
        "draws": options.draws,
        "width": tabulate_width(chains, options.draws),
        "halves": split_width(chains, options.draws),
    }
    if options.pictures is not None:
        options.pictures.mkdir(parents=True, exist_ok=True)
        draw_depth(
            {run: list_frontiers(runs[run], results["oracle"][run]) for run in RUNS[:2]}, options.pictures
        )
        draw_width(results["width"], options.pictures)
    print(json.dumps(results))


def summarise_depth(rows: Sequence[ReplayedQuestion]) -> dict[str, float]:
    """Accuracy, points gained with their 95% interval, and percent of the net tokens saved."""
    gain = paired_difference([r.baseline_is_correct for r in rows], [r.is_correct for r in rows])
    spent, full = sum(r.net_tokens for r in rows), sum(r.baseline_tokens for r in rows)
    return {
        "accuracy": round(100 * sum(r.is_correct for r in rows) / len(rows), 2),
        "gain": round(100 * gain.mean, 2),
        "low": round(100 * gain.low, 2),
        "high": round(100 * gain.high, 2),
        "saved": round(100 * (1 - spent / full), 1),
        "early": round(100 * sum(r.is_early for r in rows) / len(rows), 1),
    }


def tabulate_depth(runs: Mapping[str, Sequence[DepthTrace]]) -> dict[str, dict[str, Any]]:
    """Every policy on every model and set of questions; seeds of one model stand together."""
    table = {
        name: {run: summarise_depth(replay_depth(traces, policy)) for run, traces in runs.items()}
        for name, policy in DEPTH.items()
    }
    for run in runs:
        print(f"\n{run} ({len(runs[run])} chains)\n{'policy':26s} accuracy   gain (95% interval)     saved")
        for name, row in table.items():
            figures = row[run]
            interval = f"{figures['gain']:+6.2f} ({figures['low']:+.2f} to {figures['high']:+.2f})"
            print(f"{name:26s} {figures['accuracy']:7.2f}   {interval:24s} {figures['saved']:6.1f}%")
    return table


def bound(traces: Sequence[DepthTrace]) -> dict[str, dict[str, float]]:
    """What an oracle would save that sees which recorded answer is right, and pays for that one alone.

    `patient` runs chains that never give a right answer to their end; `prophetic` ends those at once. `forced` is no
    oracle: the full run, where a chain that was cut off is asked once more instead of keeping its last number.
    """
    sides: dict[str, list[int]] = {"patient": [], "prophetic": []}
    num_right = 0
    for trace in traces:
        first = next((probe for probe in trace.probes if judge_depth(trace, probe.answer)), None)
        spent = trace.num_tokens if first is None else first.position + first.num_tokens
        is_hopeless = first is None and not trace.is_correct
        num_right += not is_hopeless
        sides["patient"].append(spent)
        sides["prophetic"].append(0 if is_hopeless else spent)
    full = sum(trace.num_tokens for trace in traces)
    accuracy = round(100 * num_right / len(traces), 2)
    bounds = {
        name: {"accuracy": accuracy, "saved": round(100 * (1 - sum(spent) / full), 1)}
        for name, spent in sides.items()
    }
    forced = [
        trace.is_correct
        if trace.is_finished or not trace.probes
        else judge_depth(trace, trace.probes[-1].answer)
        for trace in traces
    ]
    bounds["forced"] = {"accuracy": round(100 * sum(forced) / len(traces), 2), "saved": 0.0}
    print(f"{'; '.join(f'{name} {row}' for name, row in bounds.items())}")
    return bounds


def transfer(one: Sequence[DepthTrace], other: Sequence[DepthTrace]) -> list[dict[str, Any]]:
    """The boldest threshold that loses at most half a point on one model, tested on the other."""
    paths: Mapping[str, Sequence[DepthPolicy]] = {
        "confidence": [ConfidenceExit(threshold=value) for value in CONFIDENCES],
        "evidence": [EvidenceExit(threshold=value) for value in EVIDENCES],
    }
    rows = []
    print("\nchosen on -> tested on     policy       threshold   chosen: gain, saved   tested: gain, saved")
    for names, train, test in (
        (("r1_qwen_7b", "qwen3_8b"), one, other),
        (("qwen3_8b", "r1_qwen_7b"), other, one),
    ):
        for name, path in paths.items():
            tried = [(policy, summarise_depth(replay_depth(train, policy))) for policy in path]
            fit = [item for item in tried if item[1]["gain"] >= -MAX_LOSS]
            policy, chosen = max(fit, key=lambda item: item[1]["saved"])
            tested = summarise_depth(replay_depth(test, policy))
            threshold = policy.threshold  # type: ignore[attr-defined]
            rows.append(
                {
                    "train": names[0],
                    "test": names[1],
                    "policy": name,
                    "threshold": threshold,
                    "chosen": chosen,
                    "tested": tested,
                }
            )
            sides = [f"{side['gain']:+6.2f} {side['saved']:5.1f}%" for side in (chosen, tested)]
            print(f"{' -> '.join(names):26s} {name:12s} {threshold:9g}   {sides[0]:20s}  {sides[1]}")
    return rows


def list_frontiers(
    traces: Sequence[DepthTrace], oracle: Mapping[str, Any]
) -> dict[str, list[tuple[float, float]]]:
    """Points of (percent saved, points gained) for each family of policies, the default and the oracle."""
    frontiers: Mapping[str, Sequence[DepthPolicy]] = {
        "evidence (ours)": [EvidenceExit(threshold=value) for value in EVIDENCES],
        "confidence": [ConfidenceExit(threshold=value) for value in CONFIDENCES],
        "consistency": [ConsistencyExit(window=value) for value in (3, 5, 8, 16, 32, 64)],
        "default": [DEFAULT],
    }
    points = {
        name: [
            (row["saved"], row["gain"]) for row in (summarise_depth(replay_depth(traces, p)) for p in path)
        ]
        for name, path in frontiers.items()
    }
    return points | {"oracle that never gives up": [(oracle["patient"]["saved"], 0.0)]}


def ablate(runs: Mapping[str, Sequence[DepthTrace]]) -> dict[str, dict[str, Any]]:
    """The default without one of its terms, over both models on MATH-500 and over the harder sets."""
    groups = {
        "math500": [trace for run in RUNS[:2] for trace in runs[run]],
        "amc23 and aime24": [trace for run in RUNS[2:] for trace in runs[run]],
    }
    table = {
        name: {group: summarise_depth(replay_depth(traces, policy)) for group, traces in groups.items()}
        for name, policy in ABLATIONS.items()
    }
    print(f"\n{'default, changed':36s} " + "   ".join(f"{group}: gain, saved" for group in groups))
    for name, row in table.items():
        print(f"{name:36s} " + "      ".join(f"{f['gain']:+6.2f} {f['saved']:5.1f}%" for f in row.values()))
    return table


if __name__ == "__main__":
    main()
