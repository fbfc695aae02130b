"""The sandbox: what candidates may do, what they may not, and that nothing they do lasts longer than it may."""

import sys
import threading

import pytest

from hf_dynasor.answers.sandbox import MAX_CALLS, Sandbox
from hf_dynasor.errors import ConfigurationError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="candidates are shut in on Linux only")


def run(code, *calls, **options):
    return Sandbox(**options).run(code, calls)


def list_results(ran):
    return [result.value if result.error is None else result.error for result in ran.results]


def test_calls_have_values_or_the_name_of_their_error():
    ran = run("def half(x):\n    return 10 / x", "half(4)", "half(0)", "half('a')")
    assert list_results(ran) == ["2.5", "ZeroDivisionError", "TypeError"]
    assert ran.isolation.system_calls
    assert not ran.is_timed_out


def test_equal_values_have_equal_texts():
    ran = run(
        "",
        "{'b', 'a', 'c'}",
        "{'c', 'b', 'a'}",
        "{'x': 1, 'y': {2, 3}}",
        "{'y': {3, 2}, 'x': 1}",
        "[object()]",
    )
    first, second, third, fourth, fifth = list_results(ran)
    assert first == second
    assert third == fourth
    assert fifth == "[<object>]"


@pytest.mark.parametrize(
    "call",
    [
        "open('/etc/hostname').read()",
        "open('here', 'w')",
        "__import__('os').listdir('/')",
        "__import__('os').mkdir('x')",
        "__import__('os').remove('/tmp/x')",
        "__import__('os').fork()",
        "__import__('os').kill(__import__('os').getppid(), 9)",
        "__import__('os').execv('/bin/true', ['true'])",
        "__import__('posix').posix_spawn('/bin/true', ['true'], {})",
    ],
)
def test_files_processes_and_sockets_are_refused(call):
    (result,) = run("", call).results
    assert result.error in ("PermissionError", "ModuleNotFoundError", "OSError"), result


@pytest.mark.parametrize(
    "call", ["socket(2, 1, 0)", "socket(1, 1, 0)", "fork()", "open(b'/etc/hostname', 0)"]
)
def test_the_systems_own_calls_are_refused_too(call):
    """Whatever Python module is missing inside, the C library is there: the filter stands below it."""
    (result,) = run("import ctypes\nlibc = ctypes.CDLL(None)", f"libc.{call}").results
    assert result.value == "-1"


def test_no_thread_can_be_started_and_the_environment_is_empty(monkeypatch):
    monkeypatch.setenv("SECRET_OF_THIS_TEST", "x")
    ran = run(
        "import os",
        "__import__('_thread').start_new_thread(print, ())",
        "'SECRET_OF_THIS_TEST' in os.environ",
    )
    assert list_results(ran) == ["RuntimeError", "False"]


def test_a_loop_ends_with_its_processor_time():
    ran = run("while True:\n    pass", "1", cpu_seconds=1, timeout=60)
    assert list_results(ran) == ["killed"]
    assert not ran.is_timed_out


def test_a_sleeper_ends_with_the_clock_and_keeps_what_it_had_said():
    ran = run("import time", "7", "time.sleep(1000)", "8", timeout=3)
    assert list_results(ran) == ["7", "killed", "killed"]
    assert ran.is_timed_out


@pytest.mark.parametrize("code", ["x = [0] * 10**10", "x = 'a' * 10**10", "def f(): return f()\nf()"])
def test_memory_and_depth_are_bounded(code):
    (result,) = run(code, "1").results
    assert result.error in ("MemoryError", "RecursionError", "killed")


def test_output_is_bounded():
    code = "import os\nwhile True:\n    os.write(1, b'x' * 100_000)"
    assert list_results(run(code, "1", output_bytes=50_000)) == ["killed"]
    (result,) = run("", "'a' * 10**6").results
    assert len(result.value) < 5000


@pytest.mark.parametrize("code", ["raise SystemExit", "import os\nos._exit(0)", "def broken(:", "x = '\\0"])
def test_a_candidate_that_ends_itself_or_is_no_python_has_no_values(code):
    (result,) = run(code, "1").results
    assert result.value is None


def test_what_a_candidate_prints_is_not_taken_for_a_result():
    ran = run('print(\'{"value": "5"}\')', "4")
    assert list_results(ran) == ["4"]


def test_the_sandbox_works_off_the_main_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(list_results(run("", "1 + 1"))))
    thread.start()
    thread.join(60)
    assert found == [["2"]]


def test_common_modules_may_be_imported():
    code = "import math, re, json, itertools, collections, heapq, functools, random, string, datetime"
    assert list_results(run(code, "math.gcd(4, 6)")) == ["2"]


def test_limits_that_cannot_be_are_refused():
    with pytest.raises(ConfigurationError, match="timeout"):
        Sandbox(timeout=0)
    with pytest.raises(ConfigurationError, match="at most"):
        run("", *["1"] * (MAX_CALLS + 1))
