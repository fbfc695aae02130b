"""Requests made from the OpenAPI document, right and wrong ones: no 5xx, no status that it does not name."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from hf_dynasor.embedded import REASONER_PATH
from hf_dynasor.serving import load_model
from hf_dynasor.serving.http.app import create_app
from hf_dynasor.serving.http.model_info import ServedModel
from hf_dynasor.serving.http.settings import ServerSettings
from hf_dynasor.serving.serve_engine import make_serving_engine
from tests.serving.http.kit import serve
from tests.serving.replicas.kit import serve_config

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


CONTEXT = 128
"""A short context keeps what is generated short; nothing else differs from a real server."""
LIMITS = {"max_choices": 2, "max_prompts": 2, "max_programs": 2}


@pytest.fixture
def limited_address(tmp_path):
    if (replicas := int(os.environ.get("HF_DYNASOR_E2E_REPLICAS", "1"))) > 1:
        folder = shutil.copytree(REASONER_PATH, tmp_path / "embedded")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": CONTEXT}))
        settings = {**LIMITS, "model_name": "embedded"}
        scale = {"replicas": replicas, "max_replicas": None}
        with serve_config(tmp_path, model={"model": str(folder)}, settings=settings, scale=scale) as cluster:
            yield cluster.address
        return
    loaded = load_model("embedded")
    model = ServedModel(loaded, "embedded", 0, capacity=CONTEXT)
    with (
        make_serving_engine(loaded) as engine,
        serve(create_app(engine, model, ServerSettings(**LIMITS))) as address,
    ):
        yield address


def test_whatever_a_client_sends_the_answer_is_a_documented_one(run_client, limited_address):
    program = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("needs the extra e2e")
    options = ("--checks", CHECKS, "--max-examples", "5", "--seed", "1", "--generation-database", "none")
    phases = ("--phases", "examples,coverage,fuzzing,stateful", "--request-timeout", "60")
    told = run_client(program, "run", f"{limited_address}/openapi.json", *options, *phases, seconds=850)
    # An exit code of 0 says nothing of how much was tried.
    num_selected, num_operations, num_tested, num_cases = (
        int(re.sub(r"\D", "", number))
        for pattern in (r"Selected: ([\d,]+)/([\d,]+)", r"Tested: ([\d,]+)", r"([\d,]+) generated")
        for number in re.search(pattern, told).groups()
    )
    assert num_selected == num_operations == num_tested >= 25, told[-3000:]
    assert num_cases > 500
    assert "errored" not in told, told[-3000:]
