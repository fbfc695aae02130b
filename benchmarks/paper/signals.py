"""Figures 3, 5 and 13: certaindex against need, thresholds, and where it is detected; replayed from recorded runs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from offline import EVEN, open_run

from hf_dynasor.evaluation.policy_specs import PolicySpec
from hf_dynasor.evaluation.replayed import summarise
from hf_dynasor.evaluation.report_readings import count_needed
from hf_dynasor.evaluation.report_statistics import compare, summarise_setting
from hf_dynasor.evaluation.report_steps import Steps
from hf_dynasor.evaluation.signals_compared import kendall
from hf_dynasor.evaluation.trace_sets import open_traces, replay

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.9)
DETECTIONS = (5, 8, 10, 15)
DETECTIONS_OF_40 = (5, 10, 20, 30)


def measure_needs(runs: Path) -> list[dict[str, Any]]:
    """Correlations of the readings with the units that a solved question needs, for each recorded program."""
    found = []
    for name, detect_at in (("self_consistency_test", 5), ("mcts_test", 4)):
        if (runs / name / "all_results.json").is_file():
            run = open_run(runs / name)
            solved = [(item, need) for _, item in run.steps if (need := count_needed(item)) is not None]
            found.append(
                {
                    "program": run.run.info.program,
                    "detect_at": detect_at,
                    "num_solved": len(solved),
                    "correlations": {
                        signal: _correlate(solved, signal, detect_at)
                        for signal in ("entropy", "agreement", "reward")
                    },
                }
            )
    return found


def measure_thresholds(runs: Path) -> list[dict[str, Any]]:
    """What a static threshold on the entropy saves and costs, by threshold."""
    test = open_run(runs / "self_consistency_test")
    full = test.make_setting(EVEN, 20)
    rows = []
    for threshold in THRESHOLDS:
        spec = _make_static(threshold, 5)
        setting = test.make_setting(spec, 20)
        against = compare(setting, full)
        assert against is not None
        rows.append(
            {
                "threshold": threshold,
                "saved": round(against.tokens.saved, 4),
                "points": round(100 * against.difference.mean, 2),
                "early": round(summarise_setting(setting).early_rate, 4),
            }
        )
    return rows


def measure_steps(runs: Path, traces: Path | None) -> list[dict[str, Any]]:
    """Early stops by detection point, on the embedded model and on recorded samples of another model."""
    test = open_run(runs / "self_consistency_test")
    full = test.make_setting(EVEN, 20)
    points = []
    for detect_at in DETECTIONS:
        setting = test.make_setting(_make_static(0.7, detect_at), 20)
        against = compare(setting, full)
        assert against is not None
        early = summarise_setting(setting).early_rate
        points.append(
            {"detect_at": detect_at, "early": round(early, 4), "saved": round(against.tokens.saved, 4)}
        )
    found = [{"name": "embedded, 20 samples, entropy > 0.7", "points": points}]
    if traces is not None and (path := traces / "gpt35_last_letters.jsonl").is_file():
        found.append(
            {"name": "gpt-3.5 last letters, 40 samples, entropy > 0.7", "points": _read_traces(path)}
        )
    return found


def _read_traces(path: Path) -> list[dict[str, Any]]:
    traces = open_traces([path])
    points = []
    for detect_at in DETECTIONS_OF_40:
        summary = summarise(replay(traces, _make_static(0.7, detect_at)))
        points.append(
            {
                "detect_at": detect_at,
                "early": round(summary.early_stop_rate, 4),
                "saved": round(1 - summary.net_tokens / summary.baseline_tokens, 4),
            }
        )
    return points


def _make_static(threshold: float, detect_at: int) -> PolicySpec:
    return PolicySpec(
        name="static", parameters={"thresholds": {"entropy": threshold}, "detect_at": detect_at}
    )


def _correlate(solved: Sequence[tuple[Steps, int]], signal: str, detect_at: int) -> list[float | None]:
    pairs = [
        (value, need)
        for item, need in solved
        if (value := item.read(detect_at).signals.get(signal)) is not None
    ]
    values, needs = [value for value, _ in pairs], [need for _, need in pairs]
    if len(set(values)) < 2 or len(set(needs)) < 2:
        return [None, None]
    tau = kendall(values, needs)
    return [round(statistics.correlation(values, needs), 3), None if tau is None else round(tau, 3)]
