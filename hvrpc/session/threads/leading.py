"""Who reads: the thread that waits for an answer, and never two at once.

There is no reader thread: the thread that waits for an answer reads the socket itself and finishes
other threads' calls on the way (it *leads*); the rest *follow*: they sleep and are woken when they are
done, or when the lead falls vacant. A hand-over between threads costs about as much as the whole call, so a lone
caller pays for none.

Three rules keep this right; each was broken once, somewhere, and showed as a stall:

* a follower puts itself on the list *first*, then looks whether it is done, then tries to lead, and
  sleeps only then;
* a leader that leaves gives up the lead *first*, then wakes one follower;
* a follower that wakes up and is done already passes the wake-up on, if nobody leads.
"""

from __future__ import annotations

import time
from _thread import LockType, allocate_lock

from ..core import Call
from .io import FOREVER


class Lead:
    """The right to read from a connection, and those who sleep while another thread has it.

    Whoever holds `lock` leads. It is taken without waiting, and given up by
    `Connection.give_up_lead`, or where every step counts by the same three steps written out.
    """

    __slots__ = ("followers", "lock")

    def __init__(self) -> None:
        self.lock = allocate_lock()
        self.followers: dict[Call, LockType] = {}
        """What each of them sleeps on."""

    def follow(self, call: Call, deadline: float | None) -> bool:
        """Sleep while another thread reads. True when done, or when leading is possible; False when late."""
        asleep = allocate_lock()
        asleep.acquire()
        call.wake = _Alarm(asleep)
        self.followers[call] = asleep
        try:
            while not call.done:
                if not self.lock.locked():
                    return True
                left = FOREVER if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    return False
                asleep.acquire(True, min(left, FOREVER))
            return True
        finally:
            self.followers.pop(call, None)
            # Whether done, late or interrupted: the wake-up may have been meant as "lead now".
            self.pass_on()

    def pass_on(self) -> None:
        """Whoever stops following may have been woken in order to lead: wake another one for it."""
        if self.followers and not self.lock.locked():
            self.promote()

    def promote(self) -> None:
        """Wake one follower: it will find the lead vacant."""
        while self.followers:
            try:
                asleep = next(iter(self.followers.values()))
            except (RuntimeError, StopIteration):
                continue  # the list changed under us
            wake(asleep)
            return


class _Alarm:
    """Wakes a follower."""

    __slots__ = ("_asleep",)

    def __init__(self, asleep: LockType) -> None:
        self._asleep = asleep

    def __call__(self) -> None:
        wake(self._asleep)


def wake(asleep: LockType) -> None:
    """Wake the thread that sleeps on it, if it still does."""
    try:
        asleep.release()
    except RuntimeError:
        pass  # awake already
