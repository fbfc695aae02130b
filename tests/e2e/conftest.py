"""One real server for all clients: `hf-dynasor serve` over the embedded model, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.serving.http.kit import start_server

QUESTION = "What is 17*6+4?\nPlease reason step by step, and put your final answer within \\boxed{}."


@pytest.fixture(scope="session")
def address():
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
