"""Socket options that are structures, and what setting them must leave as it was."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import pytest

from hvrpc.sockets.structs import set_option

from ..rigs import guard

if os.name != "posix":
    pytest.skip(
        "options that are structures are set on POSIX only: run on Linux or macOS",
        allow_module_level=True,
    )

TIMEVAL = struct.Struct("@ll")
SEVEN_SECONDS = TIMEVAL.pack(7, 0)


@pytest.fixture(params=["of another family", "as if of AF_VSOCK", "of AF_VSOCK"])
def sock(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """A blocking socket. Outside a guest of the rig one of another family plays AF_VSOCK."""
    if request.param == "of AF_VSOCK":
        if not guard.inside_rig_guest():
            pytest.skip(guard.HOW_TO_RUN)
        family = socket.AF_VSOCK
    else:
        family = socket.AF_UNIX
        if request.param == "as if of AF_VSOCK":
            monkeypatch.setattr(socket, "AF_VSOCK", family, raising=False)
    with socket.socket(family, socket.SOCK_STREAM) as opened:
        yield opened


def receive_timeout(sock: socket.socket) -> bytes:
    # CPython gives no bytes of AF_VSOCK either.
    duplicate = os.dup(sock.fileno())
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=duplicate) as alias:
        return alias.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, TIMEVAL.size)


def test_the_option_is_set(sock: socket.socket) -> None:
    set_option(sock, socket.SOL_SOCKET, socket.SO_RCVTIMEO, SEVEN_SECONDS)
    assert receive_timeout(sock) == SEVEN_SECONDS


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("default_timeout", [None, 30.0])
def test_the_socket_stays_as_it_was(
    sock: socket.socket, blocking: bool, default_timeout: float | None
) -> None:
    """Open, and blocking or not, whatever timeout the program has made the default."""
    sock.setblocking(blocking)
    descriptor = sock.fileno()
    socket.setdefaulttimeout(default_timeout)
    try:
        set_option(sock, socket.SOL_SOCKET, socket.SO_RCVTIMEO, SEVEN_SECONDS)
    finally:
        socket.setdefaulttimeout(None)
    assert sock.fileno() == descriptor
    assert os.get_blocking(descriptor) == blocking == sock.getblocking()
    assert receive_timeout(sock) == SEVEN_SECONDS


def test_a_refusal_is_passed_on_and_leaves_the_socket_open(sock: socket.socket) -> None:
    with pytest.raises(OSError, match=r"\[Errno"):
        set_option(sock, socket.SOL_SOCKET, 0x7FFF, SEVEN_SECONDS)
    assert receive_timeout(sock) == TIMEVAL.pack(0, 0)
