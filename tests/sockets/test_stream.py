"""Streams: the ways in which a system tells the end, made to happen one by one."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from hvrpc import Address, Peer, PeerGone, StreamClosed, TransportError, TransportTimeout
from hvrpc.sockets import Options, Stream

from .test_causes import GONE


class Troubled(socket.socket):
    """A socket whose methods raise what the test wants."""

    error: OSError | None = None

    def _trouble(self) -> None:
        if self.error is not None:
            raise self.error

    def recv(self, *arguments: Any) -> bytes:
        self._trouble()
        return super().recv(*arguments)

    def recv_into(self, *arguments: Any, **named: Any) -> int:
        self._trouble()
        return super().recv_into(*arguments, **named)

    def send(self, *arguments: Any) -> int:
        self._trouble()
        return super().send(*arguments)

    def sendall(self, *arguments: Any) -> None:
        self._trouble()
        super().sendall(*arguments)

    def shutdown(self, how: int) -> None:
        self._trouble()
        super().shutdown(how)


@pytest.fixture
def troubled() -> Iterator[Troubled]:
    one, other = socket.socketpair()
    with other, Troubled(one.family, one.type, one.proto, fileno=one.detach()) as sock:
        yield sock


def stream_over(sock: socket.socket, family: str = "unix") -> Stream:
    address = Address.parse("hvsock://parent/5000")
    options = Options(drain=0)
    return Stream(sock, address=address, family=family, peer=Peer(family), options=options)


WAYS = [(family, code) for family, codes in GONE.items() for code in codes]


@pytest.mark.parametrize(("family", "code"), WAYS)
def test_every_way_to_be_gone_is_an_end_for_the_reader(
    troubled: Troubled, family: str, code: int
) -> None:
    stream = stream_over(troubled, family)
    troubled.error = OSError(code, "gone")
    assert stream.recv(10) == b""
    assert stream.ended_by is troubled.error
    assert stream.recv_into(bytearray(10)) == 0
    with pytest.raises(PeerGone, match="the other side has ended") as caught:
        stream.recv_exactly(10)
    assert caught.value.__cause__ is troubled.error
    assert caught.value.errno == code


@pytest.mark.parametrize(
    ("family", "code"),
    [
        (family, code)
        for family, code in WAYS
        if code not in (64, 232, 995, errno.EIO, errno.ENOMEM)
    ],
)
def test_every_way_to_be_gone_is_peer_gone_for_the_writer(
    troubled: Troubled, family: str, code: int
) -> None:
    stream = stream_over(troubled, family)
    troubled.error = OSError(code, "gone")
    for send in (stream.send, stream.sendall, lambda data: stream.sendmsg([data])):
        with pytest.raises(PeerGone) as caught:
            send(b"x")
        assert caught.value.__cause__ is troubled.error


@pytest.mark.parametrize("family", list(GONE))
def test_ending_writing_towards_a_peer_that_is_gone_is_no_error(
    troubled: Troubled, family: str
) -> None:
    stream = stream_over(troubled, family)
    troubled.error = OSError(10057 if family == "hyperv" else errno.ENOTCONN, "not connected")
    stream.shutdown_write()


def test_other_errors_of_the_reader_are_raised(troubled: Troubled) -> None:
    stream = stream_over(troubled)
    troubled.error = OSError(errno.EIO, "input/output error")
    with pytest.raises(TransportError, match="input/output error") as caught:
        stream.recv(1)
    assert not isinstance(caught.value, (PeerGone, StreamClosed, TransportTimeout))
    assert stream.ended_by is None
    with pytest.raises(TransportError, match="input/output error"):
        stream.shutdown_write()


@pytest.mark.parametrize("code", [errno.EBADF, errno.ECONNABORTED, errno.ENOTCONN])
def test_an_error_after_closing_is_ours_and_not_the_peers_end(
    troubled: Troubled, code: int
) -> None:
    """Systems differ in what they tell a thread whose socket another one closes."""
    stream = stream_over(troubled)
    stream.abort()
    troubled.error = OSError(code, "whatever")
    for use in (lambda: stream.recv(1), lambda: stream.send(b"x"), stream.shutdown_write):
        with pytest.raises(StreamClosed, match="it is closed already"):
            use()
    assert stream.ended_by is None


def test_closing_works_on_a_socket_that_only_fails(troubled: Troubled) -> None:
    stream = stream_over(troubled)
    troubled.error = OSError(errno.EIO, "input/output error")
    stream.close()
    assert stream.closed
    assert troubled.fileno() == -1


def test_what_closing_throws_away_is_bounded(
    troubled: Troubled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that never stops sending, and is faster than any deadline."""
    thrown_away = []

    def recv(self: Troubled, size: int) -> bytes:
        thrown_away.append(size)
        return bytes(size)

    monkeypatch.setattr(Troubled, "recv", recv)
    monkeypatch.setattr("hvrpc.sockets.stream._readable", lambda sock, seconds: True)
    address = Address.parse("hvsock://parent/5000")
    stream = Stream(
        troubled,
        address=address,
        family="unix",
        peer=Peer("unix"),
        options=Options(drain=3600),
    )
    stream.close()
    assert sum(thrown_away) == 16 * 1024 * 1024
