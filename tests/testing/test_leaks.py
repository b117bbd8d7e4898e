"""The check that users have for their own tests finds what was left behind."""

from __future__ import annotations

import socket
import sys
import threading

import pytest

from hvrpc.testing import no_leaks

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc: run on Linux")


def test_a_clean_block_passes() -> None:
    with no_leaks(), socket.socket():
        threading.Thread(target=lambda: None).start()


def test_a_thread_is_found() -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="forgotten")
    with pytest.raises(AssertionError, match="forgotten"), no_leaks(grace=0.01):
        thread.start()
    end.set()
    thread.join()


@linux
def test_a_file_is_found() -> None:
    with socket.socket() as kept:
        number = kept.fileno()
    what = rf"file descriptor {number}: socket"
    with pytest.raises(AssertionError, match=what), no_leaks(grace=0.01):
        kept = socket.socket()
    kept.close()


def test_a_failing_block_tells_its_own_error() -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait)

    def leak_and_fail() -> None:
        with no_leaks(grace=0.01):
            thread.start()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        leak_and_fail()
    end.set()
    thread.join()
