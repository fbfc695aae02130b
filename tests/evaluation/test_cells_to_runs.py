"""Cells of the benchmark of programs as runs: nothing is lost, nothing is made up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from hf_dynasor.evaluation.report_data import gather_report
from hf_dynasor.evaluation.report_settings import find_runs

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "cells_to_runs.py"


def test_cells_become_runs_with_their_grades_and_sums(tmp_path):
    cells = [
        {"program": "rebase", "cap": 4, "seed": seed, "part": part, "rights": ("10" * 63)[:125]}
        | {"net_tokens": 1000 + part, "sequential_tokens": 500}
        for seed in (0, 1)
        for part in (0, 1)
    ]
    path = tmp_path / "cells.jsonl"
    path.write_text("".join(json.dumps(cell) + "\n" for cell in [*cells, cells[0]]))
    command = [sys.executable, str(SCRIPT), str(path), "--output", str(tmp_path / "runs")]
    assert "wrote 2 runs" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    runs = find_runs([tmp_path / "runs"])
    assert [run.totals.net_tokens for run in runs] == [2001, 2001]
    assert [run.totals.num_questions for run in runs] == [250, 250]
    assert all(run.totals.accuracy == 126 / 250 for run in runs)
    (group,) = gather_report([str(tmp_path / "runs")]).groups
    (row,) = group.rows
    assert row.summary.num_seeds == 2
    assert row.summary.net_tokens_interval is None, "the tokens of single questions are not known"
