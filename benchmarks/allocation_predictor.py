"""The paper's activation predictor on recorded samples of the embedded reasoner, beside `static` on the same orders.

Makes the hidden states of the first five samples again, fits the probe on the calibration questions, chooses its
limit on predictions that are held out among those, and replays the test questions in the order in which they were
recorded. Takes the traces that `benchmarks/allocation.py` wrote. Prints a table and ends with one JSON line.

    python benchmarks/allocation_predictor.py --folder runs/traces
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hf_dynasor.certaindex import Thresholds
from hf_dynasor.core import Prompt
from hf_dynasor.evaluation import paired_difference
from hf_dynasor.evaluation.activations import (
    average_states,
    fit_probe,
    list_texts,
    predict_held_out,
    replay_predicted,
)
from hf_dynasor.evaluation.fitting import count_needed
from hf_dynasor.evaluation.records import ProgramTrace
from hf_dynasor.evaluation.replayed import ReplayedQuestion, summarise
from hf_dynasor.evaluation.samples import SampleRun, SampleSet, read_samples, replay_samples
from hf_dynasor.evaluation.trace_sets import open_traces
from hf_dynasor.scheduler import StaticThreshold
from hf_dynasor.serving import GenerateEngine, make_engine

DETECT_AT = 5


def main() -> None:
    """Read, fit, choose, replay, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/traces"), help="where the traces are")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--num-questions", type=int, help="of each side (default: all that were recorded)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sides = {
        which: open_traces([arguments.folder / f"self_consistency_{which}.jsonl"]).programs[
            : arguments.num_questions
        ]
        for which in ("calibration", "test")
    }
    with make_engine(arguments.model) as engine:
        assert isinstance(engine, GenerateEngine)
        states = {which: read_states(engine, traces) for which, traces in sides.items()}
    calibration, test = ([read_samples(trace) for trace in sides[which]] for which in sides)
    needs = [float(count_units(item)) for item in calibration]
    held_out = predict_held_out(states["calibration"], needs)
    limit = choose_limit(calibration, held_out)
    probe = fit_probe(states["calibration"], needs)
    predicted = [probe.predict(state) for state in states["test"]]
    rows = replay_predicted(test, name(test, predicted), limit=limit, detect_at=DETECT_AT)
    static = replay_samples(test, StaticThreshold(thresholds=Thresholds(entropy=0.7), detect_at=DETECT_AT))
    report = {
        "benchmark": "allocation_predictor",
        "num_questions": len(test),
        "num_calibration_questions": len(calibration),
        "width": len(states["test"][0]),
        "limit": round(limit, 3),
        "correlation": round(correlate(predicted, [float(count_units(item)) for item in test]), 3),
        "activation_predictor": describe(rows),
        "static": describe(static),
    }
    for policy in ("activation_predictor", "static"):
        print(f"{policy:22} {report[policy]}")
    print(json.dumps(report))


def read_states(engine: GenerateEngine, traces: Sequence[ProgramTrace]) -> list[tuple[float, ...]]:
    """For each question the mean state at the ends of its first samples."""
    texts: list[Prompt] = []
    for trace in traces:
        texts += list_texts(trace, DETECT_AT)
    states = engine.read_hidden_states(texts)
    return [average_states(states[at : at + DETECT_AT]) for at in range(0, len(states), DETECT_AT)]


def count_units(samples: SampleSet) -> int:
    """Units from which on the vote is right; those of detection where the full budget is wrong: no unit would help."""
    return max(DETECT_AT, count_needed(SampleRun(samples)) or DETECT_AT)


def choose_limit(samples: Sequence[SampleSet], predicted: Sequence[float]) -> float:
    """The highest limit that loses no accuracy on the calibration questions, by predictions that are held out."""
    by_id = name(samples, predicted)
    short, full = (
        [row.is_correct for row in replay_predicted(samples, by_id, limit=limit, detect_at=DETECT_AT)]
        for limit in (float("inf"), float("-inf"))
    )
    lost, best = 0, min(predicted) - 1.0
    for place in sorted(range(len(predicted)), key=predicted.__getitem__):
        lost += full[place] - short[place]
        best = predicted[place] if lost <= 0 else best
    return best


def name(samples: Sequence[SampleSet], predicted: Sequence[float]) -> dict[str, float]:
    """Predictions by question."""
    return {item.id: value for item, value in zip(samples, predicted, strict=True)}


def correlate(one: Sequence[float], other: Sequence[float]) -> float:
    """Pearson's correlation."""
    return float(torch.corrcoef(torch.tensor([list(one), list(other)]))[0, 1])


def describe(rows: Sequence[ReplayedQuestion]) -> dict[str, Any]:
    """Accuracy, what it gained with its interval, and tokens, all beside the full budget."""
    total = summarise(rows)
    gain = paired_difference([r.baseline_is_correct for r in rows], [r.is_correct for r in rows])
    return {
        "accuracy": round(total.accuracy, 4),
        "baseline_accuracy": round(total.baseline_accuracy, 4),
        "difference": [round(100 * value, 2) for value in (gain.mean, gain.low, gain.high)],
        "saved": round(1 - total.net_tokens / total.baseline_tokens, 4),
        "sequential_ratio": round(total.sequential_tokens / total.baseline_sequential_tokens, 4),
        "early_stop_rate": round(total.early_stop_rate, 4),
    }


if __name__ == "__main__":
    sys.exit(main())
