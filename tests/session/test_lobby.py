"""Idle connections of a blocking server wait without a thread of their own."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

import hvrpc
from hvrpc import msgpack
from hvrpc.session.threads.lobby import lobby

from ..sockets.background import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="waits by epoll: run it on Linux")

MANY = 30


class Tools:
    def echo(self, value: int) -> int:
        return value


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection is idle after a moment."""
    monkeypatch.setattr(lobby, "idle_for", 0.005)


@pytest.fixture
def server() -> Iterator[msgpack.Server]:
    with msgpack.Server(Tools()) as server:
        server.listen("local://loopback/0")
        yield server


def readers() -> int:
    return sum(thread.name == "hvrpc-connection" for thread in threading.enumerate())


def wait_until_idle(server: msgpack.Server) -> None:
    wait_until(lambda: readers() == 0, "no connection has a thread")
    assert server.connections > 0


def test_an_idle_connection_has_no_thread_and_is_answered(server: msgpack.Server) -> None:
    with msgpack.connect(server.addresses[0]) as client:
        for value in range(5):
            assert client.call("echo", value) == value
            wait_until_idle(server)
        assert client.connections == 1


def test_many_idle_connections_have_one_thread_together(server: msgpack.Server) -> None:
    clients = [msgpack.connect(server.addresses[0]) for _ in range(MANY)]
    try:
        wait_until_idle(server)
        assert server.connections == MANY
        assert [client.call("echo", n) for n, client in enumerate(clients)] == list(range(MANY))
    finally:
        for client in clients:
            client.close()


def test_a_caller_that_goes_away_is_noticed(server: msgpack.Server) -> None:
    client = msgpack.connect(server.addresses[0])
    wait_until_idle(server)
    client.close()
    wait_until(lambda: server.connections == 0, "the server has forgotten the connection")


def test_closing_the_server_ends_idle_connections(server: msgpack.Server) -> None:
    with msgpack.connect(server.addresses[0], retry=False) as client:
        wait_until_idle(server)
        assert server.close(grace=5)
        wait_until(
            lambda: all(thread.name != "hvrpc-lobby" for thread in threading.enumerate()),
            "nobody watches sockets any more",
        )
        with pytest.raises(hvrpc.CallError):
            client.call("echo", 1, timeout=1)
