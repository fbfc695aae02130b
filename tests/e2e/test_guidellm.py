"""guidellm's load against a running server: it sends `ignore_eos` and asks for usage in every chunk.

It lives in an environment of its own, named by the variable GUIDELLM: it brings another event loop, which the server
would take up.
"""

from __future__ import annotations

import json
import os
import shutil

import pytest

from hf_dynasor.serving.model_source import locate_model

PROGRAM = os.environ.get("GUIDELLM") or shutil.which("guidellm")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(PROGRAM is None, reason="GUIDELLM names no guidellm; `make test-e2e` installs it"),
]
NUM_REQUESTS, NUM_TOKENS = 8, 16


def test_every_request_of_a_load_is_answered_with_as_many_tokens_as_it_asked_for(
    run_client, address, tmp_path
):
    folder = locate_model("embedded", local_files_only=True)[0]
    run_client(
        *(PROGRAM, "run", "--disable-console-interactive"),
        *("--backend", f"kind=openai_http,target={address},model=embedded"),
        *("--profile", "kind=concurrent,streams=[4]"),
        *("--constraint", f"kind=max_requests,count={NUM_REQUESTS}"),
        *("--tokenizer", f"kind=huggingface_auto,model={folder}"),
        *("--data", f"kind=synthetic_text,prompt_tokens=32,output_tokens={NUM_TOKENS}"),
        *("--output", f"kind=json,path={tmp_path / 'report.json'}"),
    )
    (benchmark,) = json.loads((tmp_path / "report.json").read_text())["benchmarks"]
    done = benchmark["requests"]["successful"]
    assert not benchmark["requests"]["errored"]
    assert len(done) == NUM_REQUESTS
    assert {request["output_metrics"]["text_tokens"] for request in done} == {NUM_TOKENS}
