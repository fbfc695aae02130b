"""The task is known to transformers, whichever module is imported first."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import hf_dynasor

CHECK = "from transformers.pipelines import PIPELINE_REGISTRY as known; print('dynasor-reasoning' in known.supported_tasks)"


@pytest.mark.slow
@pytest.mark.parametrize("first", ["hf_dynasor", "hf_dynasor.pipelines", "hf_dynasor.hub_pipeline"])
def test_the_task_is_registered_whichever_module_comes_first(first):
    root = str(Path(hf_dynasor.__file__).parents[1])
    result = subprocess.run(
        [sys.executable, "-c", f"import {first}\n{CHECK}"],
        capture_output=True, text=True, timeout=120, check=False, env=os.environ | {"PYTHONPATH": root},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "True"
