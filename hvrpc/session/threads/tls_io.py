"""The same socket as `io`'s with TLS on it: nothing above notices.

What is different about TLS is that bytes cannot be taken back once they are encrypted, for records are
numbered; and that what the socket has not taken of a record must follow before anything else.
"""

from __future__ import annotations

import errno
import select
import socket
import ssl
import sys
import threading
import time
from typing import Any, Final

from ...sockets import Stream, causes, tls_causes
from ...sockets.stream import PIECE
from .io import CHUNK, SEND_NOW, Io

ABOUT_TO: Final = 1.0
"""Seconds in which a thread that is sending will have done it: sending never waits."""


def io_of(stream: Stream) -> Io:
    """What a connection on this stream uses."""
    return Io(stream.socket) if stream.tls is None else TlsIo(stream)


class TlsIo(Io):
    """An `Io` whose bytes are encrypted on the way."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream.socket)
        assert stream.tls is not None
        self._stream = stream
        self._codec = stream.tls
        self._receive_raw = self.recv
        self._tail: memoryview | None = None
        """What the socket has not taken yet of what is encrypted."""
        self._sending = threading.Lock()
        self._poller: Any = None
        if sys.platform != "win32":
            self._poller = select.poll()
            self._poller.register(stream.socket, select.POLLOUT)
        self.recv = self._decrypted
        self.recv_into = self._decrypted_into
        self.send = self._send

    # --- Receiving: by one thread at a time ----------------------------------------------------

    def _decrypted(self, size: int, flags: int = 0) -> bytes:
        codec = self._codec
        try:
            data = codec.decrypt(size) if codec.pending else b""
            if not data and not codec.ended:
                for _ in self._arrivals(flags):
                    data = codec.decrypt(size)
                    if data or codec.ended:
                        break
        except ssl.SSLError as error:
            raise self._explain(error) from error
        return data

    def _decrypted_into(self, buffer: memoryview) -> int:
        codec = self._codec
        try:
            got = codec.decrypt_into(buffer) if codec.pending else 0
            if not got and not codec.ended:
                for _ in self._arrivals(0):
                    got = codec.decrypt_into(buffer)
                    if got or codec.ended:
                        break
        except ssl.SSLError as error:
            raise self._explain(error) from error
        return got

    def _arrivals(self, flags: int) -> Any:
        """Receive, and again: a record may come in pieces. Ends by BlockingIOError after a tick, also
        when each of the pieces comes in less."""
        limit: float | None = None
        while True:
            self._codec.arrived(self._receive_raw(CHUNK, flags))
            yield
            now = time.monotonic()
            if limit is None:
                limit = now + self.tick
            elif now >= limit:
                raise BlockingIOError

    def _explain(self, error: ssl.SSLError) -> OSError:
        if isinstance(error, ssl.SSLEOFError):
            return ConnectionAbortedError(errno.ECONNABORTED, tls_causes.NO_GOODBYE)
        explained = tls_causes.explain(
            error, self._stream.address, self._stream.peer, causes.RECEIVE
        )
        assert isinstance(explained, OSError)
        return explained

    def _wait(self, readable: bool, writable: bool, seconds: float) -> tuple[bool, bool]:
        if readable and self._codec.pending:
            return True, writable and super()._wait(False, True, 0)[1]
        return super()._wait(readable, writable, seconds)

    # --- Sending -------------------------------------------------------------------------------

    def _send(self, data: Any, flags: int = SEND_NOW) -> int:
        """As a socket's: how much of it was taken, or BlockingIOError if nothing was.

        Records that were sent in part are hidden from the caller in this way: the last byte is not
        reported as taken, and so comes again. It stands for the rest of the record, and is taken when
        that has gone.
        """
        with self._sending:
            if self._tail is not None:
                return 1 if self._send_tail(flags) else 0
            view = memoryview(data).cast("B")
            size = len(view)
            taken = 0
            while taken < size:
                # What is encrypted counts as sent. So nothing is, unless some of it can go.
                if not self._has_room():
                    if taken:
                        return taken
                    raise BlockingIOError
                piece = view[taken : taken + PIECE]
                self._tail = memoryview(self._codec.encrypt(piece))
                self._codec.cut = True
                try:
                    gone = self._send_tail(flags)
                except BlockingIOError:
                    gone = False
                except OSError:
                    if taken:
                        return taken  # it shows again
                    raise
                taken += len(piece)
                if not gone:
                    return taken - 1
            return taken

    def _send_tail(self, flags: int) -> bool:
        """Whether nothing is left of it."""
        tail = self._tail
        assert tail is not None
        sent = self.socket.send(tail, flags)
        if sent < len(tail):
            self._tail = tail[sent:]
            return False
        self._tail = None
        self._codec.cut = False
        return True

    def _has_room(self) -> bool:
        if self._poller is None:
            return super()._wait(False, True, 0)[1]
        return bool(self._poller.poll(0))

    # --- The end -------------------------------------------------------------------------------

    def shut_down(self, how: int) -> None:
        if how == socket.SHUT_WR and self._sending.acquire(timeout=ABOUT_TO):
            try:
                if farewell := self._codec.farewell():
                    self.socket.send(farewell, SEND_NOW)
            except OSError:
                pass  # nobody is there to hear it, or so much waits that nobody reads
            finally:
                self._sending.release()
        super().shut_down(how)
