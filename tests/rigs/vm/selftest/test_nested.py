"""AF_VSOCK between two machines: the outer guest plays the host, with the kernel's vhost-vsock."""

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ...guard import HOW_TO_RUN_NESTED, rig_role

if sys.platform != "linux" or rig_role() != "outer":
    pytest.skip(HOW_TO_RUN_NESTED, allow_module_level=True)

from ..inner import CID, InnerGuest

SERVER = Path(__file__).with_name("inner_echo.py")
PORT = 5000
CID_HOST = 2


@pytest.fixture(scope="module")
def inner() -> Iterator[InnerGuest]:
    with InnerGuest(["python3", str(SERVER), str(PORT)]) as guest:
        yield guest


@pytest.fixture
def connection(inner: InnerGuest) -> Iterator[socket.socket]:
    inner.wait_for_line("listening")
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as opened:
        opened.settimeout(20)
        opened.connect((CID, PORT))
        yield opened


def test_the_host_calls_the_guest(connection: socket.socket) -> None:
    connection.sendall(b"hello")
    assert connection.recv(100) == b"hello"
    assert connection.getpeername() == (CID, PORT)


def test_the_guest_calls_the_host(connection: socket.socket) -> None:
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as listener:
        listener.bind((CID_HOST, socket.VMADDR_PORT_ANY))
        listener.listen()
        listener.settimeout(20)
        connection.sendall(b"call %d\n" % listener.getsockname()[1])
        caller, peer = listener.accept()
        with caller:
            caller.settimeout(20)
            assert peer[0] == CID
            assert caller.recv(100) == b"it is me"


def test_a_paused_guest_is_silent_and_goes_on(inner: InnerGuest, connection: socket.socket) -> None:
    inner.pause()
    connection.sendall(b"are you there?")
    connection.settimeout(0.5)
    with pytest.raises(TimeoutError):
        connection.recv(100)
    inner.resume()
    connection.settimeout(20)
    assert connection.recv(100) == b"are you there?"


def test_a_killed_guest_resets_its_connections(
    inner: InnerGuest, connection: socket.socket
) -> None:
    """The last test: its guest does not come back."""
    inner.kill()
    with pytest.raises(ConnectionResetError):
        connection.recv(1)
