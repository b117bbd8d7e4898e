"""What Wine shows of Linux must not mislead a Windows program."""

from __future__ import annotations

import sys

import pytest

from hvrpc.testing.leaks import Snapshot


@pytest.mark.skipif(
    sys.platform != "win32", reason="needs Windows: python3 tests/rigs/windows/run.py"
)
def test_the_descriptors_of_wines_server_are_left_alone() -> None:
    """They can be seen in Z:/proc/self. Looking at them takes the server's lock away, and with it the means
    to end it."""
    taken = Snapshot.take()
    assert taken.threads
    assert taken.descriptors == taken.processes == frozenset()
