"""One real server for all clients: `hf-dynasor serve` over the embedded model, in a process of its own.

`HF_DYNASOR_E2E_URL` names a server that runs already; `HF_DYNASOR_E2E_REPLICAS=2` starts so many replicas instead of one.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.serving.http.kit import start_server
from tests.serving.replicas.kit import start_replicas

QUESTION = "What is 17*6+4?\nPlease reason step by step, and put your final answer within \\boxed{}."


@pytest.fixture(scope="session")
def address(tmp_path_factory):
    replicas = int(os.environ.get("HF_DYNASOR_E2E_REPLICAS", "1"))
    if url := os.environ.get("HF_DYNASOR_E2E_URL"):
        yield url
    elif replicas > 1:
        with start_replicas(tmp_path_factory.mktemp("replicas"), replicas=replicas) as (_, address):
            yield address
    else:
        with start_server() as (_, address):
            yield address


@pytest.fixture(scope="session")
def question():
    return QUESTION


@pytest.fixture
def run_client(tmp_path):
    """Runs a command in an empty folder, without any other host; its output."""

    def run(*command, seconds=240, **variables):
        environment = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(tmp_path / "datasets"),
            "OPENAI_API_KEY": "none",
            **variables,
        }
        result = subprocess.run(
            [str(part) for part in command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert result.returncode == 0, f"{result.stdout[-6000:]}\n{result.stderr[-6000:]}"
        return result.stdout

    return run


@pytest.fixture
def run_python(run_client):
    """Runs Python in a process of its own."""
    return lambda *arguments, **options: run_client(sys.executable, *arguments, **options)
