"""What is kept by libraries for the whole process is begun before the first test."""

from __future__ import annotations

import socket
import sys

import pytest


@pytest.fixture(scope="session", autouse=True)
def first_uvloop() -> None:
    """The first uvloop of a process opens a pipe that it keeps; no test shall be blamed for it."""
    if sys.platform != "win32":
        import uvloop

        uvloop.new_event_loop().close()


@pytest.fixture(autouse=True)
def unix_sockets() -> None:
    if not hasattr(socket, "AF_UNIX"):
        pytest.skip("needs UNIX sockets, which Python has on POSIX only: run on Linux")
