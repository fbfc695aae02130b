"""Share of requests that ended by their deadline, and how much tighter or looser the deadlines could be."""

import math

import datasets
import evaluate
from scipy import stats

_DESCRIPTION = """\
Attainment of deadlines (service-level objectives): the share of reasoning programs that ended in time, its 95% interval,
and the least factor on all deadlines at which a target share would be met.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of float): latency of each program in seconds; infinite for one that never ended.
    references (list of float): its deadline in seconds after it arrived, above 0.
    target (float, optional): share that has to end in time, in (0, 1]. Defaults to 0.9 (P90).

Returns:
    attainment (float): share that ended in time; a latency equal to the deadline is in time.
    attainment_interval (list of two floats): Wilson's 95% interval.
    num_missed (int): programs that were late.
    is_met (bool): whether the attainment is at least the target.
    least_scale (float): least factor on all deadlines at which the target is met; below 1 they could be tighter.

Examples:
    >>> metric = evaluate.load("path/to/slo_attainment")
    >>> found = metric.compute(predictions=[1.0, 2.0, 9.0, 4.0], references=[2.0, 2.0, 6.0, 8.0], target=0.75)
    >>> found["attainment"], found["is_met"], found["least_scale"]
    (0.75, True, 1.0)
"""

_CITATION = """\
@article{fu2024certaindex,
  title={Efficiently Serving LLM Reasoning Programs with Certaindex},
  author={Fu, Yichao and Chen, Junda and Zhu, Siqi and Fu, Zheyu and Dai, Zhongdongming and Qiao, Aurick and Zhang, Hao},
  journal={arXiv preprint arXiv:2412.20993},
  year={2024}
}
"""


class SLOAttainment(evaluate.Metric):
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

    def _compute(self, predictions, references, target=0.9):
        if not 0 < target <= 1:
            raise ValueError(f"Got {target = } but expected a share in (0, 1].")
        pairs = list(zip(predictions, references, strict=True))
        for latency, deadline in pairs:
            if not latency >= 0 or not 0 < deadline < math.inf:
                raise ValueError(
                    f"Got {latency = } and {deadline = } but expected seconds: from 0, and above 0."
                )
        num, num_met = len(pairs), sum(latency <= deadline for latency, deadline in pairs)
        ratios = sorted(latency / deadline for latency, deadline in pairs)
        return {
            "attainment": num_met / num,
            "attainment_interval": _find_interval(num_met, num),
            "num_missed": num - num_met,
            "is_met": num_met / num >= target,
            # Rounding must not ask for one program more than the target does.
            "least_scale": ratios[max(1, math.ceil(target * num - 1e-9)) - 1],
        }


def _find_interval(num_met, num):
    found = stats.binomtest(num_met, num).proportion_ci(method="wilson")
    return [float(found.low), float(found.high)]
