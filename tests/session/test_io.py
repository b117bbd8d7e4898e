"""A socket that never makes the driver wait longer than it wants to."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest

from hvrpc.session.threads.io import FOREVER, RECEIVE_NOW, SEND_NOW, Io

from ..sockets.background import Background


@pytest.fixture
def pair() -> Iterator[tuple[Io, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        io = Io(ours)
        yield io, theirs
        io.close()


def test_receive_waits_for_ever_by_default(pair: tuple[Io, socket.socket]) -> None:
    io, theirs = pair
    assert io.tick == FOREVER
    reading = Background(lambda: io.recv(10))
    reading.wait_until_blocked_in("_run")
    theirs.sendall(b"x")
    assert reading.result() == b"x"


@pytest.mark.parametrize("tick", [0.000_000_1, 0.001, 0.02])
def test_receive_ends_after_a_tick(pair: tuple[Io, socket.socket], tick: float) -> None:
    """Also after one so short that it rounds to nothing, which would mean for ever."""
    io, _ = pair
    io.set_tick(tick)
    with pytest.raises(BlockingIOError):
        io.recv(10)
    with pytest.raises(BlockingIOError):
        io.recv_into(memoryview(bytearray(10)))


def test_tick_of_whole_seconds_is_taken(pair: tuple[Io, socket.socket]) -> None:
    io, theirs = pair
    io.set_tick(FOREVER)
    io.set_tick(3.0)
    theirs.sendall(b"x")
    assert io.recv(10) == b"x"


def test_receive_now_never_waits(pair: tuple[Io, socket.socket]) -> None:
    io, theirs = pair
    with pytest.raises(BlockingIOError):
        io.recv(10, RECEIVE_NOW)
    theirs.sendall(b"x")
    assert io.recv(10, RECEIVE_NOW) == b"x"


def test_send_never_waits(pair: tuple[Io, socket.socket]) -> None:
    """It takes what fits, then says that nothing does."""
    io, theirs = pair
    sent = 0
    try:
        while True:
            sent += io.send(bytes(65536), SEND_NOW)
    except BlockingIOError:
        pass
    assert sent > 0
    assert io.wait(readable=True, writable=True, seconds=0) == (False, False)
    theirs.recv(sent)
    while not io.wait(readable=False, writable=True, seconds=1)[1]:
        theirs.recv(sent)
    assert io.send(b"x", SEND_NOW) == 1


def test_wait_tells_what_is_possible(pair: tuple[Io, socket.socket]) -> None:
    io, theirs = pair
    assert io.wait(readable=True, writable=True, seconds=1) == (False, True)
    theirs.sendall(b"x")
    assert io.wait(readable=True, writable=False, seconds=20) == (True, False)
    assert io.wait(readable=True, writable=True, seconds=20) == (True, True)
    assert io.wait(readable=False, writable=True, seconds=20) == (False, True)


def test_end_of_the_other_side_wakes_readers(pair: tuple[Io, socket.socket]) -> None:
    io, theirs = pair
    theirs.close()
    assert io.wait(readable=True, writable=False, seconds=20)[0]
    assert io.recv(10) == b""


def test_shutdown_here_wakes_a_reader_that_waits(pair: tuple[Io, socket.socket]) -> None:
    """That is how a connection is ended under the thread that reads it."""
    io, _ = pair
    reading = Background(lambda: io.recv(10))
    reading.wait_until_blocked_in("_run")
    io.shut_down(socket.SHUT_RDWR)
    assert reading.result() == b""
    io.shut_down(socket.SHUT_RDWR)  # a second time does no harm


@pytest.mark.skipif(sys.platform == "win32", reason="there it is what Windows uses already")
def test_the_way_of_windows_behaves_the_same(
    pair: tuple[Io, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """select() and a non-blocking socket instead of SO_RCVTIMEO and MSG_DONTWAIT."""
    original, theirs = pair
    monkeypatch.setattr(sys, "platform", "win32")
    io = Io(original.socket)
    io.set_tick(0.01)
    with pytest.raises(BlockingIOError):
        io.recv(10)
    with pytest.raises(BlockingIOError):
        io.recv_into(memoryview(bytearray(10)))
    io.set_tick(FOREVER)
    with pytest.raises(BlockingIOError):
        io.recv(10, RECEIVE_NOW)
    theirs.sendall(b"xy")
    assert io.recv(1) == b"x"
    place = bytearray(1)
    assert io.recv_into(memoryview(place)) == 1
    assert place == b"y"
    assert io.wait(readable=True, writable=True, seconds=1) == (False, True)
    reading = Background(lambda: io.recv(10))
    reading.wait_until_blocked_in("_wait")
    io.shut_down(socket.SHUT_RDWR)
    assert reading.result() == b""
    assert io.recv_into(memoryview(place)) == 0
    io.close()
    io.shut_down(socket.SHUT_RDWR)  # nobody is left to be woken


def test_closed_socket_hinders_nobody(pair: tuple[Io, socket.socket]) -> None:
    """Another thread may close it at any moment; only sending and receiving say so."""
    io, _ = pair
    io.socket.close()
    io.set_tick(1.0)
    assert io.wait(readable=True, writable=False, seconds=20) == (True, False)
    with pytest.raises(OSError, match=r"Bad file descriptor|WinError 10038"):
        io.recv(1)
