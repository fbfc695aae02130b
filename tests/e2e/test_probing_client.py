"""A client that probes as Dynasor's own does, and Dynasor's own fields, which do it in the server."""

from __future__ import annotations

import re

import httpx
import pytest

pytestmark = pytest.mark.e2e

PROBE = "\n\nSo the final answer is \\boxed{"
CHUNK, WINDOW, MAX_CHUNKS = 16, 2, 24


@pytest.fixture(scope="module")
def http(address):
    with httpx.Client(base_url=address, timeout=120) as http:
        yield http


@pytest.fixture(scope="module")
def prompt(http, question):
    """The conversation as text, its thinking open."""
    body = {
        "messages": [{"role": "user", "content": question}],
        "chat_template_kwargs": {"enable_thinking": True},
    }
    ids = http.post("/tokenize", json=body).json()["tokens"]
    return http.post("/detokenize", json={"tokens": ids}).json()["prompt"]


def complete(http, prompt, **options):
    body = {"prompt": prompt, "temperature": 0, **options}
    reply = http.post("/v1/completions", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_completions_in_chunks_with_a_probe_on_the_same_prefix_stop_early(http, prompt):
    text, answers, cached, num_tokens = "", [], [], 0
    for _ in range(MAX_CHUNKS):
        chunk = complete(http, prompt + text, max_tokens=CHUNK)
        text += chunk["choices"][0]["text"]
        num_tokens += chunk["usage"]["completion_tokens"]
        probe = complete(http, prompt + text + PROBE, max_tokens=12, stop="}")
        cached.append(probe["usage"]["prompt_tokens_details"]["cached_tokens"])
        answers.append(probe["choices"][0]["text"].strip())
        if chunk["choices"][0]["finish_reason"] == "stop":
            break
        if (
            len(answers) >= WINDOW
            and len(set(answers[-WINDOW:])) == 1
            and re.fullmatch(r"-?\d+", answers[-1])
        ):
            break
    assert answers[-1] == "106"
    whole = complete(http, prompt, max_tokens=CHUNK * MAX_CHUNKS)
    assert num_tokens <= whole["usage"]["completion_tokens"]
    assert max(cached) > 0  # the prefix is not computed again


def test_adaptive_compute_probes_in_the_server(http, prompt):
    whole = complete(http, prompt, max_tokens=CHUNK * MAX_CHUNKS)["usage"]
    options = {"mode": "certainty", "probe_text": PROBE, "certainty_window": WINDOW, "token_interval": CHUNK}
    reply = complete(http, prompt, max_tokens=CHUNK * MAX_CHUNKS, adaptive_compute=options)
    usage = reply["usage"]
    assert "106" in reply["choices"][0]["text"]
    assert usage["dynasor"]["probe_tokens"] > 0
    assert usage["completion_tokens"] - usage["dynasor"]["forced_tokens"] <= whole["completion_tokens"]


@pytest.mark.parametrize("effort", ["mild", "low", "mid", "high", "crazy"])
def test_saving_effort_answers_and_accounts_for_its_probes(http, question, effort):
    body = {
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "chat_template_kwargs": {"enable_thinking": True},
        "dynasor": {"saving_effort": effort},
    }
    reply = http.post("/v1/chat/completions", json=body).json()
    # The hastiest effort believes two equal probes half a step apart, so it promises an answer and not the right one.
    expected = r"\\boxed\{\d+\}" if effort == "crazy" else "106"
    assert re.search(expected, reply["choices"][0]["message"]["content"])
    usage = reply["usage"]
    assert usage["dynasor"]["net_tokens"] >= usage["completion_tokens"]
