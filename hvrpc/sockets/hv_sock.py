"""A UNIX socket with the manners of Linux' hv_sock, the transport of Linux guests of Hyper-V.

Programs that were written against other sockets meet on it what they would meet in a guest:

- rings of 24 KiB, and no more than 16 KiB in one receive;
- no MSG_PEEK and no MSG_OOB; MSG_WAITALL only for what one receive can bring;
- never a reset: whatever happened to the other side, the reader finds an end and the writer EPIPE;
- a close that may lose what is on its way: what the other side had sent but not followed by
  shutdown() is gone when it closes, or dies.

For the last one the two ends have a second connection, on which shutdown() leaves a word. (The kernel
does not tell the end of a connection that was shut down first from that of one that was not.)

What reads the descriptor itself, as uvloop does, gets past the second half of this list.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
from typing import TYPE_CHECKING, Final, NoReturn, SupportsIndex

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Buffer

RING: Final = 6 * 4096
"""Bytes of the ring in each direction, unless the socket's buffers are set."""
MTU: Final = 16 * 1024
"""What one packet carries at most."""

WORD: Final = b"."
"""On the second connection: nothing more follows, and what was sent before is to be delivered."""
HELLO: Final = b"h"
PATIENCE: Final = 1.0
"""Seconds to wait for what the other process is about to do, if it has not just been stopped."""

_UNSUPPORTED: Final = socket.MSG_PEEK | socket.MSG_OOB


class ImitatedHvSock(socket.socket):
    """One end of a connection, or a listener."""

    _word: socket.socket | None = None
    """The second connection."""
    _end_is_proper = False
    """The other side has shut down writing."""
    _lost = False

    def size_rings(self, size: int | None) -> None:
        """Bytes that are under way at most. Linux counts twice the number that it is given."""
        self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, (size or RING) // 2)

    # --- Opening ---

    def accept(self) -> tuple[socket.socket, object]:
        """As `socket.accept`, whose result is of the standard library's own kind."""
        descriptor, name = self._accept()  # type: ignore[attr-defined]
        sock = ImitatedHvSock(self.family, self.type, self.proto, fileno=descriptor)
        sock.size_rings(self.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF))
        return sock, name

    def greet(self) -> None:
        """Begin, at the side that has connected."""
        self._word, other = socket.socketpair()
        with other:
            socket.send_fds(self, [HELLO], [other.fileno()])

    def be_greeted(self) -> bool:
        """Begin, at the side that has accepted; False if the caller is gone, or stopped."""
        self.settimeout(PATIENCE)
        try:
            hello, descriptors, _, _ = socket.recv_fds(self, len(HELLO), 1)
        except OSError:
            return False
        finally:
            self.settimeout(None)
        for descriptor in descriptors:
            self._word = socket.socket(fileno=descriptor)
        return hello == HELLO

    # --- The end ---

    def shutdown(self, how: int, /) -> None:
        if how != socket.SHUT_RD:
            self._say_word()
        super().shutdown(how)

    def close(self) -> None:
        # First the second connection: who sees the end of the first one looks there.
        if self._word is not None:
            self._word.close()
        super().close()

    def detach(self) -> int:
        # How the new owner ends the connection will not be seen here. Let it be the proper way.
        self._say_word()
        if self._word is not None:
            self._word.close()
        return super().detach()

    def _say_word(self) -> None:
        if self._word is not None:
            try:
                self._word.send(WORD)
            except OSError:
                pass  # nobody is left to read it

    def _is_lost(self) -> bool:
        """Whether the other side has ended without shutting down, with all that it had sent."""
        if not self._end_is_proper and not self._lost and self._word is not None:
            self._look()
        return self._lost

    def _look(self) -> None:
        assert self._word is not None
        if not _happens(self, 0, 0.0) & select.POLLHUP:
            return  # the other side is there, or has only ended writing
        if not _happens(self._word, select.POLLIN, PATIENCE):
            return  # we have ended both directions ourselves
        self._end_is_proper = _is_word(self._word)
        self._lost = not self._end_is_proper

    # --- Receiving ---

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        _check(size, flags)
        if self._is_lost():
            return b""
        try:
            return super().recv(min(size, MTU), flags)
        except ConnectionResetError:
            return b""

    def recv_into(self, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> int:
        size = nbytes or memoryview(buffer).nbytes
        _check(size, flags)
        if self._is_lost() or not size:
            return 0
        try:
            return super().recv_into(buffer, min(size, MTU), flags)
        except ConnectionResetError:
            return 0

    # --- Sending ---

    def send(self, data: Buffer, flags: int = 0, /) -> int:
        try:
            return super().send(data, flags)
        except ConnectionResetError as error:
            _broken_pipe(error)

    def sendall(self, data: Buffer, flags: int = 0, /) -> None:
        try:
            super().sendall(data, flags)
        except ConnectionResetError as error:
            _broken_pipe(error)

    if sys.platform != "win32":

        def sendmsg(
            self,
            buffers: Iterable[Buffer],
            ancdata: Iterable[tuple[int, int, Buffer]] = (),
            flags: int = 0,
            address: object = None,
            /,
        ) -> int:
            try:
                return super().sendmsg(buffers, ancdata, flags)
            except ConnectionResetError as error:
                _broken_pipe(error)


def _check(size: SupportsIndex, flags: int) -> None:
    if flags & _UNSUPPORTED:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    if flags & socket.MSG_WAITALL and int(size) > MTU:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def _broken_pipe(error: OSError) -> NoReturn:
    raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from error


def _happens(sock: socket.socket, what: int, seconds: float) -> int:
    """What poll() has to tell about a socket; ends are told without being asked for."""
    poller = select.poll()
    try:
        poller.register(sock, what)
    except ValueError:
        return 0  # closed by another thread of ours
    return next((events for _, events in poller.poll(seconds * 1000)), 0)


def _is_word(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == WORD
    except OSError:
        return False
