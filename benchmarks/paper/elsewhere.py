"""Figures and tables that other benchmarks measured: their results, as rows beside the paper's numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"

Row = tuple[str, str, str]
"""What, the paper's number, ours."""


def read_result(name: str) -> Any:
    """What another benchmark measured."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def show_percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f}%"


def show_span(pair: Sequence[float], scale: float = 100) -> str:
    return f"{scale * pair[0]:.1f} to {scale * pair[1]:.1f}"


def describe_ratio(ratio: float) -> str:
    return f"{show_percent(1 - ratio)} net tokens saved" if ratio <= 1 else f"{ratio:.2f} × the net tokens"


def list_growth(_: object) -> tuple[list[Row], Any]:
    rows = read_result("programs")["rows"]
    found = []
    for program in dict.fromkeys(row["program"] for row in rows):
        mine = [row for row in rows if row["program"] == program]
        if len(mine) > 1:
            steps = ", ".join(f"{show_percent(row['accuracy'])} ({row['net_tokens']:.0f})" for row in mine)
            caps = ", ".join(str(row["cap"]) for row in mine)
            found.append((f"{program} at {caps} units: accuracy (net tokens)", "rises, then flattens", steps))
    return found, None


def list_signals(_: object) -> tuple[list[Row], Any]:
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


def list_rates_and_deadlines(_: object) -> tuple[list[Row], Any]:
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


def list_latencies(_: object) -> tuple[list[Row], Any]:
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


def list_sustained_rates(_: object) -> tuple[list[Row], Any]:
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


def list_fairness(_: object) -> tuple[list[Row], Any]:
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


def list_chains(_: object) -> tuple[list[Row], Any]:
    paper = {
        "guided": "about 30% fewer tokens, same accuracy",
        "cut": "about 14% fewer than guided",
        "guided-steps": "about 30% fewer tokens, same accuracy",
        "cut-steps": "about 14% fewer than guided",
        "probed-consistency": "11 to 29% fewer, probes not counted (Dynasor-CoT)",
    }
    found, later = read_result("chain_of_thought"), read_result("chain_of_thought_steps")
    rows: list[Row] = []
    for side in (*found["sides"], *(item for item in later["sides"] if item["side"] != "raw")):
        interval = show_span(side["accuracy_interval"])
        ratio = side.get("token_ratio")
        saved = "" if ratio is None else f"; {describe_ratio(ratio)}"
        rows.append(
            (
                f"embedded, {found['num_questions']} questions: {side['side']}",
                paper.get(side["side"], "–"),
                f"{show_percent(side['accuracy'])} ({interval}){saved}",
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


def list_policies(_: object) -> tuple[list[Row], Any]:
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
                        f"{show_percent(item['saved'])} at {100 * item['difference']:+.2f} points ({100 * low:+.2f} to {100 * high:+.2f})",
                    )
                )
    return rows, None
