"""AF_VSOCK within one guest, through the kernel's loopback transport."""

import socket
import sys
import threading

import pytest

from ...guard import GUEST_VARIABLE, HOW_TO_RUN, inside_rig_guest

pytestmark = pytest.mark.skipif(not inside_rig_guest(), reason=HOW_TO_RUN)

if sys.platform != "linux":
    pytest.skip(HOW_TO_RUN, allow_module_level=True)

CID_LOCAL = 1
ANY_PORT = -1


def listen() -> socket.socket:
    listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    listener.bind((CID_LOCAL, socket.VMADDR_PORT_ANY))
    listener.listen()
    return listener


def test_echo_of_a_million_bytes() -> None:
    block = bytes(range(256)) * 4096

    def echo(listener: socket.socket) -> None:
        connection, _peer = listener.accept()
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)

    with listen() as listener, socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as client:
        server = threading.Thread(target=echo, args=(listener,))
        server.start()
        client.settimeout(30)
        client.connect((CID_LOCAL, listener.getsockname()[1]))

        def send() -> None:
            client.sendall(block)
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        received = b"".join(iter(lambda: client.recv(65536), b""))
        sender.join(30)
        server.join(30)
    assert received == block


def test_nobody_listens() -> None:
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as client:
        client.settimeout(10)
        with pytest.raises(ConnectionResetError):
            client.connect((CID_LOCAL, 999_999))


def test_a_guest_without_the_variable_is_no_rig_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(GUEST_VARIABLE)
    assert not inside_rig_guest()
