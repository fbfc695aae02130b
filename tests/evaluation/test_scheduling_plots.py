"""Pictures of scheduling studies are drawn from the JSON line of the benchmark."""

import pytest

from hf_dynasor.evaluation.scheduling_plots import plot_figures

ROW = {
    "slo_scale": 2.0,
    "attainment_by_rate": {"lpm": {"1.0": 0.9, "2.0": 0.5}, "ours": {"1.0": 1.0, "2.0": 0.9}},
    "attainment_by_scale": {"rate": 1.0, "lpm": {"1.0": 0.2, "2.0": 0.5}},
    "accuracy_by_attainment": {"rate": 1.0, "lpm": [{"budget": 5, "attainment": 0.9, "accuracy": 0.7}]},
    "mean_latency": {"rate": 1.0, "lpm": 4.0},
    "sustained_rate": {"lpm": 1.0, "ours": None},
    "fairness": {"rate": 1.0, "lpm": {"p10": 0.1, "p90": 0.3}},
}


def test_six_pictures_are_written(tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need the extra `eval`")
    paths = plot_figures(ROW, tmp_path / "pictures")
    assert len(set(paths)) == 6
    assert all(path.stat().st_size > 1000 for path in paths)
