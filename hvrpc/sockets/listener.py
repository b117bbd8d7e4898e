"""Waiting for callers.

`accept()` must be woken by `close()`, which no family does by itself on every system: closing a
descriptor does not wake a thread that waits on it under Linux, and shutting down a listening vsock
is refused. So on POSIX accept() waits for the socket *and* for a wake-up; on Windows closing the
socket is what wakes it.
"""

from __future__ import annotations

import logging
import os
import random
import select
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, Self, TypeVar

from ..access import Access, Peer
from ..addresses import MAX_HV_PORT, Address
from ..errors import HvrpcError, StreamClosed, TransportTimeout
from . import causes
from .options import Options
from .stream import Stream

logger = logging.getLogger("hvrpc.sockets")

LONGEST_WAIT = 86_400.0
"""Seconds of one wait: systems refuse much longer ones."""


class Endpoint(ABC):
    """What a family gives to a listener: a listening socket, and what belongs to it."""

    def __init__(self, sock: socket.socket, address: Address) -> None:
        self.socket = sock
        self.address = address

    @abstractmethod
    def peer(self, sock: socket.socket, name: object) -> Peer | None:
        """Who called, given the accepted socket and the name that accept() told.

        None: somebody who has no business here, to be cut off at once.
        """

    def prepare(self, sock: socket.socket, options: Options) -> None:
        """Set what an accepted socket does not inherit."""

    def release(self) -> None:
        """Remove what listening has left in the file system. Called once, before closing.

        Before, because as long as the socket is open nobody takes what is there for stale.
        """


class Listener:
    """A service that waits for callers. Made by :func:`hvrpc.sockets.listen`.

    Iterating over it accepts until it is closed.
    """

    def __init__(
        self, endpoint: Endpoint, *, family: str, options: Options, access: Access | None
    ) -> None:
        self.family = family
        self.address = endpoint.address
        """Where it listens; port 0 has become the port that was chosen."""
        self._endpoint = endpoint
        self._socket = endpoint.socket
        self._options = options
        self._access = access
        self._closed = False
        self._process = os.getpid()
        self._closing = threading.Lock()
        self._wait = _make_wait(self._socket)

    def accept(self, timeout: float | None = None) -> tuple[Stream, Peer]:
        """Wait for a caller.

        Returns the connection and who called. Callers that the rules refuse are cut off and
        logged, and do not end the wait. Raises :class:`hvrpc.StreamClosed` when the listener is
        closed, :class:`hvrpc.TransportTimeout` when nobody called in time.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            sock, name = self._accept_socket(deadline)
            try:
                admitted = self._admit(sock, name)
            except OSError:
                sock.close()  # it went away while it was looked at
                continue
            except BaseException:
                sock.close()
                raise
            if admitted is not None:
                return admitted, admitted.peer
            _refuse(sock)

    def _admit(self, sock: socket.socket, name: object) -> Stream | None:
        peer = self._endpoint.peer(sock, name)
        if peer is None:
            return None
        if self._access is not None and not self._access.admits(peer):
            self._access.log_refusal(peer, self.address)
            return None
        self._endpoint.prepare(sock, self._options)
        return Stream(
            sock, address=self.address, family=self.family, peer=peer, options=self._options
        )

    def _accept_socket(self, deadline: float | None) -> tuple[socket.socket, object]:
        looked = False  # at least once, also without any time to wait
        while True:
            if self._closed:
                raise self._closed_error()
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0 and looked:
                raise TransportTimeout(
                    str(self.address), operation=causes.ACCEPT, cause="nobody called in time"
                )
            looked = True
            try:
                if not self._wait.ready(None if left is None else min(max(left, 0), LONGEST_WAIT)):
                    continue
                sock, name = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError, TimeoutError):
                continue  # the caller gave up between the wake-up and accept(), or time is up
            except (OSError, ValueError) as error:
                if self._closed:
                    raise self._closed_error() from error
                if isinstance(error, ValueError):
                    raise
                raise causes.explain(
                    error, operation=causes.ACCEPT, address=self.address, family=self.family
                ) from error
            sock.settimeout(None)
            return sock, name

    def _closed_error(self) -> HvrpcError:
        return StreamClosed(
            str(self.address), operation=causes.ACCEPT, cause="the listener is closed"
        )

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def fileno(self) -> int:
        """The file descriptor, or -1 once closed."""
        return -1 if self._closed else self._socket.fileno()

    def close(self) -> None:
        """Stop listening, and wake threads that wait in :meth:`accept`. May be called twice."""
        if self._process != os.getpid():
            # After a fork, in the child: the listener is the parent's, and only our copy is ended.
            self._closed = True
            self._socket.close()
            return
        with self._closing:
            if self._closed:
                return
            self._closed = True
            try:
                self._endpoint.release()
            finally:
                self._wait.end(self._socket)

    def __iter__(self) -> Iterator[tuple[Stream, Peer]]:
        while True:
            try:
                yield self.accept()
            except StreamClosed:
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Listener {self.address}, {'closed' if self._closed else 'open'}>"


FIRST_FREE_PORT: Final = 0x4000_0000
"""Where the search for a free port starts: far above what people choose by hand."""
_TRIES: Final = 100

T = TypeVar("T")


def bind_to_free_port(bind: Callable[[int], T]) -> T:
    """For families that have no "any free port": find one by trying."""
    for _ in range(_TRIES - 1):
        try:
            return bind(random.randint(FIRST_FREE_PORT, MAX_HV_PORT))
        except OSError as error:
            if causes.code_of(error) not in causes.IN_USE:
                raise
    return bind(random.randint(FIRST_FREE_PORT, MAX_HV_PORT))


def _refuse(sock: socket.socket) -> None:
    """Cut off somebody without reading what was sent."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    sock.close()


# --- Waiting so that it can be ended ------------------------------------------------------------


class _Wait(ABC):
    @abstractmethod
    def ready(self, seconds: float | None) -> bool:
        """Wait until accept() has somebody to return; False when there is nobody yet."""

    @abstractmethod
    def end(self, sock: socket.socket) -> None:
        """Wake everybody who waits, and close the socket."""


class _PollWait(_Wait):
    """POSIX: wait for the socket and for the other half of a socket pair."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)  # several threads may wait for the same caller
        self._socket = sock
        self._lock = threading.Lock()
        self._waiting = 0
        self._ended = False
        self._sleeper, self._waker = socket.socketpair()

    def ready(self, seconds: float | None) -> bool:
        with self._lock:
            if self._ended:
                return False
            self._waiting += 1
            poller = select.poll()
            poller.register(self._socket, select.POLLIN)
            poller.register(self._sleeper, select.POLLIN)
        try:
            events = poller.poll(None if seconds is None else seconds * 1000)
            return bool(events) and not self._ended
        finally:
            with self._lock:
                self._waiting -= 1
                if self._ended and not self._waiting:
                    self._close_all()

    def end(self, sock: socket.socket) -> None:
        with self._lock:
            self._ended = True
            self._waker.shutdown(socket.SHUT_WR)  # the sleeper becomes readable, for all waiters
            try:
                sock.shutdown(socket.SHUT_RDWR)  # from now on nobody connects
            except OSError:
                pass  # not every family can do that while it listens
            # The descriptor itself stays until the last waiter has left: its number must not be
            # given to another file while poll() has it.
            if not self._waiting:
                self._close_all()

    def _close_all(self) -> None:
        self._socket.close()
        self._sleeper.close()
        self._waker.close()


class _BlockingWait(_Wait):
    """Windows: accept() itself waits, and closing the socket wakes it."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def ready(self, seconds: float | None) -> bool:
        self._socket.settimeout(seconds)
        return True

    def end(self, sock: socket.socket) -> None:
        sock.close()


def _make_wait(sock: socket.socket) -> _Wait:
    return _BlockingWait(sock) if os.name == "nt" else _PollWait(sock)
