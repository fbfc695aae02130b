"""`hf-dynasor chat`: through a pipe and through a terminal, in process and against a server."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest

from hf_dynasor.cli import main
from hf_dynasor.cli.chat import read_fields
from hf_dynasor.cli.main import build_parser
from hf_dynasor.cli.screen import Screen
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.serving import make_engine
from hf_dynasor.serving.http.app import create_app
from hf_dynasor.serving.http.asking import RemoteAsker
from tests.serving.http.kit import serve

ESCAPE = "\x1b["


@pytest.fixture(scope="module")
def own_engine(loaded):
    engine = make_engine(loaded, engine="continuous")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def url(own_engine, model):
    with serve(create_app(own_engine, model)) as address:
        yield address


def chat(*argv, **environment):
    return {
        "args": [sys.executable, "-m", "hf_dynasor", "chat", *argv],
        "env": {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | environment,
    }


def test_a_pipe_takes_one_question_a_line_and_gets_no_colours(url):
    lines = "What is 7+8?\n\nWhat is 17*6+4?\n"
    done = subprocess.run(
        **chat("--url", url, "--budget", "10"), input=lines, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^answer: (.*)$", done.stdout, re.MULTILINE) == ["15", "106"]
    assert "> What is 17*6+4?" in done.stdout
    assert "█ 1.00 (entropy)" in done.stdout
    assert "saved about" in done.stdout
    assert ESCAPE not in done.stdout


def test_a_model_in_process_answers_the_same_way(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("What is 7+8?\n"))
    assert main(["chat", "--budget", "5"]) == 0
    assert "answer: 15" in capsys.readouterr().out


def test_a_question_that_cannot_be_answered_is_told_and_the_next_is_asked(url, monkeypatch, capsys):
    huge = "What is " + "1+" * 3000 + "1?"
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{huge}\nWhat is 7+8?\n"))
    assert main(["chat", "--url", url, "--budget", "5"]) == 1
    said = capsys.readouterr()
    assert "hf-dynasor: " in said.err
    assert "answer: 15" in said.out


def test_a_server_that_is_not_there_is_told(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("What is 7+8?\n"))
    assert main(["chat", "--url", "http://127.0.0.1:9"]) == 1
    assert "does not answer" in capsys.readouterr().err


class Terminal:
    """A program under a pseudo-terminal."""

    def __init__(self, args, env):
        parent, child = pty.openpty()
        self.process = subprocess.Popen(
            args, env=env, stdin=child, stdout=child, stderr=child, start_new_session=True, close_fds=True,
            preexec_fn=_take_terminal,
        )  # fmt: skip
        os.close(child)
        self._parent, self.text = parent, ""

    def type(self, text):
        os.write(self._parent, text.encode())

    def wait_for(self, pattern, seconds=120):
        """Read until a pattern appears after what was waited for last."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.text, re.DOTALL)):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.text!r}"
            if select.select([self._parent], [], [], 0.2)[0]:
                try:
                    self.text += os.read(self._parent, 65536).decode("utf-8", "replace")
                except OSError:
                    raise AssertionError(f"it ended; no {pattern!r} in {self.text!r}") from None
        seen, self.text = self.text[: found.end()], self.text[found.end() :]
        return seen

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)
        os.close(self._parent)


def _take_terminal():
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    # A suite that runs in the background ignores it, and children inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def terminal(url):
    made = []

    def make(*argv, **environment):
        made.append(Terminal(**chat("--url", url, *argv, TERM="xterm", **environment)))
        return made[-1]

    yield make
    for terminal in made:
        terminal.close()


def test_in_a_terminal_ctrl_c_ends_the_answer_and_ctrl_d_the_program(terminal, own_engine):
    one = terminal("--budget", "16", "--temperature", "2.0", "--policy", "even", "--max-new-tokens", "1500")
    one.wait_for("> ")
    one.type("What is 7+8?\r")
    one.wait_for(r"\n\S")  # something is being shown
    deadline = time.monotonic() + 60
    while not own_engine.num_in_flight:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    one.type("\x03")
    one.wait_for(r"\(stopped\).*> ")
    deadline = time.monotonic() + 30
    while own_engine.num_in_flight:
        assert time.monotonic() < deadline, "the program went on without its asker"
        time.sleep(0.05)
    one.type("\x03")
    one.wait_for("Ctrl-D ends.*> ")
    one.type("\x04")
    assert one.process.wait(60) == 0


def test_a_terminal_gets_colours_and_a_conversation_goes_on(terminal):
    one = terminal("--budget", "5")
    one.wait_for("> ")
    one.type("What is 7+8?\r")
    assert ESCAPE in one.wait_for(r"answer: 15.*saved.*> ")
    one.type("What is 12*3?\r")
    one.wait_for("answer: .*> ")  # what it says rests on the path that came first before
    one.type("/quit\r")
    assert one.process.wait(60) == 0


def screen_of(*shown, is_terminal=True):
    out = io.StringIO()
    out.isatty = lambda: is_terminal
    screen = Screen(out)
    screen.begin(RemoteAsker("http://127.0.0.1:1", {}).make_splitter([]))
    for kind, data in shown:
        screen.show(kind, data)
    return out.getvalue()


def progress(text, name="a"):
    return "progress", {"paths": [{"request_id": name, "text": text, "num_tokens": 1}]}


def test_thinking_is_dimmed_and_the_answer_is_not(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = screen_of(progress("<think>Hm"), progress("m</thi"), progress("nk>So 4"), progress("other", "b"))
    assert f"{ESCAPE}2mHm{ESCAPE}0m" in text
    assert text.replace(ESCAPE + "2m", "").replace(ESCAPE + "0m", "") == "Hmm\nSo 4"


def test_the_end_of_a_path_is_shown_once_however_late_its_growing_was_told():
    end = ("completion", {"request_id": "a", "text": "one two three", "finish_reason": "eos"})
    assert screen_of(progress("one "), end, progress("two three"), is_terminal=False) == "one two three\n"
    assert screen_of(end, is_terminal=False) == "one two three\n"


def test_no_color_is_honoured(monkeypatch):
    grant = ("grant", {"certaindex": {"entropy": 0.5}, "total": 5, "net_tokens": 1234})
    monkeypatch.setenv("NO_COLOR", "1")
    assert screen_of(grant) == (
        "certaindex " + "█" * 10 + "░" * 10 + " 0.50 (entropy) · 5 units · 1,234 tokens\n"
    )
    monkeypatch.delenv("NO_COLOR")
    assert ESCAPE in screen_of(grant)
    assert ESCAPE not in screen_of(grant, is_terminal=False)


def test_only_what_was_given_is_sent_and_what_cannot_be_is_refused():
    parse = build_parser().parse_args
    given = ["--url", "http://127.0.0.1:1", "--budget", "8", "--program", "rebase", "--thinking"]
    assert read_fields(parse(["chat", *given])) == {
        "budget": 8,
        "program": "rebase",
        "enable_thinking": True,
    }
    with pytest.raises(ConfigurationError, match="--dtype, --model"):
        read_fields(parse(["chat", *given, "--model", "other", "--dtype", "float32"]))
