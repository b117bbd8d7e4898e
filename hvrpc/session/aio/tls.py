"""TLS between a loop's transport and a connection, which notices nothing.

Why not the loop's own (`start_tls`): that tells a caller whose certificate it refuses nothing at all,
it just closes; and uvloop has another one. This is the very codec of the threads' driver, after the
same handshake.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
import sys
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, cast

from ...sockets import Stream, causes, tls_causes
from ...sockets.stream import PIECE

if TYPE_CHECKING:
    from typing_extensions import Buffer

CHUNK: Final = 64 * 1024
"""Bytes received at once, as elsewhere."""


class TlsProtocol(asyncio.BufferedProtocol):
    """Decrypts what arrives for the protocol above."""

    def __init__(self, stream: Stream, above: asyncio.BufferedProtocol) -> None:
        assert stream.tls is not None
        self._stream = stream
        self._codec = stream.tls
        self._above = above
        self._loop = asyncio.get_running_loop()
        self._view = _receive_buffer(self._loop)
        self._transport: asyncio.Transport | None = None
        self._reading = True
        self._told_end = False
        self._failure: OSError | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._above.connection_made(_TlsTransport(self, self._transport))
        if self._codec.pending:  # it came along with the handshake
            self._loop.call_soon(self._deliver)

    def connection_lost(self, exc: Exception | None) -> None:
        self._told_end = True
        self._above.connection_lost(exc if self._failure is None else self._failure)

    def pause_writing(self) -> None:
        self._above.pause_writing()

    def resume_writing(self) -> None:
        self._above.resume_writing()

    # --- Receiving -----------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        self._codec.arrived(self._view[:nbytes])
        self._deliver()

    def eof_received(self) -> bool:
        if not self._told_end:
            self._codec.arrived(b"")
            self._deliver()
        return not self._reading  # then the rest is delivered first

    def _deliver(self) -> None:
        codec = self._codec
        above = self._above
        try:
            while self._reading and not self._told_end:
                got = codec.decrypt_into(cast(memoryview, above.get_buffer(-1)))
                if got:
                    above.buffer_updated(got)
                elif codec.ended:
                    self._end()
                else:
                    return
        except ssl.SSLError as error:
            self._fail(error)

    def _end(self) -> None:
        self._told_end = True
        if not self._above.eof_received() and self._transport is not None:
            self._transport.close()

    def _fail(self, error: ssl.SSLError) -> None:
        if isinstance(error, ssl.SSLEOFError):
            self._failure = ConnectionAbortedError(errno.ECONNABORTED, tls_causes.NO_GOODBYE)
        else:
            stream = self._stream
            explained = tls_causes.explain(error, stream.address, stream.peer, causes.RECEIVE)
            assert isinstance(explained, OSError)
            self._failure = explained
        self._failure.__cause__ = error
        self._told_end = True
        if self._transport is not None:
            self._transport.abort()

    def set_reading(self, reading: bool) -> None:
        """Whether the protocol above wants more."""
        self._reading = reading
        if reading:
            self._loop.call_soon(self._deliver)


class _TlsTransport(asyncio.Transport):
    """Encrypts what the protocol above sends."""

    def __init__(self, protocol: TlsProtocol, transport: asyncio.Transport) -> None:
        super().__init__()
        self._protocol = protocol
        self._below = transport
        self._codec = protocol._codec
        self._eof_written = False

    def write(self, data: Buffer) -> None:
        view = memoryview(data).cast("B")
        try:
            for start in range(0, len(view), PIECE):
                self._below.write(self._codec.encrypt(view[start : start + PIECE]))
        except BrokenPipeError:
            # As without TLS, where what is written to a lost connection is dropped: whoever waits
            # is told by `connection_lost`.
            self._below.abort()

    def writelines(self, list_of_data: Iterable[Buffer]) -> None:
        for data in list_of_data:
            self.write(data)

    def can_write_eof(self) -> bool:
        return self._below.can_write_eof()

    def write_eof(self) -> None:
        self._say_end()
        self._below.write_eof()

    def close(self) -> None:
        self._say_end()
        self._below.close()

    def _say_end(self) -> None:
        if not self._eof_written and not self._below.is_closing():
            self._eof_written = True
            self._below.write(self._codec.farewell())

    def abort(self) -> None:
        self._below.abort()

    def is_closing(self) -> bool:
        return self._below.is_closing()

    def pause_reading(self) -> None:
        self._protocol.set_reading(False)
        self._below.pause_reading()

    def resume_reading(self) -> None:
        self._protocol.set_reading(True)
        self._below.resume_reading()

    def is_reading(self) -> bool:
        return self._below.is_reading()

    def get_write_buffer_size(self) -> int:
        return self._below.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._below.get_extra_info(name, default)


_buffers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = (
    weakref.WeakKeyDictionary()
)


def _receive_buffer(loop: asyncio.AbstractEventLoop) -> memoryview:
    """One for all connections of a loop; on Windows each needs its own, as without TLS."""
    if sys.platform == "win32":
        return memoryview(bytearray(CHUNK))
    return _buffers.setdefault(loop, memoryview(bytearray(CHUNK)))
