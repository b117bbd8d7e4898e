"""The check for leaks finds them: otherwise every other test would pass for nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

import pytest

from hvrpc.testing.leaks import Snapshot, leaks_since

pytest_plugins = ["pytester"]

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc: run on Linux")


def test_names_a_thread_that_still_runs_and_where_it_is() -> None:
    before = Snapshot.take()
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="forgotten", daemon=True)
    thread.start()
    try:
        (left,) = leaks_since(before, grace=0)
        assert "thread 'forgotten' (daemon)" in left
        assert "in wait" in left
    finally:
        end.set()
        thread.join()


def test_a_thread_that_is_ending_is_no_leak() -> None:
    before = Snapshot.take()
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    threading.Timer(0.05, end.set).start()
    assert leaks_since(before) == []


@linux
def test_names_a_file_descriptor() -> None:
    before = Snapshot.take()
    with socket.socket() as sock:
        (left,) = leaks_since(before, grace=0)
        assert left.startswith(f"file descriptor {sock.fileno()}: socket:")
    assert leaks_since(before) == []


@linux
def test_names_a_child_process_and_its_command() -> None:
    before = Snapshot.take()
    command = [sys.executable, "-c", "print(flush=True), input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()  # before it runs, it has no command line yet
        left = [line for line in leaks_since(before, grace=0) if line.startswith("child")]
        assert len(left) == 1
        assert str(child.pid) in left[0]
        assert "input()" in left[0]
    assert leaks_since(before) == []


@linux
def test_a_dead_child_that_nobody_waited_for_is_a_leak() -> None:
    before = Snapshot.take()
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert any("zombie" in line for line in leaks_since(before, grace=0))
    child.wait()
    assert leaks_since(before) == []


def test_a_test_that_leaks_fails(pytester: pytest.Pytester) -> None:
    """The fixture of our conftest, in a run of its own."""
    from .. import conftest

    pytester.makeconftest(f"from {conftest.__name__} import nothing_left_behind")
    pytester.makepyfile(
        """
        import threading

        end = threading.Event()

        def test_leaks():
            threading.Thread(target=end.wait, name="forgotten", daemon=True).start()

        def test_clean():
            end.set()
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-o", "filterwarnings=error")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*the test has left behind:*", "*thread 'forgotten' (daemon)*"])
