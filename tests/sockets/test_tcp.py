"""Plain TCP: on this machine only, unless asked for in so many words."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from hvrpc import ConnectError, ListenError, sockets
from hvrpc.addresses import TcpAddress
from hvrpc.sockets import Options, connect, listen

from .background import WAIT

REMOTE = Options(remote_tcp_without_tls=True, drain=0)


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "10.1.2.3", "example.org"])
def test_listening_for_other_machines_is_refused(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_socket(*_: object) -> None:
        raise AssertionError("it was refused too late")

    monkeypatch.setattr(socket, "socket", no_socket)
    monkeypatch.setattr(socket, "getaddrinfo", no_socket)
    with pytest.raises(ListenError, match="nothing on it is encrypted") as caught:
        listen(f"tcp://{host}:0")
    assert caught.value.address == f"tcp://{host}:0"
    assert "tcp://127.0.0.1:PORT" in caught.value.remedy
    assert "remote_tcp_without_tls=True" in caught.value.remedy


class Asked(Exception):
    """The system was asked to bind."""


def test_it_is_not_refused_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is opened to the outside here: what would be bound is looked at instead."""

    class Socket(socket.socket):
        def bind(self, name: Any) -> None:
            raise Asked(name)

    monkeypatch.setattr(socket, "socket", Socket)
    with pytest.raises(Asked, match=r"'0\.0\.0\.0', 0"):
        listen("tcp://0.0.0.0:0", options=REMOTE)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "[::1]"])
def test_this_machine_can_be_listened_on(host: str) -> None:
    if host == "[::1]" and not has_ipv6():
        pytest.skip("needs IPv6 on the loopback interface")
    with listen(f"tcp://{host}:0") as listener, connect(listener.address) as client:
        server, peer = listener.accept(timeout=WAIT)
        assert str(client.peer) == f"tcp:{str(listener.address).removeprefix('tcp://')}" or (
            host == "localhost"
        )
        assert peer.family == "tcp"
        assert peer.port == client.socket.getsockname()[1]
        for stream in (client, server):
            assert stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
            assert stream.timeout is None
            stream.abort()


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) if socket.has_ipv6 else socket.socket() as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            return False
    return True


def look_up_fails(*_: object, **__: object) -> None:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def test_an_unknown_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", look_up_fails)
    with pytest.raises(ConnectError, match=r"host 'nowhere\.invalid' is not known") as connecting:
        connect("tcp://nowhere.invalid:80")
    with pytest.raises(ListenError, match="not known") as listening:
        listen("tcp://nowhere.invalid:80", options=REMOTE)
    for error in (connecting.value, listening.value):
        assert "IP address" in error.remedy
        assert isinstance(error.__cause__, socket.gaierror)


def found(port: int) -> list[tuple[object, ...]]:
    kind = socket.SOCK_STREAM
    return [(socket.AF_INET, kind, 0, "", ("127.0.0.1", number)) for number in (1, port)]


def test_all_addresses_of_a_host_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with listen("tcp://127.0.0.1:0") as listener:
        address = listener.address
        assert isinstance(address, TcpAddress)
        port = address.port
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found(port))
        with connect("tcp://two.example:80") as client:
            assert client.peer.port == port
            client.abort()


def test_one_timeout_holds_for_all_addresses_together(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    timeouts: list[float | None] = []

    class Socket(socket.socket):
        def connect(self, name: Any) -> None:
            timeouts.append(self.gettimeout())
            clock[0] += 3
            raise TimeoutError("timed out")

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found(2))
    monkeypatch.setattr(socket, "socket", Socket)
    with pytest.raises(ConnectError):
        connect("tcp://two.example:80", timeout=5)
    assert timeouts == [5.0, 2.0]


# --- What holds for every family, and is tried on this one ---------------------------------------


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e9])
def test_connecting_needs_a_sensible_timeout(timeout: float) -> None:
    with pytest.raises(ValueError, match="connect timeout is a number of seconds"):
        connect("tcp://127.0.0.1:1", timeout=timeout)


def test_an_error_of_a_family_is_not_its_own_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a family has explained already keeps the cause that it has."""
    monkeypatch.setattr(socket, "getaddrinfo", look_up_fails)
    with pytest.raises(ConnectError) as caught:
        connect("tcp://nowhere.invalid:80")
    assert caught.value.__cause__ is not caught.value
    assert isinstance(caught.value.__cause__, socket.gaierror)
    assert sockets.DEFAULT_TIMEOUT > 2
