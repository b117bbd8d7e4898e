"""A socket that never makes the driver wait longer than it wants to."""

from __future__ import annotations

import select
import socket
import struct
import sys
import threading
from collections.abc import Callable
from typing import Final

from ...sockets.structs import set_option

CHUNK: Final = 64 * 1024
"""Bytes received at once. From 128 KiB on the C library maps and unmaps memory for each receive,
which costs more than the receive."""
SLICE: Final = 0.02
"""Seconds after which somebody who waits for room to send looks whether nobody reads any more."""
FOREVER: Final = 86_400.0

_DONTWAIT: Final = getattr(socket, "MSG_DONTWAIT", 0)
_MARK: Final = 0x40
_TIMEVAL: Final = struct.Struct("@ll")

SEND_NOW: Final = _DONTWAIT
"""The flag for `Io.send`: take what fits, or raise BlockingIOError."""
RECEIVE_NOW: Final = _DONTWAIT or _MARK
"""The flag for `Io.recv` when it must not wait. On Windows a mark of our own."""


def at_most(seconds: float) -> float:
    """What a lock can wait for: on Windows no longer than 49 days."""
    return min(seconds, threading.TIMEOUT_MAX)


class Io:
    """A socket whose receives end after a settable time, and whose sends never wait."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.tick = FOREVER
        self._shut = False
        sock.settimeout(None)
        self.recv: Callable[..., bytes] = sock.recv
        self.recv_into: Callable[..., int] = sock.recv_into
        self.send: Callable[..., int] = sock.send
        if sys.platform == "win32":
            # No MSG_DONTWAIT there, and whether AF_HYPERV honours SO_RCVTIMEO nobody has written
            # down: a non-blocking socket and select() do the same.
            sock.setblocking(False)
            self._bell = _new_bell()
            self.recv = self._select_recv
            self.recv_into = self._select_recv_into

    def shut_down(self, how: int) -> None:
        """End sending, or with SHUT_RDWR everything: then whoever waits to receive wakes up."""
        try:
            self.socket.shutdown(how)
        except OSError:
            pass  # it has ended already
        if sys.platform == "win32" and how == socket.SHUT_RDWR:
            self._shut = True
            try:
                self._bell.send(b"!")
            except OSError:
                pass  # closed meanwhile: nobody waits

    def close(self) -> None:
        """Close what this has opened itself; the socket belongs to others."""
        if sys.platform == "win32":
            self._bell.close()

    def set_tick(self, seconds: float) -> None:
        """Let a receive end by BlockingIOError after so many seconds."""
        self.tick = seconds
        if sys.platform != "win32":
            whole = int(seconds)
            fraction = max(int((seconds - whole) * 1_000_000), 0 if whole else 1)
            timeout = _TIMEVAL.pack(whole, fraction)
            try:
                set_option(self.socket, socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
            except OSError:
                pass  # closed meanwhile, by another thread: the next receive tells

    def wait(self, *, readable: bool, writable: bool, seconds: float) -> tuple[bool, bool]:
        """Wait until it can be read, or written. A closed socket can be both: trying tells."""
        try:
            return self._wait(readable, writable, seconds)
        except ValueError:  # it has no descriptor any more
            return readable, writable

    def _wait(self, readable: bool, writable: bool, seconds: float) -> tuple[bool, bool]:
        if sys.platform == "win32":
            reads, writes, _ = select.select(
                [self.socket, self._bell] if readable else [],
                [self.socket] if writable else [],
                [],
                seconds,
            )
            return bool(reads), bool(writes)
        poller = select.poll()
        poller.register(
            self.socket, (select.POLLIN if readable else 0) | (select.POLLOUT if writable else 0)
        )
        for _, events in poller.poll(max(seconds, 0) * 1000):
            # An error or a hang-up is news for a reader and for a writer alike.
            broken = bool(events & ~(select.POLLIN | select.POLLOUT))
            return broken or bool(events & select.POLLIN), broken or bool(events & select.POLLOUT)
        return False, False

    def _select_recv(self, size: int, flags: int = 0) -> bytes:
        self._select(flags)
        return b"" if self._shut else self.socket.recv(size)

    def _select_recv_into(self, buffer: memoryview) -> int:
        self._select(0)
        return 0 if self._shut else self.socket.recv_into(buffer)

    def _select(self, flags: int) -> None:
        seconds = 0.0 if flags & RECEIVE_NOW else self.tick
        if not self.wait(readable=True, writable=False, seconds=seconds)[0]:
            raise BlockingIOError


def _new_bell() -> socket.socket:
    """What wakes a thread in select(): a shutdown on this side does not on Windows.

    A UDP socket that is connected to itself: nobody else can ring it.
    """
    bell = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        bell.bind(("127.0.0.1", 0))
        bell.connect(bell.getsockname())
        bell.setblocking(False)
    except BaseException:
        bell.close()
        raise
    return bell
