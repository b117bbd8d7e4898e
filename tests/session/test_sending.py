"""What is sent, in which order, and what counts as not sent: a connection's sender on a socket of ours."""

from __future__ import annotations

from collections import deque
from typing import Any, cast

import pytest

from hvrpc.session.core import Core
from hvrpc.session.state import Heartbeat
from hvrpc.session.threads.io import Io
from hvrpc.session.threads.sending import STALLED_AFTER, Sender

PAIR = (b"head", b"body")


class Socket:
    """Takes as many bytes as it has room for, and raises what it is told to."""

    def __init__(self, room: int = 0) -> None:
        self.room = room
        self.taken = b""
        self.error: BaseException | None = None

    def send(self, data: bytes, flags: int) -> int:
        if self.error is not None:
            raise self.error
        size = min(self.room, len(data))
        if not size:
            raise BlockingIOError
        self.room -= size
        self.taken += bytes(data[:size])
        return size


class Queues:
    """What a sender has to know of a core."""

    def __init__(self, *messages: Any) -> None:
        self.outgoing = deque(messages)
        self.unsent: list[bytes] = []

    def refill(self) -> bool:
        self.outgoing.extend(self.unsent)
        refilled = bool(self.unsent)
        self.unsent.clear()
        return refilled


class Made:
    """A sender, and what it has told."""

    def __init__(self, core: Queues, socket: Socket, heartbeat: Heartbeat | None = None) -> None:
        self.told: list[BaseException] = []
        self.sender = Sender(
            cast(Core, core),
            cast(Io, socket),
            heartbeat,
            end=self.told.append,
            interrupted=self.told.append,
        )
        self.push = self.sender.push


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([b"one"], id="one"),
        pytest.param([b"one", b"two", b"three"], id="several"),
        pytest.param([PAIR], id="one in pieces"),
        pytest.param([b"one", PAIR, b"two"], id="one in pieces between others"),
    ],
)
def test_what_the_socket_takes_nothing_of_counts_as_not_sent(messages: list[Any]) -> None:
    core, socket = Queues(*messages), Socket(room=0)
    made = Made(core, socket)
    assert not made.push()
    assert made.sender.blocked
    assert list(core.outgoing) == messages
    assert not made.sender.has_sent_all()
    socket.room = 100
    assert made.push()
    assert socket.taken == b"".join(b"".join(each) if each is PAIR else each for each in messages)
    assert made.sender.has_sent_all()
    assert not made.sender.blocked


@pytest.mark.parametrize("room", range(1, 15))
def test_nothing_comes_before_the_rest_of_a_message(room: int) -> None:
    core, socket = Queues(b"first", PAIR), Socket(room)
    made = Made(core, socket)
    done = made.push()
    core.outgoing.append(b"last")
    for _ in range(20):
        socket.room += 1
        done = made.push()
    assert done
    assert socket.taken == b"firstheadbodylast"


def test_what_a_caller_has_sent_a_part_of_goes_on_where_that_ended() -> None:
    core, socket = Queues(b"second"), Socket(room=100)
    made = Made(core, socket)
    made.sender.keep_rest(b"first", 2)
    assert made.sender.blocked
    assert made.push()
    assert socket.taken == b"rstsecond"


def test_a_thread_that_finds_another_one_sending_goes_on() -> None:
    core, socket = Queues(b"one"), Socket(room=100)
    made = Made(core, socket)
    with made.sender.writer:
        assert made.push()
        assert list(core.outgoing) == [b"one"]
    assert made.push()
    assert socket.taken == b"one"


def test_what_a_core_keeps_apart_follows_when_the_queue_is_empty() -> None:
    core, socket = Queues(b"small"), Socket(room=100)
    made = Made(core, socket)
    core.unsent.append(b"bulk")
    assert made.push()
    assert socket.taken == b"smallbulk"


@pytest.mark.parametrize("count", [1, 2])
def test_what_the_socket_says_at_last_ends_it_with_nothing_sent(count: int) -> None:
    messages = [b"a", b"b"][:count]
    core, socket = Queues(*messages), Socket(room=100)
    made = Made(core, socket)
    socket.error = BrokenPipeError("gone")
    assert made.push()
    assert made.told == [socket.error]
    assert list(core.outgoing) == messages


def test_an_interrupt_is_told_and_goes_on() -> None:
    core, socket = Queues(b"a"), Socket()
    made = Made(core, socket)
    socket.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        made.push()
    assert made.told == [socket.error]
    assert not made.sender.writer.locked()


def test_a_peer_that_takes_something_is_alive() -> None:
    heartbeat = Heartbeat(9)
    heartbeat.due(now=0)
    socket = Socket(room=2)
    made = Made(Queues(b"large"), socket, heartbeat)
    made.push()
    assert not heartbeat._heard
    socket.room = 1
    made.push()
    assert heartbeat._heard


def test_a_peer_that_takes_nothing_for_long_is_given_up() -> None:
    made = Made(Queues(b"a"), Socket(room=0))
    made.push()
    made.sender.give_up_if_stalled(made.sender.progress + STALLED_AFTER)
    assert not made.told
    made.sender.give_up_if_stalled(made.sender.progress + STALLED_AFTER + 1)
    assert isinstance(made.told[0], TimeoutError)
