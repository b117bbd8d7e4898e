"""A connection: bytes in order, both ways, until one side ends.

Blocking, like the socket inside. The protocols above take that socket for their own loops (`.socket`)
and use the rest for what is the same everywhere: what an error means, whether the other side is
gone, and a close that loses nothing.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from ..errors import HvrpcError, PeerGone, StreamClosed
from . import causes, tls_causes
from .options import DEFAULT, Options

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ..access import Peer
    from ..addresses import Address
    from ..tls import Codec

PIECE: Final = 256 * 1024
"""Bytes that are encrypted at once: so much more memory a large message costs."""
DRAIN_CHUNK: Final = 64 * 1024
DRAIN_LIMIT: Final = 16 * 1024 * 1024
"""What close() reads and throws away at most: a peer that never stops sending is cut off."""


class Stream:
    """A connection. Made by :func:`hvrpc.sockets.connect` or :meth:`Listener.accept`.

    However the other side's end shows (there are ten ways), receiving returns `b""` then, and
    sending raises :class:`hvrpc.PeerGone`. `ended_by` tells what the system said, if it was an
    error: a Hyper-V socket cannot tell a clean close from a crash, so neither can a caller of this
    class; a protocol needs a goodbye of its own.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        address: Address,
        family: str,
        peer: Peer,
        options: Options = DEFAULT,
    ) -> None:
        self.socket = sock
        self.address: Final = address
        self.family: Final = family
        self.peer = peer
        self.tls: Codec | None = None
        """TLS, once the handshake is done. Whoever takes `socket` has to use it."""
        self.ended_by: OSError | None = None
        self.options: Final = options
        self._closing = threading.Lock()
        self._sending = threading.Lock()
        """Records go out in the order in which they were made. Used with TLS only."""
        self._closed = False
        self._process = os.getpid()
        self._write_ended = False

    # --- Bytes ---------------------------------------------------------------------------------

    def send(self, data: Buffer) -> int:
        """Send some of it; returns how much."""
        if self.tls is not None:
            self.sendall(data)
            return memoryview(data).nbytes
        try:
            return self.socket.send(data)
        except OSError as error:
            raise self.failure(error, causes.SEND) from error

    def sendall(self, data: Buffer) -> None:
        """Send all of it. After an error it is not known how much has arrived."""
        try:
            if self.tls is None:
                self.socket.sendall(data)
            else:
                self._sendall_encrypted(self.tls, memoryview(data).cast("B"))
        except OSError as error:
            raise self.failure(error, causes.SEND) from error

    def _sendall_encrypted(self, tls: Codec, data: memoryview) -> None:
        with self._sending:
            for start in range(0, len(data), PIECE):
                if tls.cut:
                    raise BrokenPipeError(errno.EPIPE, "a record was sent in part only")
                record = tls.encrypt(data[start : start + PIECE])
                tls.cut = True
                self.socket.sendall(record)
                tls.cut = False

    def sendmsg(self, buffers: Iterable[Buffer]) -> None:
        """Send all of several buffers, without joining large ones first."""
        for part in buffers:
            self.sendall(part)

    def recv(self, size: int) -> bytes:
        """Receive at most `size` bytes; `b""` when the other side has ended."""
        try:
            data = self.socket.recv(size) if self.tls is None else self._decrypt(self.tls, size)
        except HvrpcError:
            raise  # explained already
        except OSError as error:
            self._ended(error)
            return b""
        if not data and self._closed:
            self._was_closed_here(size)
        return data

    def recv_into(self, buffer: Buffer) -> int:
        """Receive into a buffer; 0 when the other side has ended."""
        try:
            if self.tls is None:
                got = self.socket.recv_into(buffer)
            else:
                got = self._decrypt_into(self.tls, memoryview(buffer).cast("B"))
        except HvrpcError:
            raise  # explained already
        except OSError as error:
            self._ended(error)
            return 0
        if not got and self._closed:
            self._was_closed_here(memoryview(buffer).nbytes)
        return got

    def _decrypt(self, tls: Codec, size: int) -> bytes:
        buffer = bytearray(min(size, DRAIN_CHUNK))
        return bytes(memoryview(buffer)[: self._decrypt_into(tls, memoryview(buffer))])

    def _decrypt_into(self, tls: Codec, buffer: memoryview) -> int:
        try:
            got = tls.decrypt_into(buffer) if tls.pending else 0
            while buffer and not got and not tls.ended:
                tls.arrived(self.socket.recv(DRAIN_CHUNK))
                got = tls.decrypt_into(buffer)
        except ssl.SSLEOFError as error:
            raise ConnectionAbortedError(errno.ECONNABORTED, tls_causes.NO_GOODBYE) from error
        except ssl.SSLError as error:
            raise tls_causes.explain(error, self.address, self.peer, causes.RECEIVE) from error
        return got

    def recv_exactly(self, size: int) -> bytes:
        """Receive `size` bytes, or raise :class:`hvrpc.PeerGone` if there are fewer."""
        data = bytearray(size)
        view = memoryview(data)
        got = 0
        while got < size:
            n = self.recv_into(view[got:])
            if n == 0:
                raise self.gone(causes.RECEIVE) from self.ended_by
            got += n
        return bytes(data)

    def gone(self, operation: str) -> PeerGone:
        """The error for a peer that ended where more was expected."""
        return PeerGone(
            str(self.address),
            operation=operation,
            cause="the other side has ended",
            remedy="connect again",
            errno=None if self.ended_by is None else self.ended_by.errno,
        )

    def _ended(self, error: OSError) -> None:
        """Remember an error that means the end; raise any other."""
        if self._closed or not causes.is_gone(error, self.family):
            raise self.failure(error, causes.RECEIVE) from error
        self.ended_by = error

    def _was_closed_here(self, wanted: int) -> None:
        """Closing wakes a thread that waits, with what looks like the other side's end."""
        if wanted:
            raise StreamClosed(
                str(self.address), operation=causes.RECEIVE, cause="it is closed already"
            )

    def failure(self, error: OSError, operation: str) -> HvrpcError:
        """What an error of the socket means. Raise it `from` the error."""
        if self._closed or (self._write_ended and operation == causes.SEND):
            what = "it is closed" if self._closed else "its writing side is shut down"
            return StreamClosed(
                str(self.address), operation=operation, cause=f"{what} already", errno=error.errno
            )
        return causes.explain(error, operation=operation, address=self.address, family=self.family)

    def secured(self, tls: Codec) -> None:
        """The handshake is done: from now on everything goes through TLS."""
        self.tls = tls
        self.peer = replace(self.peer, encrypted=True, certificate=tls.certificate)

    # --- Settings ------------------------------------------------------------------------------

    @property
    def timeout(self) -> float | None:
        """Seconds that sending and receiving may take; None: as long as it takes."""
        return self.socket.gettimeout()

    @timeout.setter
    def timeout(self, seconds: float | None) -> None:
        try:
            self.socket.settimeout(seconds)
        except OSError as error:
            raise self.failure(error, "set the timeout of") from error

    def fileno(self) -> int:
        """The file descriptor, or -1 once closed."""
        return self.socket.fileno()

    @property
    def closed(self) -> bool:
        """Whether it was closed on this side."""
        return self._closed

    # --- The end -------------------------------------------------------------------------------

    def shutdown_write(self) -> None:
        """Tell the other side that nothing more follows. Receiving goes on."""
        self._write_ended = True
        try:
            if self.tls is not None:
                with self._sending:
                    self.socket.sendall(self.tls.farewell())
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            if not self._closed and causes.is_gone(error, self.family):
                return
            self._write_ended = False
            raise self.failure(error, causes.SEND) from error

    def close(self) -> None:
        """End the connection without losing what was sent.

        Shuts down writing, waits for the other side to end too, at most `Options.drain` seconds,
        then closes. A Hyper-V socket that is closed at once may lose what is still on its way.
        Wakes threads that wait in this stream. May be called twice, and by any thread.
        """
        if self._is_a_copy():
            return
        with self._closing:
            if self._closed:
                return
            # Closed from now on: other threads of ours find a socket here that no longer waits.
            self._closed = True
            try:
                if self.tls is not None:
                    self._say_end(self.tls)
                self.socket.shutdown(socket.SHUT_WR)
                self._drain()
            except (OSError, ValueError):
                pass  # the other side is gone already: there is nothing to lose
            finally:
                self._close_now()

    def _say_end(self, tls: Codec) -> None:
        """TLS has a goodbye of its own; without it, the other side takes the end for a forged one."""
        self.socket.settimeout(0)
        if self._sending.acquire(blocking=False):
            try:
                self.socket.send(tls.farewell())
            except OSError:
                pass  # nobody is there to hear it, or so much waits that nobody reads
            finally:
                self._sending.release()

    def abort(self) -> None:
        """End the connection at once; what is on its way may be lost."""
        if self._is_a_copy():
            return
        with self._closing:
            if not self._closed:
                self._closed = True
                self._close_now()

    def detach(self) -> socket.socket:
        """Hand the socket over, to asyncio say. The stream is closed, the connection is not."""
        with self._closing:
            self._closed = True
            return self.socket

    def _is_a_copy(self) -> bool:
        """After a fork, in the child: the connection is the parent's, and only our copy is ended."""
        if self._process == os.getpid():
            return False
        self._closed = True
        self.socket.close()
        return True

    def _close_now(self) -> None:
        try:
            # A thread that waits in recv() or send() wakes up by this, not by close().
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.socket.close()

    def _drain(self) -> None:
        deadline = time.monotonic() + self.options.drain
        self.socket.settimeout(0)
        left = DRAIN_LIMIT
        while left > 0:
            wait = deadline - time.monotonic()
            if wait <= 0 or not _readable(self.socket, wait):
                return
            try:
                data = self.socket.recv(DRAIN_CHUNK)
            except BlockingIOError:
                continue  # another thread of ours was faster
            if not data:
                return
            left -= len(data)

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
        state = "closed" if self._closed else "open"
        return f"<Stream {self.address} with {self.peer}, {state}>"


def _readable(sock: socket.socket, seconds: float) -> bool:
    """Whether bytes, or the end, arrive within so many seconds."""
    if hasattr(select, "poll"):  # select() fails on file descriptors above 1023
        poller = select.poll()
        poller.register(sock, select.POLLIN)
        return bool(poller.poll(seconds * 1000))
    return bool(select.select([sock], [], [], seconds)[0])
