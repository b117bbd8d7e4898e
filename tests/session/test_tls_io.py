"""TLS under the threads' driver: what was encrypted counts as sent, and nothing else does."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator

import pytest

from hvrpc import AccessDenied, Address, Peer
from hvrpc.session.threads.io import SEND_NOW, Io
from hvrpc.session.threads.tls_io import TlsIo, io_of
from hvrpc.sockets import Options, Stream
from hvrpc.sockets.handshake import shake_hands
from hvrpc.sockets.stream import PIECE

from ..certificates import Certificates
from ..sockets.background import WAIT, Background

Pair = tuple[TlsIo, Stream]


@pytest.fixture
def pair(certificates: Certificates) -> Iterator[Pair]:
    """Our end under test, and the other one as a stream."""
    tls = certificates.tls("host", names="host")
    ours, theirs = (
        Stream(
            sock,
            address=Address.parse("unix:///x.sock"),
            family="unix",
            peer=Peer("unix"),
            options=Options(drain=0),
        )
        for sock in socket.socketpair()
    )
    serving = Background(lambda: shake_hands(theirs, tls.server(), WAIT))
    shake_hands(ours, tls.client(), WAIT)
    serving.result()
    theirs.timeout = WAIT
    io = io_of(ours)
    assert isinstance(io, TlsIo)
    yield io, theirs
    io.close()
    ours.abort()
    theirs.abort()


def fill(io: TlsIo) -> int:
    """Send until nothing more is taken; returns how much was, as a caller counts it."""
    data = memoryview(os.urandom(PIECE) * 64)
    taken = 0
    while taken < len(data):
        try:
            taken += io.send(data[taken:], SEND_NOW)
        except BlockingIOError:
            return taken
    raise AssertionError("there is room for all of it")


def test_without_tls_nothing_is_different() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = Stream(
            ours, address=Address.parse("unix:///x.sock"), family="unix", peer=Peer("unix")
        )
        io = io_of(stream)
        assert type(io) is Io
        assert io.send == ours.send
        assert io.recv == ours.recv
        io.close()


def test_small_messages_cross(pair: Pair) -> None:
    io, theirs = pair
    assert io.send(b"hello", SEND_NOW) == 5
    assert theirs.recv_exactly(5) == b"hello"
    theirs.sendall(b"answer")
    assert io.recv(3) == b"ans"
    assert io.wait(readable=True, writable=False, seconds=0) == (True, False)
    place = memoryview(bytearray(10))
    assert io.recv_into(place) == 3
    assert bytes(place[:3]) == b"wer"
    assert io.wait(readable=True, writable=True, seconds=0) == (False, True)
    assert io.send(b"", SEND_NOW) == 0


def test_what_is_not_taken_comes_again_and_arrives_once(pair: Pair) -> None:
    """A record that is half sent shows as its last byte not being taken."""
    io, theirs = pair
    data = os.urandom(8 * PIECE)
    received = bytearray()
    taken = 0
    partly = 0
    while taken < len(data):
        try:
            now = io.send(memoryview(data)[taken:], SEND_NOW)
            partly += now == 0
            taken += now
        except BlockingIOError:
            received += theirs.recv(5000)
    while len(received) < len(data):
        received += theirs.recv(65536)
    assert received == data
    assert partly or taken == len(data)


def test_a_message_is_not_encrypted_while_nothing_can_go(pair: Pair) -> None:
    """So it can be withdrawn, and its owner be told that it was not sent."""
    io, theirs = pair
    taken = fill(io)
    for _ in range(3):
        with pytest.raises(BlockingIOError):
            io.send(b"withdrawn", SEND_NOW)
    receiving = Background(lambda: theirs.recv_exactly(taken))
    while True:
        # What stands for the rest of the last record is sent first, as the driver does.
        try:
            if io.send(b"-", SEND_NOW):
                break
        except BlockingIOError:
            assert io.wait(readable=False, writable=True, seconds=WAIT)[1]
    receiving.result()
    assert io.send(b"kept", SEND_NOW) == 4
    rest = theirs.recv_exactly(5) if io._tail is None else b""
    assert rest.endswith(b"kept")
    assert b"withdrawn" not in rest


@pytest.mark.parametrize("size", [1, 2, 100])
def test_also_the_smallest_message_can_be_sent_in_part(pair: Pair, size: int) -> None:
    io, theirs = pair
    io.socket = Sluggish(io.socket)  # type: ignore[assignment]
    message = bytes(range(size))
    taken = 0
    turns = 0
    while taken < size:
        taken += io.send(message[taken:], SEND_NOW)
        turns += 1
    assert turns > 10, "a byte at a time"
    assert theirs.recv_exactly(size) == message


class Sluggish:
    """A socket that takes one byte at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def send(self, data: memoryview, flags: int) -> int:
        return self._sock.send(data[:1], flags)

    def shutdown(self, how: int) -> None:
        self._sock.shutdown(how)


def test_an_error_after_nothing_has_gone_counts_as_not_sent(pair: Pair) -> None:
    io, theirs = pair
    theirs.abort()
    for _ in range(2):
        with pytest.raises(OSError, match=r"Broken pipe|10054|10053"):
            io.send(b"x", SEND_NOW)


def test_an_error_after_some_has_gone_counts_as_sent(pair: Pair) -> None:
    io, _ = pair

    class Failing(Sluggish):
        sends = 0

        def send(self, data: memoryview, flags: int) -> int:
            self.sends += 1
            if self.sends > 1:
                raise BrokenPipeError
            return len(data)

    io.socket = Failing(io.socket)  # type: ignore[assignment]
    assert io.send(bytes(3 * PIECE), SEND_NOW) == PIECE
    with pytest.raises(BrokenPipeError):
        io.send(b"x", SEND_NOW)


def test_a_receive_ends_after_a_tick_although_pieces_of_a_record_come(pair: Pair) -> None:
    io, theirs = pair
    assert theirs.tls is not None
    record = theirs.tls.encrypt(b"x" * 100)
    pieces = iter(record)
    io._receive_raw = lambda size, flags=0: bytes([next(pieces)])
    io.tick = 0.0
    ended = 0
    while True:
        try:
            data = io.recv(1000)
            break
        except BlockingIOError:
            assert io.wait(readable=True, writable=False, seconds=0) == (False, False)
            ended += 1
    assert data == b"x" * 100
    assert ended > 10


def test_goodbye_is_said_when_writing_ends(pair: Pair) -> None:
    io, theirs = pair
    io.send(b"last", SEND_NOW)
    io.shut_down(socket.SHUT_WR)
    assert theirs.recv_exactly(4) == b"last"
    assert theirs.recv(10) == b""
    assert theirs.ended_by is None
    theirs.close()
    assert io.recv(10) == b""


def test_no_goodbye_is_said_in_the_midst_of_a_record(pair: Pair) -> None:
    io, theirs = pair
    taken = fill(io)
    io.shut_down(socket.SHUT_WR)
    got = 0
    while piece := theirs.recv(1 << 20):
        got += len(piece)
    assert got <= taken
    assert theirs.ended_by is not None


def test_the_end_without_goodbye_is_an_error(pair: Pair) -> None:
    io, theirs = pair
    theirs.socket.shutdown(socket.SHUT_RDWR)
    for _ in range(2):
        with pytest.raises(ConnectionAbortedError, match="goodbye"):
            io.recv(10)
    assert io.wait(readable=True, writable=False, seconds=0) == (True, False)
    with pytest.raises(ConnectionAbortedError, match="goodbye"):
        io.recv_into(memoryview(bytearray(1)))


def test_a_refusal_that_comes_late_is_explained(certificates: Certificates) -> None:
    """A server says only after the client's handshake that it wants a certificate."""
    ours, theirs = (
        Stream(sock, address=Address.parse("unix:///x.sock"), family="unix", peer=Peer("unix"))
        for sock in socket.socketpair()
    )

    def refuse() -> None:
        with theirs:
            shake_hands(theirs, certificates.tls("host").server(), WAIT)

    refusing = Background(refuse)
    shake_hands(ours, certificates.tls(None, names="host").client(), WAIT)
    io = io_of(ours)
    with pytest.raises(AccessDenied, match="wants a certificate"):
        io.recv(10)
    assert isinstance(refusing.error(), AccessDenied)
    io.close()
    ours.abort()


@pytest.mark.skipif(sys.platform == "win32", reason="there it is what Windows uses already")
def test_the_way_of_windows_behaves_the_same(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """select() and a non-blocking socket instead of SO_RCVTIMEO, MSG_DONTWAIT and poll()."""
    tls = certificates.tls("host", names="host")
    ours, theirs = (
        Stream(sock, address=Address.parse("unix:///x.sock"), family="unix", peer=Peer("unix"))
        for sock in socket.socketpair()
    )
    serving = Background(lambda: shake_hands(theirs, tls.server(), WAIT))
    shake_hands(ours, tls.client(), WAIT)
    serving.result()
    monkeypatch.setattr(sys, "platform", "win32")
    io = io_of(ours)
    assert isinstance(io, TlsIo)
    io.set_tick(0.01)
    with pytest.raises(BlockingIOError):
        io.recv(10)
    theirs.sendall(b"xy" * 40_000)
    assert io.recv(1) == b"x"
    assert io.wait(readable=True, writable=True, seconds=0) == (True, True)
    place = memoryview(bytearray(79_999))
    got = 0
    while got < len(place):
        got += io.recv_into(place[got:])
    assert bytes(place[:2]) == b"yx"
    taken = fill(io)
    assert taken > 0
    reading = Background(lambda: io.recv(10))
    io.set_tick(WAIT)
    io.shut_down(socket.SHUT_RDWR)
    assert isinstance(reading.error(), ConnectionAbortedError | BlockingIOError)
    io.close()
    ours.abort()
    theirs.abort()
