"""The watch notices handlers that keep a connection from reading on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hvrpc.session.threads.watch import LONG, PATIENCE, Watch

from ..sockets.background import WAIT, wait_until


class Watched:
    """A connection, as far as the watch knows it."""

    def __init__(self, serving: int = 0, *, stays: bool = False) -> None:
        self.serving = serving
        self.looks = 0
        self.stays = stays
        """Whether there is nothing to read, so that nothing is handed over."""
        self.handed_over = threading.Event()

    def hand_over(self, *, anyway: bool) -> None:
        self.looks += 1
        if anyway or not self.stays:
            self.serving = 0
        self.handed_over.set()


@contextmanager
def watching(*connections: Watched) -> Iterator[Watch]:
    watch = Watch()
    for connection in connections:
        watch.add(connection)
    try:
        yield watch
    finally:
        for connection in connections:
            watch.discard(connection)


def test_long_handler_is_handed_over() -> None:
    slow = Watched(serving=1)
    with watching(slow) as watch:
        watch.wake()
        assert slow.handed_over.wait(WAIT)


def test_quick_handlers_are_left_alone() -> None:
    """A handler with another number at each look has not been running in between."""

    class Quick(Watched):
        numbers = 0

        @property
        def serving(self) -> int:
            self.numbers += 1
            return self.numbers

        @serving.setter
        def serving(self, _: int) -> None:
            pass

    quick, slow = Quick(), Watched(serving=1)
    with watching(quick, slow) as watch:
        watch.wake()
        assert slow.handed_over.wait(WAIT)
        wait_until(lambda: quick.numbers > 20, "the watch looks again")
    assert quick.looks == 0


def test_connection_with_nothing_to_read_is_asked_again() -> None:
    """There may be something later, while the same handler still runs."""
    slow = Watched(serving=1, stays=True)
    with watching(slow) as watch:
        watch.wake()
        wait_until(lambda: slow.looks >= 3, "it is asked a third time")


def test_very_long_handler_is_handed_over_anyway() -> None:
    """Otherwise a thousand handlers that wait for hours keep the watch busy for hours."""
    slow = Watched(serving=1, stays=True)
    with watching(slow) as watch:
        watch.wake()
        wait_until(lambda: slow.serving == 0, "it is handed over")
        assert slow.looks == LONG
        wait_until(lambda: watch.asleep, "the watch goes to sleep")


def test_sleeps_while_no_handler_runs_and_wakes_for_the_next() -> None:
    """An idle server costs nothing, and is watched again at once."""
    connection = Watched(serving=1)
    with watching(connection) as watch:
        for _ in range(3):
            connection.handed_over.clear()
            connection.serving = 1
            if watch.asleep:
                watch.wake()
            assert connection.handed_over.wait(WAIT)
            wait_until(lambda: watch.asleep, "the watch goes to sleep")


def test_handler_that_begins_while_it_falls_asleep_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It looked just before the watch lay down, so nobody wakes the watch for it."""
    watch = Watch()
    quiet, late = Watched(), Watched(serving=1)
    clear = watch._alarm.clear

    def begin_now() -> None:
        clear()
        watch.add(late)

    monkeypatch.setattr(watch._alarm, "clear", begin_now)
    watch.add(quiet)
    try:
        watch.wake()
        assert late.handed_over.wait(WAIT)
    finally:
        watch.discard(quiet)
        watch.discard(late)


def test_thread_ends_with_the_last_connection_and_begins_again() -> None:
    watch = Watch()
    for _ in range(3):
        connection = Watched(serving=1)
        watch.add(connection)
        watch.wake()
        assert connection.handed_over.wait(WAIT)
        watch.discard(connection)
        wait_until(lambda: watch._thread is None, "the thread has ended")


def test_forgets_everything_after_a_fork() -> None:
    """In the child the thread does not exist, and the connections are the parent's."""
    watch = Watch()
    parents = Watched(serving=1, stays=True)
    watch.add(parents)
    watch.forget_all()
    own = Watched(serving=1)
    watch.add(own)
    assert watch.asleep
    watch.wake()
    try:
        assert own.handed_over.wait(WAIT)
        assert parents.looks == 0
    finally:
        watch.discard(own)


@pytest.mark.parametrize("value", [PATIENCE])
def test_patience_is_short_for_people_and_long_for_a_quick_handler(value: float) -> None:
    assert 0.0005 <= value <= 0.02
