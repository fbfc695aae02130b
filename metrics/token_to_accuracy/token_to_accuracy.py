"""Accuracy against tokens, setting by setting, and the tokens that are saved at equal accuracy."""

import datasets
import evaluate
from scipy import stats

_DESCRIPTION = """\
The curve of accuracy against tokens over several settings (budgets, policies), with 95% intervals; the tokens that reach a
target accuracy; and, against the curve of a baseline, the share of tokens that each setting saves at its own accuracy.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of str): final answers; an answer is right if it is the reference, space at the ends aside. Bring
        answers of other notations into one form before.
    references (list of str): the right answers.
    tokens (list of int): tokens that each answer cost, probes included.
    settings (list of str): what each answer was made with, such as `even 10`.
    baseline (list of str, optional): the settings whose curve is saved against.
    target_accuracy (float, optional): accuracy in [0, 1] whose tokens are asked for.

Returns:
    curve (list of dict): for each setting, cheapest first: `setting`, `tokens` (mean), `accuracy`,
        `accuracy_interval` (Wilson's 95%), `num`, and with a baseline `saved`: 1 - tokens / the baseline's tokens at the
        same accuracy, on straight lines between its points (its dearest point where it never gets there).
    tokens_at_target (float): with a target: tokens with which the curve of all settings reaches it; None if it does not.

Examples:
    >>> metric = evaluate.load("path/to/token_to_accuracy")
    >>> found = metric.compute(
    ...     predictions=["4", "5", "4", "6"], references=["4", "6", "4", "6"], tokens=[10, 10, 20, 40],
    ...     settings=["one", "one", "three", "three"], target_accuracy=0.75,
    ... )
    >>> [(point["setting"], point["tokens"], point["accuracy"]) for point in found["curve"]]
    [('one', 10.0, 0.5), ('three', 30.0, 1.0)]
    >>> found["tokens_at_target"]
    20.0
"""

_CITATION = """\
@article{fu2024certaindex,
  title={Efficiently Serving LLM Reasoning Programs with Certaindex},
  author={Fu, Yichao and Chen, Junda and Zhu, Siqi and Fu, Zheyu and Dai, Zhongdongming and Qiao, Aurick and Zhang, Hao},
  journal={arXiv preprint arXiv:2412.20993},
  year={2024}
}
"""


class TokenToAccuracy(evaluate.Metric):
    """See the description."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": datasets.Value("string"),
                    "tokens": datasets.Value("int64"),
                    "settings": datasets.Value("string"),
                }
            ),
            reference_urls=["https://arxiv.org/abs/2412.20993"],
        )

    def _compute(self, predictions, references, tokens, settings, baseline=None, target_accuracy=None):
        if target_accuracy is not None and not 0 <= target_accuracy <= 1:
            raise ValueError(f"Got {target_accuracy = } but expected a share in [0, 1].")
        rows = {}
        for answer, right, cost, setting in zip(predictions, references, tokens, settings, strict=True):
            if cost < 0:
                raise ValueError(f"Got {cost} tokens but expected 0 or more.")
            rows.setdefault(setting, []).append((answer.strip() == right.strip(), cost))
        unknown = sorted(set(baseline or ()) - set(rows))
        if unknown:
            raise ValueError(f"Got the baseline {unknown} but expected settings among {sorted(rows)}.")
        curve = sorted(
            (_measure(name, of_one) for name, of_one in rows.items()), key=lambda point: point["tokens"]
        )
        if baseline:
            against = [point for point in curve if point["setting"] in baseline]
            for point in curve:
                needed = _find_tokens(against, point["accuracy"]) or against[-1]["tokens"]
                point["saved"] = 1 - point["tokens"] / needed if needed else 0.0
        found = {"curve": curve}
        if target_accuracy is not None:
            found["tokens_at_target"] = _find_tokens(curve, target_accuracy)
        return found


def _measure(setting, rows):
    num, num_right = len(rows), sum(is_right for is_right, _ in rows)
    return {
        "setting": setting,
        "tokens": sum(cost for _, cost in rows) / num,
        "accuracy": num_right / num,
        "accuracy_interval": _find_interval(num_right, num),
        "num": num,
    }


def _find_tokens(curve, accuracy):
    """Tokens with which a curve reaches an accuracy, on straight lines between its ever better points; None if never."""
    tokens, reached = curve[0]["tokens"], curve[0]["accuracy"]
    for point in curve[1:]:
        if reached >= accuracy:
            break
        if point["accuracy"] >= accuracy:
            return tokens + (point["tokens"] - tokens) * (accuracy - reached) / (point["accuracy"] - reached)
        if point["accuracy"] > reached:
            tokens, reached = point["tokens"], point["accuracy"]
    return tokens if reached >= accuracy else None


def _find_interval(num_right, num):
    found = stats.binomtest(num_right, num).proportion_ci(method="wilson")
    return [float(found.low), float(found.high)]
