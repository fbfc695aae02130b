"""What each figure and table of the paper is measured by here, and the paper's numbers beside ours.

Most of it is measured elsewhere in this folder's parent; such entries name the command and read its results. What the
paper's numbers stand for is our reading of its text: 2412.20993, first version.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline import measure_offline
from signals import measure_needs, measure_steps, measure_thresholds

RESULTS = Path(__file__).parents[1] / "results"


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


Row = tuple[str, str, str]


def read_result(name: str) -> Any:
    """What another benchmark measured."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def _percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f}%"


def _span(pair: Sequence[float], scale: float = 100) -> str:
    return f"{scale * pair[0]:.1f} to {scale * pair[1]:.1f}"


def _describe_ratio(ratio: float) -> str:
    return f"{_percent(1 - ratio)} net tokens saved" if ratio <= 1 else f"{ratio:.2f} × the net tokens"


def _growth(options: Options) -> tuple[list[Row], Any]:
    rows = read_result("programs")["rows"]
    found = []
    for program in dict.fromkeys(row["program"] for row in rows):
        mine = [row for row in rows if row["program"] == program]
        if len(mine) > 1:
            steps = ", ".join(f"{_percent(row['accuracy'])} ({row['net_tokens']:.0f})" for row in mine)
            caps = ", ".join(str(row["cap"]) for row in mine)
            found.append((f"{program} at {caps} units: accuracy (net tokens)", "rises, then flattens", steps))
    return found, None


def _offline(options: Options) -> tuple[list[Row], Any]:
    measured = measure_offline(options.runs)
    found = []
    for program, item in measured.items():
        head = f"{program}, cap {item['budget']}, {item['num_questions']} questions × {item['num_seeds']}"
        for row in item["policies"]:
            ours = (
                f"saves {_percent(row['saved'])} ({_span(row['saved_interval'])}) at {row['points']:+.2f} points "
                f"({_span(row['points_interval'], 1)}){'' if row['is_equal'] else ', not equal'}"
                f"{', by stopping everything' if row['stops_everything'] else ''}"
            )
            paper = "–" if row["policy"].startswith("length") else item["paper_saves"]
            found.append((f"{head}: {row['policy']}", paper, ours))
    return found, measured


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


def _signals(options: Options) -> tuple[list[Row], Any]:
    measured = read_result("allocation")["correlations"]
    paper = {
        "entropy": ".68, .61",
        "length": ".40, .35",
        "answer_probability": ".40, .34 (mean normalised log-probability)",
    }
    return [
        (
            f"{name}: Pearson, Kendall (absolute)",
            paper.get(name, "–"),
            ", ".join(f"{abs(v):.2f}" for v in values),
        )
        for name, values in measured.items()
    ], None


def _thresholds(options: Options) -> tuple[list[Row], Any]:
    measured = measure_thresholds(options.runs)
    rows = [
        (
            f"entropy > {row['threshold']:g} at 5 of 20 samples",
            "0.7 (unanimity) for MATH and GSM8K" if row["threshold"] == 0.7 else "–",
            f"saves {_percent(row['saved'])} at {row['points']:+.2f} points; {_percent(row['early'])} stop early",
        )
        for row in measured
    ]
    return rows, measured


def _online(options: Options) -> tuple[list[Row], Any]:
    rows: list[Row] = []
    for name, item in read_result("scheduling_bars")["workloads"].items():
        for scale, found in item["scales"].items():
            ours = found["gang_sjf + certaindex"]["rate_ratio"]
            slo = found["slo_at_its_rate"]["ratio"]
            rows.append(
                (
                    f"{name}, SLO scale {scale}: rate, and SLO tighter at the baseline's rate",
                    "1.6 to 3.3 ×; 1.3 to 4.7 ×",
                    f"{ours:.2f} ×; {slo:.2f} ×",
                )
            )
    return rows, None


def _latency(options: Options) -> tuple[list[Row], Any]:
    measured = read_result("scheduling")["mean_latency"]
    paper = {
        "lpm": 410.0,
        "gang": 306.0,
        "lpm + certaindex": 165.0,
        "gang + certaindex": 159.0,
        "gang_sjf + certaindex": 134.0,
    }
    rows = [
        (
            f"{name}: mean latency, to lpm",
            f"{seconds:.0f} s, {seconds / paper['lpm']:.2f}",
            f"{measured[name]:.1f} s, {measured[name] / measured['lpm']:.2f}",
        )
        for name, seconds in paper.items()
    ]
    real = {(row["policy"], row["allocation"]): row for row in read_result("engine_scheduling")["rows"]}
    ours = real["gang_sjf", "static"]["to_fcfs_even"]
    rows.append(("real engine: gang_sjf with certaindex, to fcfs without", "0.33 (134 / 410)", f"{ours:.2f}"))
    return rows, None


def _rate(options: Options) -> tuple[list[Row], Any]:
    measured = read_result("scheduling")["sustained_rate"]
    paper = {
        "lpm": 1.0,
        "gang": 1.1,
        "lpm + certaindex": 1.2,
        "gang + certaindex": 1.3,
        "gang_sjf + certaindex": 1.9,
    }
    return [
        (f"{name}: sustained rate, to lpm", f"{rate:.1f} ×", f"{measured[name] / measured['lpm']:.2f} ×")
        for name, rate in paper.items()
    ], None


def _accuracy_online(options: Options) -> tuple[list[Row], Any]:
    measured = read_result("scheduling")["accuracy_by_attainment"]
    least = 0.9
    rows: list[Row] = []
    best = {}
    for name in ("lpm", "gang_sjf + certaindex"):
        held = [point for point in measured[name] if point["attainment"] >= least]
        top = max(held, key=lambda point: point["accuracy"])
        best[name] = top["accuracy"]
        rows.append(
            (
                f"{name}: best accuracy with at least 90% of deadlines met",
                "–",
                f"{_percent(top['accuracy'])} (budget {top['budget']}, {_percent(top['attainment'])} met)",
            )
        )
    gain = 100 * (best["gang_sjf + certaindex"] - best["lpm"])
    return [*rows, ("difference in points", "+0.7 to +2", f"{gain:+.1f}")], None


def _steps(options: Options) -> tuple[list[Row], Any]:
    measured = measure_steps(options.runs, options.traces)
    rows = [
        (
            f"{item['name']}, detection at {first['detect_at']} and at {last['detect_at']}: share that stops early",
            "30% more from 5 to 30",
            f"{_percent(first['early'])} and {_percent(last['early'])}; saves {_percent(first['saved'])} and {_percent(last['saved'])}",
        )
        for item in measured
        for first, last in [(item["points"][0], item["points"][-1])]
    ]
    return rows, measured


def _fairness(options: Options) -> tuple[list[Row], Any]:
    measured = read_result("scheduling")["fairness"]
    return [
        (
            f"{name}: latency for each token, median and P99, ms",
            "–",
            f"{1000 * item['p50']:.1f}, {1000 * item['p99']:.1f}",
        )
        for name, item in measured.items()
        if name != "rate"
    ], None


def _chains(options: Options) -> tuple[list[Row], Any]:
    paper = {
        "guided": "about 30% fewer tokens, same accuracy",
        "cut": "about 14% fewer than guided",
        "probed-consistency": "11 to 29% fewer, probes not counted (Dynasor-CoT)",
    }
    found = read_result("chain_of_thought")
    rows: list[Row] = []
    for side in found["sides"]:
        interval = _span(side["accuracy_interval"])
        ratio = side.get("token_ratio")
        saved = "" if ratio is None else f"; {_describe_ratio(ratio)}"
        rows.append(
            (
                f"embedded, {found['num_questions']} questions: {side['side']}",
                paper.get(side["side"], "–"),
                f"{_percent(side['accuracy'])} ({interval}){saved}",
            )
        )
    traces = read_result("traces")["depth"]
    for policy in ("mid", "evidence"):
        if policy in traces:
            for name, item in traces[policy].items():
                ours = f"{item['gain']:+.1f} points ({item['low']:.1f} to {item['high']:.1f}), {item['saved']:.1f}% net tokens saved"
                rows.append(
                    (f"{name}: {policy}", "18 to 29% saved on MATH-500" if "math" in name else "–", ours)
                )
    return rows, None


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
            else f"{_percent(best['saved'])} ({best['policy']}, {best['points']:+.2f} points)"
        )
        rows.append((f"{program}: most saved at equal accuracy", paper[program], ours))
    return rows, None


def _table_4(options: Options) -> tuple[list[Row], Any]:
    paper = {
        "static": ("11.0%", "13.0%"),
        "initial_curve": ("11.9%", "13.6%"),
        "five_step": ("12.7%", "13.3%"),
        "single_step": ("12.7%", "13.6%"),
        "dynamic_curve": ("14.4%", "15.8%"),
    }
    rows: list[Row] = []
    for column, (name, label) in enumerate((("allocation", "SC"), ("allocation_mcts", "MCTS"))):
        found = read_result(name)
        for item in found["policies"]:
            if item["policy"] in paper:
                low, high = item["difference_interval"]
                rows.append(
                    (
                        f"{label}: {item['policy']}",
                        paper[item["policy"]][column],
                        f"{_percent(item['saved'])} at {100 * item['difference']:+.2f} points ({100 * low:+.2f} to {100 * high:+.2f})",
                    )
                )
    return rows, None


PAPER = "python benchmarks/paper "
BARS = "python benchmarks/scheduling_bars.py"
SCHEDULING = "python benchmarks/scheduling.py --plots pictures"

FIGURES: Mapping[str, Figure] = {
    "fig_1a": Figure(
        title="More compute, more accuracy, with diminishing returns",
        command="make bench-programs",
        measure=_growth,
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
        measure=_signals,
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
            "Settings were chosen on other questions; the savings are against the same cap, spent evenly. How the same "
            "setting does under smaller caps, and beside the cheapest even budget that is as accurate, is in the JSON "
            "(`by_budget`, `at_equal_accuracy`): where accuracy is flat, a smaller even budget saves tokens too. The length "
            "limit that is best on the test questions stops nearly everything at the first reading for Rebase and MCTS: it is "
            "a smaller even budget (width 4, 8 iterations) by another name, and Rebase needs no more than that here."
        ),
    ),
    "fig_9": Figure(
        title="Rates and deadlines, beside the baseline", command=BARS, measure=_online, is_read=True
    ),
    "fig_10": Figure(title="Mean latency, part by part", command=SCHEDULING, measure=_latency, is_read=True),
    "fig_11": Figure(title="Sustained rate, part by part", command=SCHEDULING, measure=_rate, is_read=True),
    "fig_12": Figure(
        title="Accuracy at the same attainment of deadlines",
        command=SCHEDULING,
        measure=_accuracy_online,
        is_read=True,
    ),
    "fig_13": Figure(title="Where certaindex is detected", command=PAPER + "fig_13", measure=_steps),
    "fig_14": Figure(
        title="Fairness by finish time",
        command=SCHEDULING,
        measure=_fairness,
        is_read=True,
        remark="Time from arrival to end over the tokens of the program, with four times the load that the baseline sustains.",
    ),
    "fig_15": Figure(
        title="Long chains: guided and cut against the raw chain",
        command="make bench-chains; make bench-traces",
        measure=_chains,
        is_read=True,
        remark=(
            "Guided and cut lose here and save nothing: this model was never trained to state an answer in the middle "
            "of a thought. Probing beside the chain does what they are meant to do."
        ),
    ),
    "table_1": Figure(title="Thresholds and detection points", command=PAPER + "table_1", measure=_table_1),
    "table_2": Figure(title="Workloads and protocol", command=PAPER + "table_2", measure=_table_2),
    "table_3": Figure(title="Savings by workload", command=PAPER + "table_3", measure=_table_3),
    "table_4": Figure(
        title="Policies side by side",
        command="python benchmarks/allocation.py",
        measure=_table_4,
        is_read=True,
    ),
}
