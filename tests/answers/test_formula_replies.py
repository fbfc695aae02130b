"""Which replies of the formula process stand, and which are asked for again."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hf_dynasor.answers import canonicalise
from hf_dynasor.answers.formulas import FormulaProcess

DYING = """
import json, os, pathlib, sys
deaths = pathlib.Path(__file__).with_suffix(".deaths")
print("ready", flush=True)
for line in sys.stdin:
    num_deaths = len(deaths.read_text()) if deaths.exists() else 0
    if num_deaths < {num_deaths}:
        deaths.write_text("x" * (num_deaths + 1))
        os._exit(1)
    print(json.dumps([["2"]]), flush=True)
"""

SLEEPING = """
import json, sys, time
print("ready", flush=True)
for line in sys.stdin:
    time.sleep(1.0)
    print(json.dumps([["2"]]), flush=True)
"""


@pytest.fixture
def formulas() -> Iterator[FormulaProcess]:
    process = FormulaProcess()
    yield process
    process.close()


def _use(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "program.py"
    path.write_text(program, encoding="utf-8")
    monkeypatch.setattr("hf_dynasor.answers.formulas._PROGRAM", str(path))


def test_a_short_timeout_spoils_no_later_reading() -> None:
    r"""`canonicalise(r"3\sqrt{8}", timeout=1e-3)` made it differ from `6\sqrt{2}` as long as the program ran."""
    canonicalise(r"3\sqrt{8}", timeout=1e-3)
    assert canonicalise(r"3\sqrt{8}", timeout=30) == canonicalise(r"6\sqrt{2}", timeout=30)


def test_a_longer_timeout_asks_again(formulas, tmp_path, monkeypatch) -> None:
    """The cache knew the request alone, so a time-out stood whatever was asked later."""
    _use(SLEEPING, tmp_path, monkeypatch)
    assert formulas.canonicalise(("x",), timeout=0.02) is None
    assert formulas.canonicalise(("x",), timeout=0.01) is None
    assert formulas.num_starts == 1, "what was not done in 0.02 s is not tried for 0.01 s"
    assert formulas.canonicalise(("x",), timeout=30) == (("2",),)
    assert formulas.canonicalise(("x",), timeout=0.01) == (("2",),), "a reply stands for every timeout"
    assert formulas.num_starts == 2


@pytest.mark.parametrize(("num_deaths", "reply"), [(1, (("2",),)), (2, None)])
def test_a_death_is_no_reply_until_it_happens_twice(
    num_deaths, reply, formulas, tmp_path, monkeypatch
) -> None:
    """A broken pipe was remembered as "no canonical form"."""
    _use(DYING.format(num_deaths=num_deaths), tmp_path, monkeypatch)
    for _ in range(2):
        assert formulas.canonicalise(("x",), timeout=30) == reply
        assert formulas.num_starts == 2


def test_a_timeout_of_any_size_is_understood(formulas: FormulaProcess) -> None:
    assert formulas.canonicalise((r"\sqrt{4}",), timeout=float("inf")) == (("2",),)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs signals as POSIX has them")
def test_waiting_for_a_processor_costs_no_time(formulas: FormulaProcess) -> None:
    """Time was taken by the clock, so that grouping on a loaded machine gave other answers than on an idle one."""
    formulas.canonicalise((r"\sqrt{4}",), timeout=30)
    assert formulas._process is not None
    pid = formulas._process.pid
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(2.5, os.kill, (pid, signal.SIGCONT)).start()
    assert formulas.canonicalise((r"\sqrt{9}",), timeout=2.0) == (("3",),)
    assert formulas.num_starts == 1


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers as POSIX has them")
def test_processor_time_ends_a_computation_before_the_clock_does(formulas, monkeypatch) -> None:
    monkeypatch.setattr("hf_dynasor.answers.formulas.CLOCK_FACTOR", 200.0)
    slow = r"\sum_{k=1}^{10^{9}} \frac{1}{k^{7}}"
    formulas.canonicalise((r"\sqrt{4}",), timeout=30)
    start = time.monotonic()
    assert formulas.canonicalise((slow,), timeout=0.3) is None
    assert time.monotonic() - start < 50.0, "the clock would have ended it after 60 s"
    assert formulas.canonicalise((slow,), timeout=0.3) is None
    assert formulas.num_starts == 1, "a time-out is no death"
