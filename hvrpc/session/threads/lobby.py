"""Where a server's idle connections wait without a thread of their own.

A thread for each connection is what makes a small call quick: nobody has to be woken but the thread that reads.
But a thread that only waits costs its stack, and a thousand idle connections a thousand of them. So one that
has been idle for a while gives its thread up; one thread for the process watches the sockets of all, and
starts a thread for each connection on which something comes. That first call pays for the start of a
thread, about as much as for a new connection.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import threading
from typing import Final, Protocol

logger = logging.getLogger("hvrpc.session")

IDLE_FOR: Final = 0.25
"""Seconds without a byte after which a connection gives up its thread."""
AT_ONCE: Final = 256
"""Connections that are woken before the next look."""


class Guest(Protocol):
    """What waits here."""

    def resume(self) -> None:
        """Something has come: go on reading, on a thread of your own."""
        ...


class Lobby:
    """Watches sockets by `epoll`, which one thread may wait on while others add and remove."""

    def __init__(self) -> None:
        self.idle_for = IDLE_FOR
        self._lock = threading.Lock()
        self._guests: dict[int, Guest] = {}
        self._poll: select.epoll | None = None
        self._bell = -1

    @property
    def is_open(self) -> bool:
        """Whether this system has what it takes."""
        return sys.platform == "linux"

    def enter(self, descriptor: int, guest: Guest) -> None:
        """Wait for something to come on a socket. Its guest is told once, and has left then."""
        with self._lock:
            if self._poll is None:
                self._open()
            assert self._poll is not None
            self._guests[descriptor] = guest
            self._poll.register(
                descriptor, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLONESHOT
            )

    def leave(self, descriptor: int, guest: Guest) -> None:
        """Wait no more: the socket is about to be closed."""
        with self._lock:
            if self._guests.get(descriptor) is guest:
                self._forget(descriptor)

    def _open(self) -> None:
        self._poll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._bell, select.EPOLLIN)
        threading.Thread(
            target=self._watch, args=(self._poll, self._bell), name="hvrpc-lobby", daemon=True
        ).start()

    def _forget(self, descriptor: int) -> None:
        """The lock is held. The last one out rings for the thread, which closes up."""
        del self._guests[descriptor]
        if self._poll is not None:
            self._poll.unregister(descriptor)
        if not self._guests and self._bell >= 0:
            os.eventfd_write(self._bell, 1)

    def _watch(self, poll: select.epoll, bell: int) -> None:
        while True:
            events = poll.poll(None, AT_ONCE)
            woken: list[Guest] = []
            with self._lock:
                for descriptor, _ in events:
                    if descriptor == bell:
                        os.eventfd_read(bell)
                    guest = self._guests.get(descriptor)
                    if guest is not None:
                        woken.append(guest)
                        self._forget(descriptor)
                if not self._guests and not woken:
                    self._poll = None
                    self._bell = -1
                    poll.close()
                    os.close(bell)
                    return
            for guest in woken:
                try:
                    guest.resume()
                except Exception:
                    logger.exception("an idle connection could not go on")

    def forget_all(self) -> None:
        """After a fork: the connections are the parent's, and so is the thread."""
        poll, bell = self._poll, self._bell
        self.__init__()  # type: ignore[misc]
        if poll is not None:
            poll.close()
            os.close(bell)


lobby: Final = Lobby()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lobby.forget_all)
