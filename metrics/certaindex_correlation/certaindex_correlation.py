"""How well a certaindex reading tells what a question needs: Pearson's and Kendall's correlation."""

import datasets
import evaluate
from scipy import stats

_DESCRIPTION = """\
Correlation of a certainty reading (certaindex: entropy, agreement, answer probability, reward) with what a question
turned out to need (samples, steps, tokens), or with whether its answer was right.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of float): one reading for each question; NaN where the signal was not known.
    references (list of float): what the question needed, or 1 for a right and 0 for a wrong answer.

Returns:
    pearson (float): Pearson's correlation, None where either side never varies.
    pearson_p (float): its two-sided p-value.
    kendall (float): Kendall's tau-b, which allows for ties.
    kendall_p (float): its two-sided p-value.
    num_pairs (int): questions with a known reading.

Examples:
    >>> metric = evaluate.load("path/to/certaindex_correlation")
    >>> found = metric.compute(predictions=[1.0, 0.5, 0.0], references=[5, 10, 15])
    >>> round(found["pearson"], 6), found["kendall"]
    (-1.0, -1.0)
"""

_CITATION = """\
@article{fu2024certaindex,
  title={Efficiently Serving LLM Reasoning Programs with Certaindex},
  author={Fu, Yichao and Chen, Junda and Zhu, Siqi and Fu, Zheyu and Dai, Zhongdongming and Qiao, Aurick and Zhang, Hao},
  journal={arXiv preprint arXiv:2412.20993},
  year={2024}
}
"""


class CertaindexCorrelation(evaluate.Metric):
    """See the description."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            ),
            reference_urls=["https://arxiv.org/abs/2412.20993"],
        )

    def _compute(self, predictions, references):
        pairs = [(float(x), float(y)) for x, y in zip(predictions, references, strict=True) if x == x]
        if len(pairs) < 2:
            raise ValueError(f"Got {len(pairs)} known readings but expected at least 2.")
        readings, needed = zip(*pairs, strict=True)
        found = {
            "pearson": None,
            "pearson_p": None,
            "kendall": None,
            "kendall_p": None,
            "num_pairs": len(pairs),
        }
        if len(set(readings)) > 1 and len(set(needed)) > 1:
            linear, ranked = stats.pearsonr(readings, needed), stats.kendalltau(readings, needed)
            found["pearson"], found["pearson_p"] = float(linear.statistic), float(linear.pvalue)
            found["kendall"], found["kendall_p"] = float(ranked.statistic), float(ranked.pvalue)
        return found
