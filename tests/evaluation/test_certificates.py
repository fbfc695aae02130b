"""Certificates over random splits: the recorded figures hold what they promise, and the page shows them."""

import json
import re
import runpy
from pathlib import Path

import pytest
from scipy import stats

ROOT = Path(__file__).parents[2]
TRACES = ROOT.parent / "shared" / "data" / "traces"
RESULT = json.loads((ROOT / "benchmarks" / "results" / "certificates.json").read_text())
PAGE = (ROOT / "docs" / "calibration.md").read_text()


def test_broken_promises_are_within_the_binomial_interval_of_the_promised_share():
    """Ten in a hundred may break; of 200 splits up to 29 are within the 95% interval."""
    assert RESULT["num_splits"] >= 200
    assert len(RESULT["splits"]) >= 3
    most = stats.binom.ppf(0.975, RESULT["num_splits"], 1 - RESULT["confidence"]) / RESULT["num_splits"]
    assert RESULT["most_broken"] == pytest.approx(most)
    for name, row in RESULT["splits"].items():
        assert row["broken_over_all"] <= most, name
        assert row["broken_held_out"] <= most, name
        assert row["certified"] > 0.5, name  # a promise that is never made is never broken


def test_the_figures_of_splits_were_not_bought_with_optimism():
    for name, row in RESULT["splits"].items():
        assert abs(row["saved_calibration"] - row["saved_held_out"]) < 0.02, name


def test_the_page_shows_what_was_measured():
    rows = {
        match[0].strip(): match[1]
        for match in re.findall(
            r"^\| ([^|]+) \|(.+)\|$", PAGE.split("## Do certificates hold?")[1], re.MULTILINE
        )
    }
    for part in ("splits", "label_noise", "shifts"):
        for name, row in RESULT[part].items():
            assert f" {row['broken_over_all']:.1%} " in rows[name], name


def test_the_python_block_of_the_page_chooses_a_policy(tmp_path, monkeypatch):
    """With a trace of 150 chains that are all sure of the right answer halfway."""
    trial = {"position": 500, "answer": "4", "confidence": 0.99999, "num_tokens": 5}
    chain = {
        "answer": "4",
        "num_tokens": 1000,
        "finish_reason": "stop",
        "final_answer": "4",
        "is_correct": True,
    }
    ids = [f"sums-{index}" for index in range(150)]
    for prefix, rows in (
        ("probed", [{"id": id, "probes": []} | chain for id in ids]),
        ("boundary", [{"id": id, "trials": [trial]} for id in ids]),
    ):
        (tmp_path / f"{prefix}_tiny_sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(code, "calibration.md", "exec"), names)
    assert names["choose"](tmp_path / "boundary_tiny_sums.jsonl").share > 0.4
    assert (tmp_path / "policy.json").exists()


def test_shifts_break_promises_and_the_page_does_not_hide_it():
    assert max(row["broken_over_all"] for row in RESULT["shifts"].values()) > RESULT["most_broken"]


@pytest.mark.slow
@pytest.mark.skipif(not TRACES.is_dir(), reason="the recorded traces are not there")
@pytest.mark.parametrize("name", ["boundary confidence, R1-7B", "boundary confidence, Qwen3-8B"])
def test_certificates_hold_on_recorded_traces(name):
    """Run again, with 200 splits; by the binomial interval a true 10% would fail once in forty runs."""
    benchmark = runpy.run_path(str(ROOT / "benchmarks" / "certificates.py"))
    case = benchmark["CASES"][name]
    row = benchmark["try_splits"](benchmark["gather"](TRACES, case), case, 200)
    assert row["broken_over_all"] <= benchmark["find_most_broken"](200)
    assert row["certified"] > 0.5
