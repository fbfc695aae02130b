"""One look at a model: how right it is under a policy, what that costs, and what the policy saves.

Self-consistency is sampled once, to its full budget, and the policy and every smaller budget are replayed on the
samples; other programs are run twice, under the policy and to the full budget.
"""

from __future__ import annotations

import io
import json
import statistics
from collections.abc import Sequence
from dataclasses import replace

from hf_dynasor.engine import Engine
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.evaluation.evaluate import EvaluationReport, evaluate
from hf_dynasor.evaluation.measures import correlate, save_at_equal_accuracy
from hf_dynasor.evaluation.questions import Question
from hf_dynasor.evaluation.recording import RecordingEngine, TraceWriter
from hf_dynasor.evaluation.records import ProgramTrace
from hf_dynasor.evaluation.samples import read_samples, replay_samples
from hf_dynasor.recipe import Recipe
from hf_dynasor.scheduler import Even

SIGNAL = "entropy"


def measure_savings(
    questions: Sequence[Question], recipe: Recipe, engine: Engine, *, max_active: int = 16
) -> dict[str, float]:
    """Evaluate a recipe beside its full budget.

    Args:
        questions: At least one.
        recipe: Program, policy and sampling; with a seed, so that both sides draw the same.
        engine: What runs the model.
        max_active: Most questions in flight.

    Returns:
        Means over the questions. Of the policy: `accuracy`, `net_tokens`. Of the full budget: `full_accuracy`,
        `full_net_tokens`, and `certaindex_correlation` (Pearson's, of the entropy certaindex with being right) where both
        vary. Of both: `tokens_saved`, the share of the full budget's tokens, and for self-consistency
        `tokens_saved_at_equal_accuracy`: against the even budget that is as accurate as the policy, which is fairer
        where a small budget is as good as a large one.

    Raises:
        ConfigurationError: The recipe has no seed.
        InputError: No question could be solved.
    """
    if recipe.seed is None:
        raise ConfigurationError(
            "Got a recipe without a seed but expected one: both sides have to draw the same."
        )
    full = replace(recipe, policy="even", preset=None, thresholds=None, detect_at=None, max_tokens=None)
    if recipe.program == "self_consistency" and not recipe.program_options:
        return _replay_both(questions, recipe, full, engine, max_active)
    report = evaluate(questions, full, engine, max_active=max_active)
    if recipe.build_policy().name == "even":
        return _compare(report, report.accuracy, report.usage.net_tokens / len(report.results))
    tried = evaluate(questions, recipe, engine, max_active=max_active)
    return _compare(report, tried.accuracy, tried.usage.net_tokens / len(tried.results))


def _replay_both(
    questions: Sequence[Question], recipe: Recipe, full: Recipe, engine: Engine, max_active: int
) -> dict[str, float]:
    recording, lines = RecordingEngine(engine), io.StringIO()
    writer = TraceWriter(lines, recording, full)
    report = evaluate(questions, full, recording, max_active=max_active, on_result=writer)
    rows = [json.loads(line) for line in lines.getvalue().splitlines()]
    samples = [read_samples(ProgramTrace.from_dict(row)) for row in rows if "error" not in row]
    num = len(report.results)  # a question that ended with an error is wrong, and costs what it cost
    lost = report.usage.net_tokens - sum(answer.usage.net_tokens for answer in report.answers)
    points = []
    for budget in range(1, int(recipe.budget or 1) + 1):
        found = replay_samples(samples, Even(), budget=budget)
        tokens = (sum(row.net_tokens for row in found) + lost) / num
        points.append((tokens, sum(row.is_correct for row in found) / num))
    tried = replay_samples(samples, recipe.build_policy())
    tokens = (sum(row.net_tokens for row in tried) + lost) / num
    accuracy = sum(row.is_correct for row in tried) / num
    figures = _compare(report, accuracy, tokens)
    if points[-1][0] > 0:
        figures["tokens_saved_at_equal_accuracy"] = save_at_equal_accuracy(tokens, accuracy, points)
    return figures


def _compare(full: EvaluationReport, accuracy: float, net_tokens: float) -> dict[str, float]:
    num = len(full.results)
    full_tokens = full.usage.net_tokens / num
    figures = {
        "accuracy": accuracy,
        "net_tokens": net_tokens,
        "full_accuracy": full.accuracy,
        "full_net_tokens": full_tokens,
        "tokens_saved": 1 - net_tokens / full_tokens if full_tokens else 0.0,
        "answered": statistics.fmean(
            item.answer is not None and item.answer.text is not None for item in full.results
        ),
    }
    read = [
        (item.answer.certaindex.signals[SIGNAL], float(item.is_correct))
        for item in full.results
        if item.answer is not None and SIGNAL in item.answer.certaindex.signals
    ]
    found = correlate([value for value, _ in read], [is_right for _, is_right in read])
    return figures if found is None else figures | {"certaindex_correlation": found}
