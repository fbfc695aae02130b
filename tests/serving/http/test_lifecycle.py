"""`hf-dynasor serve` as a process: what it says when it cannot start, and how it ends."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading

import httpx

from tests.serving.http.kit import start_server

BODY = {
    "messages": [{"role": "user", "content": "What is 17*6+4?"}],
    "max_tokens": 400,
    "ignore_eos": True,
    "temperature": 1.0,
}


def test_a_signal_lets_running_requests_finish_refuses_new_ones_and_ends_well():
    with start_server("--engine", "generate") as (process, address), httpx.Client(base_url=address) as http:
        replies = []

        def ask():
            replies.append(httpx.post(f"{address}/v1/chat/completions", json=BODY, timeout=120))

        with http.stream("POST", "/v1/chat/completions", json=BODY | {"stream": True}, timeout=120) as stream:
            lines = stream.iter_lines()
            next(lines)
            asking = threading.Thread(target=ask)
            asking.start()
            while httpx.get(f"{address}/load", timeout=60).json()["num_running"] < 2:
                pass
            process.send_signal(signal.SIGTERM)
            while httpx.get(f"{address}/ready", timeout=60).status_code == 200:
                pass
            refused = httpx.post(f"{address}/v1/chat/completions", json=BODY)
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) >= 1
            assert httpx.get(f"{address}/health", timeout=60).status_code == 200  # draining is not being dead
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert '"error"' not in "".join(rest)
        asking.join(120)
        assert replies[0].json()["usage"]["completion_tokens"] == 400
        assert process.wait(60) == 0


def test_a_second_signal_does_not_wait():
    with start_server("--engine", "generate", "--drain-timeout", "300") as (process, address):
        body = BODY | {"stream": True, "max_tokens": 1500, "n": 8}
        with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=60) as stream:
            next(stream.iter_lines())
            process.send_signal(signal.SIGTERM)
            while httpx.get(f"{address}/ready", timeout=60).status_code == 200:
                pass
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) is not None


def run_serve(*options):
    command = [sys.executable, "-m", "hf_dynasor", "serve", "--engine", "generate", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_taken_port_is_a_clear_error():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = run_serve("--port", str(taken.getsockname()[1]))
    assert result.returncode == 2
    assert "Cannot listen on 127.0.0.1" in result.stderr
    assert "Traceback" not in result.stderr


def test_tls_files_that_cannot_be_used_are_a_clear_error(tmp_path):
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    for certificate, key, words in (
        ("missing.pem", "missing.key", "missing.pem"),
        (str(broken), str(broken), "broken.pem"),
    ):
        result = run_serve("--port", "0", "--tls-certificate", certificate, "--tls-key", key)
        assert result.returncode == 2, result.stderr
        assert words in result.stderr
        assert "Traceback" not in result.stderr
    result = run_serve("--port", "0", "--tls-key", str(broken))
    assert result.returncode == 2
    assert "certificate" in result.stderr
