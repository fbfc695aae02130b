"""`--backend` and `backend=`: a proxy that knows programs, and the commands against a server that runs the model."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import httpx
import pytest

from hf_dynasor import solve
from hf_dynasor.cli.backends import DIALECT_NAMES
from hf_dynasor.cli.main import main
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.serving import LoadedModel, make_engine
from hf_dynasor.serving.http.app import create_app
from hf_dynasor.serving.http.model_info import ServedModel
from hf_dynasor.serving.remote import DIALECTS
from hf_dynasor.serving.remote.making import find_served_tokenizer, make_remote_engine
from hf_dynasor.serving.solver import Solver
from tests.serving.http.kit import serve, start_server
from tests.serving.kit import make_model, make_tokenizer
from tests.serving.remote.kit import ScriptedServer, encode, piece, usage

QUESTION = "What is 17*6+4?"


@pytest.fixture(scope="module")
def proxy(address):
    """Our server over a remote engine over our server: the address of the first of the three."""
    with make_remote_engine(f"{address}/v1", tokenizer="embedded") as engine:
        model = ServedModel(engine.loaded, engine.found.model, 0, engine.found.max_length)
        with serve(create_app(engine, model)) as proxied:
            yield proxied


def post(address, path, **body):
    reply = httpx.post(f"{address}{path}", json=body, timeout=60)
    return reply.status_code, reply.json()


def test_a_program_through_the_proxy_answers_as_the_server_itself_does(proxy, address):
    body = {
        "messages": [{"role": "user", "content": QUESTION}],
        "dynasor": {"program": "self_consistency", "budget": 8},
        "seed": 2,
        "temperature": 1.0,
    }
    there, here = (post(place, "/v1/chat/completions", **body)[1] for place in (proxy, address))
    assert there["choices"][0]["message"] == here["choices"][0]["message"]
    assert there["dynasor"]["votes"] == here["dynasor"]["votes"]
    assert there["usage"]["dynasor"] == here["usage"]["dynasor"]


def test_plain_requests_pass_through_with_their_seeds(proxy, address):
    for path, body in (
        ("/v1/completions", {"prompt": "17*6=", "max_tokens": 12}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 40}),
    ):
        more = {"seed": 4, "temperature": 1.0, "n": 2, "return_token_ids": True}
        there, here = (post(place, path, **body, **more)[1] for place in (proxy, address))
        assert there["choices"] == here["choices"]


def test_early_stopping_works_on_a_server_that_knows_nothing_of_it(proxy):
    body = {
        "messages": [{"role": "user", "content": QUESTION}],
        "dynasor": {"saving_effort": "crazy"},
        "chat_template_kwargs": {"enable_thinking": True},
        "temperature": 0,
    }
    status, answer = post(proxy, "/v1/chat/completions", **body)
    assert status == 200
    assert "106" in answer["choices"][0]["message"]["content"]
    assert answer["usage"]["dynasor"]["probe_tokens"] > 0


def test_streams_pass_through_piece_by_piece(proxy):
    body = {"prompt": "17*6=", "max_tokens": 12, "stream": True, "temperature": 0}
    with httpx.stream("POST", f"{proxy}/v1/completions", json=body, timeout=60) as reply:
        lines = [line[6:] for line in reply.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    text = "".join(json.loads(line)["choices"][0]["text"] for line in lines[:-1])
    assert len(lines) > 3
    whole = post(proxy, "/v1/completions", **body | {"stream": False})[1]
    assert text == whole["choices"][0]["text"]


def test_what_needs_the_weights_here_is_refused(proxy):
    body = {"prompt": "17*6=", "max_tokens": 1, "echo": True, "logprobs": 0}
    status, answer = post(proxy, "/v1/completions", **body)
    assert (status, answer["error"]["code"]) == (400, "unsupported")


def test_a_client_s_priority_reaches_a_backend_that_knows_priorities(model):
    server = ScriptedServer(lambda body, request: encode(piece("5", token_ids=[1], finish="stop"), usage()))
    with (
        server.open(tokenizer=model) as engine,
        serve(create_app(engine, ServedModel(model, "m", 0))) as address,
    ):
        post(address, "/v1/completions", prompt="x", priority=-7)
    assert server.bodies[0]["priority"] == -7


def test_the_proxy_finds_the_tokenizer_by_the_server_s_name_for_the_model(address):
    with make_remote_engine(f"{address}/v1") as engine:
        assert engine.loaded is None
        assert find_served_tokenizer(engine).name == "embedded"


def test_the_tokenizer_of_another_model_is_refused(address):
    tokenizer = make_tokenizer()
    other = LoadedModel(model=make_model(tokenizer), tokenizer=tokenizer, name="other")
    with pytest.raises(ConfigurationError, match="'other' is not the one of 'embedded'"):
        make_remote_engine(f"{address}/v1", tokenizer=other)


def test_python_takes_a_backend_wherever_it_takes_a_model(address, local):
    recipe = {"budget": 4, "seed": 0}
    expected = Solver(local, **recipe).solve(QUESTION).votes
    assert solve(QUESTION, backend=f"{address}/v1", **recipe).votes == expected
    with Solver(backend=f"{address}/v1", **recipe) as solver:
        assert solver.solve(QUESTION).votes == expected
    with pytest.raises(ConfigurationError, match="device = 'cpu' with a backend"):
        make_engine(backend=f"{address}/v1", device="cpu")


def test_the_pipeline_takes_a_running_engine(address):
    from transformers import pipeline

    with make_remote_engine(f"{address}/v1") as engine:
        reason = pipeline("dynasor-reasoning", engine=engine)
        assert reason(QUESTION, seed=0, budget=4)["answer"] == "106"
        reason.close()
        engine.check_health()  # it is its owner's to close


def run_cli(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_solve_and_eval_take_a_backend(address, capsys, tmp_path):
    code, out, _ = run_cli(capsys, "solve", QUESTION, "--backend", f"{address}/v1", "--budget", 5, "--json")
    assert (code, json.loads(out)["answer"]) == (0, "106")
    file = tmp_path / "q.jsonl"
    file.write_text('{"id": "a", "question": "What is 2+3?", "answer": "5"}\n')
    code, out, _ = run_cli(capsys, "eval", file, "--backend", f"{address}/v1", "--budget", 5, "--json")
    assert (code, json.loads(out)["accuracy"]) == (0, 1.0)


def test_batch_takes_a_backend(address, capsys, tmp_path):
    source, target = tmp_path / "q.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"question": "What is 2+3?"}\n')
    code, _, _ = run_cli(capsys, "batch", source, target, "--backend", f"{address}/v1", "--budget", 5)
    assert code == 0
    assert json.loads(target.read_text())["result"]["answer"] == "5"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--backend", "127.0.0.1:1/v1"), "http://127.0.0.1:1/v1"),
        (("--backend", "http://127.0.0.1:1/v1"), "does not answer"),
        (("--backend", "http://127.0.0.1:1/v1", "--device", "cpu"), "--device cpu"),
        (("--backend", "http://127.0.0.1:1/v1", "--engine", "generate"), "--engine generate"),
        (("--dialect", "vllm"), "which only --backend URL reads"),
        (("--max-in-flight", "3"), "which only --backend URL reads"),
    ],
)
def test_options_that_do_not_go_together_are_named(options, words, capsys):
    code, _, err = run_cli(capsys, "solve", "What is 2+3?", *options)
    assert code == (1 if words == "does not answer" else 2)
    assert words in err
    assert len(err.strip().splitlines()) == 1


def test_the_command_line_knows_every_dialect():
    assert set(DIALECT_NAMES) == {"auto", *DIALECTS}


@pytest.mark.slow
def test_serve_takes_a_backend(address):
    with start_server("--backend", f"{address}/v1", "--budget", "4") as (process, proxied):
        body = {
            "messages": [{"role": "user", "content": QUESTION}],
            "dynasor": {"program": "self_consistency"},
        }
        status, answer = post(proxied, "/v1/chat/completions", **body)
        assert status == 200
        assert "106" in answer["choices"][0]["message"]["content"]
        assert httpx.get(f"{proxied}/v1/models").json()["data"][0]["id"] == "embedded"
        assert process.poll() is None


@pytest.mark.slow
def test_a_server_before_a_backend_says_503_while_it_is_away_and_serves_again_after():
    with start_server() as (first, upstream):
        port = upstream.rsplit(":", 1)[1]
        with start_server("--backend", f"{upstream}/v1") as (_, proxied):
            body = {"prompt": "2+3=", "max_tokens": 2}
            assert post(proxied, "/v1/completions", **body)[0] == 200
            first.kill()
            first.wait(30)
            status, answer = post_for(proxied, lambda status: status == 503, **body)
            assert status == 503, answer
            assert httpx.get(f"{proxied}/health").status_code == 503
            command = [sys.executable, "-m", "hf_dynasor", "serve", "--port", port]
            again = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                assert post_for(proxied, lambda status: status == 200, **body)[0] == 200
            finally:
                again.kill()
                again.wait(30)


def post_for(address, is_over, **body):
    """Ask until the status is as wanted, at most two minutes; the last answer."""
    deadline = time.monotonic() + 120
    while True:
        try:
            found = post(address, "/v1/completions", **body)
        except httpx.TimeoutException:
            found = (0, {})
        if is_over(found[0]) or time.monotonic() > deadline:
            return found
        time.sleep(1)
