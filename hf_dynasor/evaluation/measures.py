"""What a table of predictions says: accuracy, net tokens, how well certaindex tells right from wrong, what was saved.

Pure; the callback, the reporters and `compute_metrics` of a trainer share it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hf_dynasor.answers import AnswerFormat, extract_answer, is_correct
from hf_dynasor.errors import ConfigurationError, InputError
from hf_dynasor.evaluation.predictions import Prediction


def measure(predictions: Sequence[Prediction], *, signal: str = "entropy") -> dict[str, float]:
    """The figures of an evaluation so far, for logs.

    Args:
        predictions: At least one; errors count as wrong.
        signal: The certaindex signal that is compared with being right.

    Returns:
        `accuracy`, `net_tokens` (a question's mean), `early_stop_rate`, and `certaindex_correlation` (Pearson's, of the
        signal at the end with being right) where both vary.

    Raises:
        InputError: There are no predictions.

    Examples:
        >>> from hf_dynasor.core import Usage
        >>> row = dict(seed=0, question="?", gold="4", budget=5, unit="samples")
        >>> rows = [
        ...     Prediction(id="a", is_right=True, usage=Usage(sampled=30), certaindex={"entropy": 1.0}, **row),
        ...     Prediction(id="b", is_right=False, usage=Usage(sampled=10), certaindex={"entropy": 0.2}, **row),
        ... ]
        >>> {name: round(value, 3) for name, value in measure(rows).items()}
        {'accuracy': 0.5, 'net_tokens': 20.0, 'early_stop_rate': 0.0, 'certaindex_correlation': 1.0}
    """
    if not predictions:
        raise InputError("Got no predictions but expected at least one.")
    figures = {
        "accuracy": statistics.fmean(item.is_right for item in predictions),
        "net_tokens": statistics.fmean(item.net_tokens for item in predictions),
        "early_stop_rate": statistics.fmean(item.is_early for item in predictions),
    }
    read = [item for item in predictions if signal in item.certaindex]
    found = correlate([item.certaindex[signal] for item in read], [float(item.is_right) for item in read])
    return figures if found is None else figures | {"certaindex_correlation": found}


def correlate(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Pearson's correlation; `None` where either never varies, or there are fewer than two pairs.

    Examples:
        >>> correlate([1, 2, 3], [2, 4, 6]), correlate([1, 1], [1, 2])
        (1.0, None)
    """
    if len(first) < 2 or len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return round(statistics.correlation(first, second), 9)


def find_tokens_for(accuracy: float, curve: Sequence[tuple[float, float]]) -> float:
    """Tokens with which a curve reaches an accuracy, on straight lines between its points.

    Args:
        accuracy: What is to be reached.
        curve: Pairs of (tokens, accuracy), such as one for each budget of an even allocation; a point that is less
            accurate than a cheaper one is left out.

    Returns:
        The tokens; those of the cheapest point where that is enough already, those of the dearest where none is.

    Raises:
        ConfigurationError: No point.

    Examples:
        >>> curve = [(100, 0.5), (200, 0.7), (400, 0.7)]
        >>> find_tokens_for(0.6, curve), find_tokens_for(0.7, curve), find_tokens_for(0.9, curve)
        (150.0, 200.0, 400.0)
    """
    if not curve:
        raise ConfigurationError("Got a curve without points but expected at least one.")
    points = sorted(curve)
    tokens, reached = points[0]
    for more_tokens, higher in points[1:]:
        if reached >= accuracy:
            break
        if higher >= accuracy:
            return tokens + (more_tokens - tokens) * (accuracy - reached) / (higher - reached)
        if higher > reached:
            tokens, reached = more_tokens, higher
    return float(tokens) if reached >= accuracy else float(points[-1][0])


def save_at_equal_accuracy(tokens: float, accuracy: float, curve: Sequence[tuple[float, float]]) -> float:
    """Share of a baseline's tokens that is saved at the same accuracy; negative where it costs more.

    Where the baseline never gets there, its dearest point is compared with: the share is then a lower bound.

    Args:
        tokens, accuracy: Of what is judged.
        curve: Of the baseline; see `find_tokens_for`.

    Examples:
        >>> save_at_equal_accuracy(90, 0.6, [(100, 0.5), (200, 0.7)])
        0.4
    """
    needed = find_tokens_for(accuracy, curve)
    if needed <= 0:
        raise ConfigurationError(f"Got a baseline of {needed} tokens but expected more than 0.")
    return round(1 - tokens / needed, 9)


def make_compute_metrics(
    decode: Callable[[Any], Sequence[str]], *, answer_format: AnswerFormat = "auto", ignore_index: int = -100
) -> Callable[[Any], dict[str, float]]:
    """A `compute_metrics` for a `Trainer` whose predictions are generated token ids (`predict_with_generate`).

    Args:
        decode: From a batch of token ids to texts, such as a tokenizer's `batch_decode`.
        answer_format: How answers are found and graded.
        ignore_index: Fills what is no token, in labels and in predictions.

    Returns:
        A function from predictions and labels, each of shape (questions, tokens), to `accuracy`, `answered` (the share
        that stated an answer) and `gen_len` (mean tokens).
    """

    def compute(evaluated: Any) -> dict[str, float]:
        given, wanted = (
            [[int(token) for token in row if token != ignore_index] for row in rows]
            for rows in (evaluated.predictions, evaluated.label_ids)
        )
        answers = [extract_answer(text, format=answer_format) for text in decode(given)]
        golds = [extract_answer(text, format=answer_format) or text for text in decode(wanted)]
        rights = [
            is_correct(answer, gold, format=answer_format)
            for answer, gold in zip(answers, golds, strict=True)
        ]
        return {
            "accuracy": statistics.fmean(rights),
            "answered": statistics.fmean(answer is not None for answer in answers),
            "gen_len": statistics.fmean(map(len, given)),
        }

    return compute


def name_apart(figures: Mapping[str, float], prefix: str) -> dict[str, float]:
    """Figures under names with a prefix, as a trainer's logs have them.

    Examples:
        >>> name_apart({"accuracy": 0.5}, "eval_reasoning")
        {'eval_reasoning_accuracy': 0.5}
    """
    return {f"{prefix}_{name}": value for name, value in figures.items()}
