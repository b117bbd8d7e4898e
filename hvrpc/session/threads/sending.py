"""What goes out: any thread sends, at any time, and none of them ever waits.

What the socket does not take at once stays, and whoever needs it sent waits for room elsewhere
(`Connection.flush`), reading meanwhile. So the lock here is held for moments only, and a thread that finds it
taken goes on: the one that has it looks at the queue once more before it leaves.
"""

from __future__ import annotations

import time
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from ..core import Core, joined
from ..state import Heartbeat
from .io import SEND_NOW, Io

STALLED_AFTER: Final = 30.0
"""Seconds without progress after which a peer that does not read is given up."""


class Sender:
    """Takes from a core's queue, and gives to the socket. May be used by any thread.

    `writer` guards `rest` and `progress`, and that only one takes from the queue to send; `blocked` is a hint
    to everybody, and written under it too. Besides this class only `Connection.call` takes `writer`
    to send, for the first message of a call: one function less for each of them.
    """

    __slots__ = (
        "_core",
        "_end",
        "_heartbeat",
        "_interrupted",
        "blocked",
        "progress",
        "queue",
        "rest",
        "send",
        "writer",
    )

    def __init__(
        self,
        core: Core,
        io: Io,
        heartbeat: Heartbeat | None,
        *,
        end: Callable[[OSError], object],
        interrupted: Callable[[BaseException], object],
    ) -> None:
        """`end` is told what the socket says at last; `interrupted`, what struck in the midst of sending."""
        self._core = core
        self._heartbeat = heartbeat
        self._end = end
        self._interrupted = interrupted
        self.send = io.send
        self.queue: deque[Any] = core.outgoing
        self.writer = allocate_lock()
        self.rest: memoryview | None = None
        """What the socket has not taken of a message: nothing may come before it."""
        self.blocked = False
        """Whether the socket took less than there was."""
        self.progress = 0.0
        """When it took something, or was asked for the first time in vain."""

    def push(self) -> bool:
        """Send what the core has queued, as far as the socket takes it at once.

        Never waits. False when something is left that nobody is sending.
        """
        queue = self.queue
        unsent = self._core.unsent
        try:
            while self.writer.acquire(False):
                try:
                    if len(queue) == 1 and not self.blocked and type(queue[0]) is bytes:
                        # Nearly always: one small message, and room for it.
                        item = queue.popleft()
                        try:
                            sent = self.send(item, SEND_NOW)
                        except OSError:
                            # It comes again in a moment, and is dealt with there.
                            queue.appendleft(item)
                            sent = -1
                        if sent == len(item):
                            done = True
                        else:
                            if sent >= 0:
                                self.rest = memoryview(item)[sent:]
                            done = self._send_queued()
                    else:
                        done = self._send_queued()
                except IndexError:  # another thread has withdrawn the only one just now
                    done = True
                finally:
                    self.writer.release()
                # Somebody may have queued more between our last look and the release, and have
                # seen that we were sending.
                if not done or not (queue or (unsent and self._core.refill())):
                    return done
        except OSError as error:
            self._end(error)
        except BaseException as error:
            # It may have struck between the queue and the kernel: half a message may be missing.
            self._interrupted(error)
            raise
        return True

    def keep_rest(self, item: bytes, sent: int) -> None:
        """The socket took a part of it. Whoever sends next, another thread perhaps, begins with the rest.
        `writer` is held."""
        self.rest = memoryview(item)[sent:]
        self.progress = time.monotonic()
        self.blocked = True

    def has_sent_all(self) -> bool:
        """Whether nothing is left. Waits for a thread that is just about to send something."""
        with self.writer:
            return not self.queue and self.rest is None

    def give_up_if_stalled(self, now: float) -> None:
        """Something waits to be sent: end the connection if its peer has taken nothing for too long."""
        if now - self.progress > STALLED_AFTER:
            self._end(TimeoutError(f"the peer has read nothing for {STALLED_AFTER:g} s"))

    def _send_queued(self) -> bool:
        queue = self.queue
        send = self.send
        items: list[Any] = []
        try:
            while True:
                rest = self.rest
                if rest is not None:
                    sent = send(rest, SEND_NOW)
                    self.progress = time.monotonic()
                    if self._heartbeat is not None:
                        self._heartbeat._heard = True  # somebody takes what we send
                    if sent < len(rest):
                        self.rest = rest[sent:]
                        self.blocked = True
                        return False
                    self.rest = None
                if not queue:
                    self.blocked = False
                    return True
                item = queue.popleft()
                items = [item]
                if type(item) is tuple:
                    head, *bodies = item
                    data = head
                    for body in reversed(bodies):
                        queue.appendleft(memoryview(body))
                else:
                    if queue:
                        items, data = joined(item, queue)
                    else:
                        data = item
                sent = send(data, SEND_NOW)
                items = []
                if sent != len(data):
                    self.rest = memoryview(data)[sent:]
        except BlockingIOError:
            self._put_back(items)
            if not self.blocked:
                self.progress = time.monotonic()
                self.blocked = True
            return False
        except OSError:
            self._put_back(items)
            raise

    def _put_back(self, items: list[Any]) -> None:
        """What was not sent goes back to the head of the queue, where it counts as not sent."""
        queue = self.queue
        for item in reversed(items):
            if type(item) is tuple:
                for _ in item[1:]:
                    queue.popleft()
            queue.appendleft(item)
