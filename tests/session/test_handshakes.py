"""Handshakes of a server: few at a time, and nobody keeps the others out."""

from __future__ import annotations

import itertools
import logging
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import hvrpc.msgpack
from hvrpc import AccessDenied, Address, Peer, Tls, sockets
from hvrpc.access import RateLimitedLog
from hvrpc.security import Security
from hvrpc.session import handshakes
from hvrpc.session.handshakes import Handshakes
from hvrpc.sockets import Options, Stream
from hvrpc.tls import End

from ..certificates import Certificates
from ..sockets.background import WAIT, wait_until
from ..sockets.places import PLACES
from .sides import DRIVERS, Driver, Tools

logger = logging.getLogger("hvrpc.session")


class Callers:
    """Silent callers of several VMs, and what becomes of them."""

    def __init__(self, end: End, most: int) -> None:
        self.handshakes = Handshakes(RateLimitedLog(logger), most=most)
        self.stack = ExitStack()
        self._end = end
        self._ids = {name: uuid.uuid4() for name in "abc"}

    def call(self, vm: str) -> socket.socket:
        """One more; returns its side of the connection."""
        ours, theirs = socket.socketpair()
        self.stack.callback(theirs.close)
        peer = Peer("hyperv", vm_id=self._ids[vm], service=uuid.uuid4())
        address = Address.parse("hvsock://any/5000")
        stream = Stream(ours, address=address, family="hyperv", peer=peer, options=Options(drain=0))
        self.handshakes.begin(stream, self._end, lambda stream: stream.abort())
        theirs.settimeout(WAIT)
        return theirs

    def close(self) -> None:
        for thread in self.handshakes.close():
            thread.join(WAIT)
            assert not thread.is_alive()
        self.stack.close()


@pytest.fixture
def callers(certificates: Certificates) -> Iterator[Callers]:
    made = Callers(certificates.tls("host").server(), most=5)
    yield made
    made.close()


def is_cut_off(sock: socket.socket) -> bool:
    sock.settimeout(WAIT)
    return sock.recv(10) == b""


def is_waited_for(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        sock.recv(10)
    except BlockingIOError:
        return True
    return False


def test_whoever_has_most_is_cut_off_first(
    callers: Callers, caplog: pytest.LogCaptureFixture
) -> None:
    quiet = [callers.call("a"), callers.call("b")]
    flood = [callers.call("c") for _ in range(30)]
    assert all(is_cut_off(sock) for sock in flood[:-3])
    assert all(is_waited_for(sock) for sock in [*quiet, *flood[-3:]])
    wait_until(lambda: len(callers.handshakes) == 5, "the others are gone")
    assert "more than 5 handshakes at once: cut off hvsock:" in caplog.text
    assert len(caplog.records) < 10, "the log is bounded, too"


def test_silence_is_not_waited_for_for_ever(certificates: Certificates) -> None:
    end = certificates.tls("host", handshake_within=0.05).server()
    callers = Callers(end, most=5)
    assert is_cut_off(callers.call("a"))
    callers.close()


def test_closing_ends_them_at_once(callers: Callers) -> None:
    socks = [callers.call(vm) for vm in "abc"]
    for thread in callers.handshakes.close():
        thread.join(WAIT)
    assert all(is_cut_off(sock) for sock in socks)
    assert is_cut_off(callers.call("a")), "nobody is let in any more"


def test_without_a_thread_the_caller_is_cut_off(
    callers: Callers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_more)
    sock = callers.call("a")
    monkeypatch.undo()
    assert is_cut_off(sock)
    assert len(callers.handshakes) == 0


# --- On servers ----------------------------------------------------------------------------------


@pytest.fixture(params=["threads", "asyncio"])
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    made = DRIVERS[request.param]()
    yield made
    made.finish()


@pytest.fixture
def serving(driver: Driver, certificates: Certificates) -> Iterator[tuple[str, Tls]]:
    """Where a server with TLS listens."""
    tls = certificates.tls("host", names="host")
    with PLACES["local over TCP"]() as place:
        server = driver.server(Tools())
        address = server.listen(place.fresh_url(), tls=tls)
        server.start()
        yield str(address), tls
        server.close(0)


def test_silent_callers_keep_nobody_out(
    serving: tuple[str, Tls], driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three times as many as there may be at a time; and all of them are gone in the end."""
    address, tls = serving
    with ExitStack() as stack:
        for _ in range(3 * handshakes.MOST):
            stream = sockets.connect(address)
            stack.callback(stream.abort)
        client = driver.connect(address, tls=tls, timeout=WAIT)
        stack.callback(client.close, 0)
        assert client.call("echo", 1) == 1


def test_closing_a_server_does_not_wait_for_silent_callers(
    driver: Driver, certificates: Certificates
) -> None:
    with PLACES["local over TCP"]() as place:
        server = driver.server(Tools())
        address = server.listen(place.fresh_url(), tls=certificates.tls("host"))
        server.start()
        silent = sockets.connect(address)
        server.close(5.0)
        assert silent.recv(10) == b""
        silent.abort()


def test_who_is_refused_takes_no_place_among_the_connections(
    driver: Driver, certificates: Certificates
) -> None:
    with PLACES["local over TCP"]() as place:
        server = driver.server(Tools(), max_connections=1)
        tls = certificates.tls("host", names="host")
        address = server.listen(place.fresh_url(), tls=tls)
        server.start()
        for _ in range(3):
            with pytest.raises(AccessDenied):
                driver.connect(
                    str(address), tls=certificates.tls("stranger", names="host"), timeout=WAIT
                )
        client = driver.connect(str(address), tls=tls, timeout=WAIT)
        assert client.call("echo", 1) == 1
        assert server.connections == 1
        client.close(0)
        server.close(0)


def test_methods_see_whose_certificate_was_verified(
    driver: Driver, certificates: Certificates
) -> None:
    class Who:
        def who(self, context: hvrpc.msgpack.Context) -> list[Any]:
            peer = context.peer
            assert peer is not None
            return [peer.encrypted, str(peer.certificate)]

    with PLACES["local over TCP"]() as place:
        server = driver.server(Who())
        tls = certificates.tls("host", names=["web", "host"])
        address = server.listen(place.fresh_url(), tls=tls)
        server.start()
        for name, names in (("web", "web"), ("host", "host, loopback, 127.0.0.1")):
            client = driver.connect(
                str(address), tls=certificates.tls(name, names="host"), timeout=WAIT
            )
            assert client.call("who") == [True, names]
            client.close(0)
        server.close(0)


def test_with_tls_tcp_may_be_offered_to_other_machines(
    driver: Driver, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is looked at here is what would be bound; nothing is opened to the outside."""

    class Bound(Exception):
        pass

    class Socket(socket.socket):
        def bind(self, name: Any) -> None:
            raise Bound(name)

    server = driver.server(Tools())
    monkeypatch.setattr(socket, "socket", Socket)
    with pytest.raises(Bound, match=r"0\.0\.0\.0"):
        server.listen("tcp://0.0.0.0:0", tls=certificates.tls("host"))
    with pytest.raises(hvrpc.ListenError, match="nothing on it is encrypted"):
        server.listen("tcp://0.0.0.0:0")
    monkeypatch.undo()
    server.close(0)


def test_a_connection_that_is_refused_says_so_in_every_attempt(driver: Driver) -> None:
    """The other side has closed before its first word: nothing but its rules, or TLS, explains that."""
    numbers = itertools.count()
    with PLACES["local over TCP"]() as place:
        server = driver.server(Tools())
        inner: Any = getattr(server, "server", server)
        address = inner.listen(place.fresh_url(), allow="children")
        server.start()
        with pytest.raises(hvrpc.OpenFailed, match="may not let this machine in") as failed:
            driver.connect(
                str(address), timeout=WAIT, retry=False, on_attempt=lambda _: next(numbers)
            )
        assert failed.value.outcome is hvrpc.Outcome.NOT_SENT
        assert next(numbers) == 1
        server.close(0)


def test_expect_peer_is_asked_each_time_a_connection_is_opened(driver: Driver) -> None:
    with PLACES["local over TCP"]() as place:
        server = driver.server(Tools())
        address = server.listen(place.fresh_url())
        server.start()
        asked: list[Peer] = []

        def expected(peer: Peer) -> bool:
            asked.append(peer)
            return True

        client = driver.connect(str(address), expect_peer=expected, timeout=WAIT)
        assert client.call("echo", 1) == 1
        assert len(asked) == 1
        assert asked[0].is_loopback
        client.close(0)
        with pytest.raises(AccessDenied, match="where web is expected"):
            driver.connect(str(address), expect_peer="web", timeout=WAIT)
        server.close(0)


def test_security_is_one_object_for_both() -> None:
    assert str(Security.of_client(expect_peer="web").peers) == "web"
    assert str(Security.of_server(allow=["web", 3]).peers) == "web, CID 3"
