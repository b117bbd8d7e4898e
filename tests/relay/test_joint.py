"""Two connections joined are one, for those at their far ends."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hvrpc import Address, Peer, PeerGone, StreamClosed
from hvrpc.relay import Joint
from hvrpc.relay.joint import BUSY_BUFFER, CALM, CAN_POLL, IDLE_BUFFER, _Direction
from hvrpc.sockets import Stream

from ..sockets.background import Background, wait_until
from ..sockets.contract import (
    MORE_THAN_BUFFERS_HOLD,
    MUCH,
    fill,
    read_to_end,
    send_for_ever,
    some_bytes,
)
from ..sockets.places import QUICK

SHORT = 0.05
"""A linger that a test can wait for."""
ADDRESS = Address.parse("unix:///socketpair")


def stream_pair() -> tuple[Stream, Stream]:
    return tuple(  # type: ignore[return-value]
        Stream(half, address=ADDRESS, family="unix", peer=Peer("unix"), options=QUICK)
        for half in socket.socketpair()
    )


class Joined:
    """Far ends: `caller` and `target`, with a joint between them."""

    def __init__(self, linger: float) -> None:
        self.caller, near = stream_pair()
        far, self.target = stream_pair()
        self.joint = Joint(near, far, linger=linger)
        self.running = Background(self.joint.run)


@contextmanager
def joined(linger: float = 60.0) -> Iterator[Joined]:
    made = Joined(linger)
    try:
        yield made
    finally:
        made.caller.abort()
        made.target.abort()
        made.running.result()


def test_bytes_pass_both_ways_at_the_same_time() -> None:
    with joined() as line:
        data, answer = some_bytes(MUCH, 1), some_bytes(MUCH, 2)
        sending = [
            Background(lambda: line.caller.sendall(data)),
            Background(lambda: line.target.sendall(answer)),
        ]
        receiving = Background(lambda: line.caller.recv_exactly(MUCH))
        assert line.target.recv_exactly(MUCH) == data
        assert receiving.result() == answer
        for each in sending:
            each.result()
        wait_until(lambda: line.joint.to_target == MUCH, "what has passed is counted")
        wait_until(lambda: line.joint.to_caller == MUCH, "what has passed is counted")


def test_an_end_of_sending_is_passed_on_and_the_other_direction_goes_on() -> None:
    with joined() as line:
        line.caller.sendall(b"question")
        line.caller.shutdown_write()
        assert read_to_end(line.target) == b"question"
        line.target.sendall(b"answer")
        line.target.sendall(b", and more of it")
        line.target.close()
        assert read_to_end(line.caller) == b"answer, and more of it"
        line.running.result()


@pytest.mark.parametrize("who", ["caller", "target"])
def test_when_one_side_ends_the_other_is_ended(who: str) -> None:
    with joined() as line:
        ends, stays = (line.caller, line.target) if who == "caller" else (line.target, line.caller)
        ends.sendall(b"last words")
        ends.close()
        assert read_to_end(stays) == b"last words"
        if not CAN_POLL:
            stays.close()  # Windows does not tell that nobody is there who could listen
        line.running.result()  # without waiting for `linger`


def test_a_side_that_breaks_off_ends_the_other_although_it_is_silent() -> None:
    """Unread bytes are thrown away. Where it is not told (Windows), silence ends the other side."""
    with joined(60 if CAN_POLL else SHORT) as line:
        line.target.sendall(b"never read")
        wait_until(lambda: line.joint.to_caller == 10, "it has arrived at the caller")
        line.caller.abort()
        assert read_to_end(line.target) == b""
        line.running.result()


def test_a_sender_is_told_when_the_receiver_is_gone() -> None:
    with joined() as line:
        line.target.abort()
        with pytest.raises(PeerGone):
            send_for_ever(line.caller)


@pytest.mark.skipif(
    not hasattr(socket, "AF_UNIX"),
    reason="TCP throws away what was said before a break; run it on Linux",
)
@pytest.mark.parametrize("linger", [0.0, 60.0])
def test_what_a_side_has_said_before_it_left_arrives_although_sending_to_it_fails(
    linger: float,
) -> None:
    """It shows first that nobody is there any more, and only then what was said before."""
    with joined(linger) as line:
        said = fill(line.target)  # the caller does not read: the joint is stuck with it
        line.target.abort()
        there = line.joint._there
        while not there.ended.is_set():
            passed = there.moved
            line.caller.sendall(b"x")
            wait_until(lambda: there.ended.is_set() or there.moved > passed, "it is passed on")  # noqa: B023
        assert read_to_end(line.caller) == said


def test_one_side_alone_is_ended_after_a_silence() -> None:
    """The caller has finished sending, or has died: nobody can tell, so it gets a while."""
    with joined(linger=SHORT) as line:
        line.caller.shutdown_write()
        assert read_to_end(line.target) == b""
        line.running.result()  # the target has not closed
        assert read_to_end(line.caller) == b""


def test_what_moves_is_not_ended_however_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hvrpc.relay.joint.CAN_POLL", False)  # as on Windows
    direction = _Direction(Source([]), Source([]))
    waits = []

    class SlowlyEnding:
        def is_set(self) -> bool:
            return False

        def wait(self, seconds: float) -> None:
            waits.append(seconds)
            if len(waits) <= 3:
                direction.moved += 1

    direction.ended = SlowlyEnding()  # type: ignore[assignment]
    Joint(Source([]), Source([]))._wait_for(direction, SHORT)
    assert waits == [SHORT] * 4


def test_a_receiver_that_does_not_read_stops_the_sender_and_nothing_is_lost() -> None:
    with joined() as line:
        # Stuck at last: the buffers of four sockets are full, and so is the one of the joint.
        sent = fill(line.caller)
        assert len(sent) < MORE_THAN_BUFFERS_HOLD
        line.caller.timeout = None
        ending = Background(line.caller.shutdown_write)
        assert read_to_end(line.target) == sent
        ending.result()


@pytest.mark.skipif(
    sys.platform == "win32", reason="Wine leaves one that sends waiting; run it on Linux"
)
def test_cutting_ends_both_sides_whatever_they_wait_for() -> None:
    with joined() as line:
        fill(line.caller)
        line.joint.cut()
        line.running.result()
        with pytest.raises(PeerGone):
            line.caller.sendall(b"x")
        read_to_end(line.target)


class Source:
    """A line that gives pieces of certain sizes, and remembers how much room it was given."""

    ended_by = None

    def __init__(self, sizes: list[int]) -> None:
        self._sizes = iter(sizes)
        self.rooms: list[int] = []

    def recv_into(self, buffer: object) -> int:
        self.rooms.append(len(buffer))  # type: ignore[arg-type]
        return min(next(self._sizes, 0), len(buffer))  # type: ignore[arg-type]

    def sendall(self, data: object) -> None:
        raise StreamClosed("", operation="send", cause="not used")

    def fileno(self) -> int:
        return -1

    def shutdown_write(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


class Sink(Source):
    """A line that takes everything, and whose own direction has ended."""

    def sendall(self, data: object) -> None:
        pass


def test_a_buffer_is_large_while_much_passes() -> None:
    source = Source([100, IDLE_BUFFER, BUSY_BUFFER, 5, IDLE_BUFFER + 1, *[7] * (CALM + 1), 7, 7])
    Joint(source, Sink([])).run()
    small, large = IDLE_BUFFER, BUSY_BUFFER
    assert source.rooms == [small] * 2 + [large] * (4 - 1 + CALM + 1) + [small] * 3
