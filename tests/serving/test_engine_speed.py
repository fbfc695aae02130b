"""The benchmark of the engines runs, and ends with one line for machines."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "engine_speed.py"


@pytest.fixture
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("engine_speed", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_last_line_is_the_result(
    benchmark: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    benchmark.main(["--model", "tiny", "--rounds", "1", "--tokens", "2"])
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["model"] == "tiny"
    assert set(record["tokens_per_second"]) == set(benchmark.WORKLOADS)
    for row in record["tokens_per_second"].values():
        assert set(row) == {"model.generate", "generate", "continuous"}
        assert all(speed > 0 for speed in row.values())


def test_it_measures_the_embedded_model_unless_told_otherwise(benchmark: ModuleType) -> None:
    """It measured a random model, whose speed nobody will see."""
    assert benchmark._parse_options([]).model == "embedded"
