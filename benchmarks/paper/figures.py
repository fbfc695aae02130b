"""What each figure and table of the paper is measured by here, and the paper's numbers beside ours.

Most of it is measured elsewhere in this folder's parent; such entries name the command and read its results. What the
paper's numbers stand for is our reading of its text: 2412.20993, first version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elsewhere import (
    Row,
    list_chains,
    list_fairness,
    list_growth,
    list_latencies,
    list_policies,
    list_rates_and_deadlines,
    list_signals,
    list_sustained_rates,
    show_percent,
    show_span,
)
from offline import measure_offline
from online import BASELINE, OURS, measure_online
from signals import measure_needs, measure_steps, measure_thresholds


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Where the inputs are: recorded runs of the embedded reasoner, and traces of other models (or none)."""

    runs: Path
    traces: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure or table.

    Args:
        title: What it shows.
        command: What measures it here.
        measure: Gives the rows `(what, the paper's, ours)` and, where there is more to keep, the raw figures.
        remark: What a reader must know.
        is_read: Whether it is read from what another benchmark measured, so that it can be made again at once.
    """

    title: str
    command: str
    measure: Callable[[Options], tuple[list[Row], Any]]
    remark: str = ""
    is_read: bool = False


def _offline(options: Options) -> tuple[list[Row], Any]:
    measured = measure_offline(options.runs)
    found = []
    for program, item in measured.items():
        head = f"{program}, cap {item['budget']}, {item['num_questions']} questions × {item['num_seeds']}"
        for row in item["policies"]:
            ours = (
                f"saves {show_percent(row['saved'])} ({show_span(row['saved_interval'])}) at {row['points']:+.2f} points "
                f"({show_span(row['points_interval'], 1)}){'' if row['is_equal'] else ', not equal'}"
                f"{', by stopping everything' if row['stops_everything'] else ''}{_show_smaller(row, item['budget'])}"
            )
            paper = "–" if row["policy"].startswith("length") else item["paper_saves"]
            found.append((f"{head}: {row['policy']}", paper, ours))
    return found, measured


def _show_smaller(row: dict[str, Any], cap: int) -> str:
    """What is saved beside the cheapest even budget that is as accurate, where that is a smaller one."""
    equal = row["at_equal_accuracy"]
    if equal is None or equal["even_budget"] == cap:
        return ""
    return f"; of an even {equal['even_budget']} {show_percent(equal['saved'])}"


def _needs(options: Options) -> tuple[list[Row], Any]:
    measured = measure_needs(options.runs)
    rows = [
        (
            f"{item['program']}, {signal} at {item['detect_at']}",
            "Pearson .17 to .75, mean .52 over 12 settings",
            f"Pearson {abs(values[0]):.2f}, Kendall {abs(values[1]):.2f} ({item['num_solved']} solved questions)",
        )
        for item in measured
        for signal, values in item["correlations"].items()
        if signal in ("entropy", "reward") and values[0] is not None
    ]
    return rows, measured


def _thresholds(options: Options) -> tuple[list[Row], Any]:
    measured = measure_thresholds(options.runs)
    rows = [
        (
            f"entropy > {row['threshold']:g} at 5 of 20 samples",
            "0.7 (unanimity) for MATH and GSM8K" if row["threshold"] == 0.7 else "–",
            f"saves {show_percent(row['saved'])} at {row['points']:+.2f} points; {show_percent(row['early'])} stop early",
        )
        for row in measured
    ]
    return rows, measured


def _steps(options: Options) -> tuple[list[Row], Any]:
    measured = measure_steps(options.runs, options.traces)
    rows = [
        (
            f"{item['name']}, detection at {first['detect_at']} and at {last['detect_at']}: share that stops early",
            "30% more from 5 to 30",
            f"{show_percent(first['early'])} and {show_percent(last['early'])}; saves {show_percent(first['saved'])} and {show_percent(last['saved'])}",
        )
        for item in measured
        for first, last in [(item["points"][0], item["points"][-1])]
    ]
    return rows, measured


def _online(options: Options) -> tuple[list[Row], Any]:
    measured = measure_online(options.traces)
    rows: list[Row] = []
    for item in measured:
        for row in item["rates"]:
            rows.append(
                (
                    f"{item['workload']}, {row['factor']:g} × the baseline's rate: accuracy at 90% of deadlines",
                    "+0.7 to +2 points",
                    f"{_show_held(row[BASELINE])}; with certaindex {_show_held(row[OURS])}"
                    + (
                        f"; {row['points']:+.2f} points ({show_span(row['points_interval'], 1)})"
                        if "points" in row
                        else ""
                    ),
                )
            )
    return rows, measured


def _show_held(held: dict[str, Any] | None) -> str:
    """The accuracy of the best cap that keeps the deadlines."""
    return "no cap holds" if held is None else f"{show_percent(held['accuracy'])} (cap {held['cap']})"


def _table_1(options: Options) -> tuple[list[Row], Any]:
    measured = measure_offline(options.runs)
    rows: list[Row] = []
    paper = {
        "self_consistency": "entropy > 0.7 at 5 (MATH, GSM8K)",
        "mcts": "entropy > 0.99, reward > 0.4 at 3 (GSM8K)",
        "rebase": "entropy > 0.85, reward > 0.99 at 16 (GSM8K)",
    }
    for program, item in measured.items():
        chosen = "; ".join(row["setting"] for row in item["policies"] if row["policy"].startswith("static"))
        rows.append((f"{program}: thresholds chosen on other questions", paper[program], chosen))
    return rows, None


def _table_2(options: Options) -> tuple[list[Row], Any]:
    return [
        (
            "self-consistency: questions, caps",
            "LCB 400, GSM8K 1000; caps 5 to 30",
            "500, three seeds; caps 1 to 20",
        ),
        ("MCTS: questions, caps", "300; caps 3 to 20", "recorded runs above; caps 4 to 16 in batches of 4"),
        ("Rebase: questions, caps", "500; caps 16 to 128", "recorded runs above; cap 16"),
        ("repeats", "mean of 10 runs", "paired by question and seed, 95% intervals"),
        ("deadline", "SLO scale × difficulty × base, P90", "the same, base measured on the workload"),
    ], None


def _table_3(options: Options) -> tuple[list[Row], Any]:
    measured = measure_offline(options.runs)
    paper = {
        "self_consistency": "11% (MATH), > 47% (GSM8K)",
        "rebase": "> 50% (MATH)",
        "mcts": "13 to 15.8% (ASDiv)",
    }
    rows: list[Row] = []
    for program, item in measured.items():
        equal = [
            row for row in item["policies"] if row["is_equal"] and not row["policy"].startswith("length")
        ]
        best = max(equal, key=lambda row: row["saved"], default=None)
        ours = (
            "–"
            if best is None
            else f"{show_percent(best['saved'])} ({best['policy']}, {best['points']:+.2f} points)"
        )
        rows.append((f"{program}: most saved at equal accuracy", paper[program], ours))
    return rows, None


PAPER = "python benchmarks/paper "
BARS = "python benchmarks/scheduling_bars.py"
ONLINE = (
    "Both may choose their cap at each rate: the most accurate one with which 90% of the deadlines are met (SLO scale 2). Each "
    "half of the questions is served under the threshold that the other half chose; accuracy is the mean over 64 orders of "
    "the recorded samples, and differences are paired by question. The paper's gain is not reached: twenty samples "
    "are only 4.7 points better than one here, and 1.3 better than four, so there is little to win by affording more of them. "
    "At the rate that the baseline sustains anyway the threshold costs 0.2 points; at two and three times that rate there is no telling, at four and six it wins 0.4."
)
SCHEDULING = "python benchmarks/scheduling.py --plots pictures"

FIGURES: Mapping[str, Figure] = {
    "fig_1a": Figure(
        title="More compute, more accuracy, with diminishing returns",
        command="make bench-programs",
        measure=list_growth,
        is_read=True,
    ),
    "fig_3": Figure(
        title="Certaindex against the steps that a question needs",
        command=PAPER + "fig_3",
        measure=_needs,
        remark="A high reading goes with few steps; absolute values, as the paper gives them.",
    ),
    "fig_4": Figure(
        title="Certaindex beside other signals of need",
        command="python benchmarks/allocation.py",
        measure=list_signals,
        is_read=True,
        remark="Length says nothing here: the embedded model's hard questions have no longer samples.",
    ),
    "fig_5": Figure(
        title="What a static threshold saves and costs",
        command=PAPER + "fig_5",
        measure=_thresholds,
    ),
    "fig_8": Figure(
        title="Tokens saved at equal accuracy, by program",
        command=PAPER + "fig_8",
        measure=_offline,
        remark=(
            "Settings were chosen on other questions; the savings are against the same cap, spent evenly. Where a smaller even "
            "budget is as accurate (within half a point), the share that is saved of that one stands at the end: negative "
            "where it is the cheaper choice, which nobody knows beforehand. The length limit has two rows: chosen as the others "
            "are, and the best that can be found on the test questions themselves. Smaller caps are in the JSON (`by_budget`)."
        ),
    ),
    "fig_9": Figure(
        title="Rates and deadlines, beside the baseline",
        command=BARS,
        measure=list_rates_and_deadlines,
        is_read=True,
    ),
    "fig_10": Figure(
        title="Mean latency, part by part", command=SCHEDULING, measure=list_latencies, is_read=True
    ),
    "fig_11": Figure(
        title="Sustained rate, part by part", command=SCHEDULING, measure=list_sustained_rates, is_read=True
    ),
    "fig_12": Figure(
        title="Accuracy at the same attainment of deadlines",
        command=PAPER + "fig_12",
        measure=_online,
        remark=ONLINE,
    ),
    "fig_13": Figure(title="Where certaindex is detected", command=PAPER + "fig_13", measure=_steps),
    "fig_14": Figure(
        title="Fairness by finish time",
        command=SCHEDULING,
        measure=list_fairness,
        is_read=True,
        remark="Time from arrival to end over the tokens of the program, with four times the load that the baseline sustains.",
    ),
    "fig_15": Figure(
        title="Long chains: guided and cut against the raw chain",
        command="make bench-chains; make bench-traces",
        measure=list_chains,
        is_read=True,
        remark=(
            "Guided and cut chains that answer every 32 tokens, wherever they are, and go on lose here and save nothing: this "
            "model was never trained to state an answer in the middle of a thought. Asked at the end of a step instead, once "
            "they have thought for 64 tokens, and with nothing forced to make them go on (`guided-steps`, `cut-steps`: chosen "
            "on 100 other questions), they do what they are meant to do."
        ),
    ),
    "table_1": Figure(title="Thresholds and detection points", command=PAPER + "table_1", measure=_table_1),
    "table_2": Figure(title="Workloads and protocol", command=PAPER + "table_2", measure=_table_2),
    "table_3": Figure(title="Savings by workload", command=PAPER + "table_3", measure=_table_3),
    "table_4": Figure(
        title="Policies side by side",
        command="python benchmarks/allocation.py",
        measure=list_policies,
        is_read=True,
    ),
}
