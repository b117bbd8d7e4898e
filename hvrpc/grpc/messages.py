"""Messages on a stream: a byte that tells whether it is compressed, four for the length, the message.

    unpack_only   the usual case: one message, whole, plain, in one piece
    Assembler     all others: pieces of any size in, messages out

A size is checked when its prefix is read, before memory is spent on the message. Compressed messages stay
packed until their turn, each by itself, and are unpacked step by step, no further than the limit: a piece
of 64 KiB may hold a dozen that are 4 MiB each.
"""

from __future__ import annotations

import io
import zlib
from struct import Struct
from typing import Final, TypeAlias

import grpc

from .status import StatusError

UNLIMITED: Final = 2**32
"""More than the prefix can say: no limit."""
MOST_RECEIVED: Final = 4 * 1024 * 1024
"""gRPC's default limit of a message that is received."""
MOST_JOINED: Final = 16 * 1024
"""Up to here prefix and message are joined: sending one more buffer costs more than copying."""

_SMALL_PIECE: Final = 1024
"""Smaller pieces are gathered in one buffer. Kept one by one, each would cost several times its size,
and a peer may send them byte by byte."""

STEP: Final = 64 * 1024
"""Bytes that are put into the unpacking, and taken out of it, at once."""

CLIENT: Final = "CLIENT"
SERVER: Final = "SERVER"

RECEIVE_OPTION: Final = "grpc.max_receive_message_length"
SEND_OPTION: Final = "grpc.max_send_message_length"

_PREFIX: Final = Struct(">BI")
_PREFIX_SIZE: Final = _PREFIX.size
_pack_prefix = _PREFIX.pack
_unpack_prefix = _PREFIX.unpack_from


# --- Sending ------------------------------------------------------------------------------------


def prefix(size: int, compressed: bool = False) -> bytes:
    """What stands before a message of this size."""
    return _pack_prefix(compressed, size)


def pack(payload: bytes, compressed: bool = False) -> bytes:
    """Prefix and message as one piece, for small messages."""
    return _pack_prefix(compressed, len(payload)) + payload


def pieces(payload: bytes, compressed: bool = False) -> tuple[bytes, ...]:
    """Prefix and message: one piece if small, two if joining them would copy much."""
    if len(payload) <= MOST_JOINED:
        return (_pack_prefix(compressed, len(payload)) + payload,)
    return _pack_prefix(compressed, len(payload)), payload


def check_sent(size: int, most: int, side: str) -> None:
    """Refuse to send a message that is too large. The size counts before compression."""
    if size > most:
        raise StatusError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"{side}: Sent message larger than max ({size} vs. {most})"
            f"; {_whose(side, SEND_OPTION)}",
        )


def _whose(side: str, option: str) -> str:
    """The remedy. What grpcio says comes first: people's code looks for its words."""
    if side == CLIENT:
        return f"the client's option {option}, or its service config, sets the limit"
    return f"the server's option {option} sets the limit"


# --- Receiving ----------------------------------------------------------------------------------


def unpack_only(data: bytes, most: int) -> bytes | None:
    """The message, if `data` is exactly one, not compressed and not too large; else None: let an
    :class:`Assembler` find out what it is."""
    size = len(data) - _PREFIX_SIZE
    if 0 <= size <= most and _unpack_prefix(data) == (0, size):
        return data[_PREFIX_SIZE:]
    return None


class Assembler:
    """Puts the messages of one direction of one call together."""

    __slots__ = (
        "_chunks",
        "_compressed",
        "_encoding",
        "_left",
        "_messages",
        "_most",
        "_partial",
        "_side",
    )

    def __init__(
        self, side: str, most: int, encoding: grpc.Compression = grpc.Compression.NoCompression
    ) -> None:
        """`encoding`: what the headers said, see `encoding_of`."""
        self._side = side
        self._most = most
        self._encoding = encoding
        self._partial = b""  # the start of a prefix
        self._chunks: list[bytes | bytearray] = []
        self._left = -1  # bytes that the message in `_chunks` lacks; -1 between messages
        self._compressed = False
        self._messages: list[Message] = []

    def feed(self, chunk: bytes) -> None:
        """Take the next piece.

        Raises :class:`StatusError` when a message cannot be accepted; those before it can still be
        taken, and nothing may be fed any more.
        """
        at = 0
        end = len(chunk)
        if self._left >= 0:
            at = self._fill(chunk, 0)
        elif self._partial:
            chunk = self._partial + chunk
            end = len(chunk)
            self._partial = b""
        while end - at >= _PREFIX_SIZE and self._left < 0:
            flag, size = _unpack_prefix(chunk, at)
            at += _PREFIX_SIZE
            if flag or size > self._most:
                self._check(flag, size)
            stop = at + size
            if stop <= end and not flag:
                self._messages.append(chunk[at:stop])
                at = stop
            else:
                self._compressed = flag == 1
                self._left = size
                at = self._fill(chunk, at)
        if at < end:
            self._partial = chunk[at:]

    def _fill(self, chunk: bytes, at: int) -> int:
        """Add to the message that is not complete; where that stops in `chunk`."""
        piece = chunk[at : at + self._left] if at or len(chunk) > self._left else chunk
        self._left -= len(piece)
        if self._left:
            self._keep(piece)
        else:
            self._complete(b"".join((*self._chunks, piece)) if self._chunks else piece)
        return at + len(piece)

    def _keep(self, piece: bytes) -> None:
        chunks = self._chunks
        if len(piece) >= _SMALL_PIECE:
            chunks.append(piece)
        elif chunks and type(chunks[-1]) is bytearray:
            chunks[-1] += piece
        else:
            chunks.append(bytearray(piece))

    def _complete(self, message: bytes) -> None:
        self._chunks.clear()
        self._left = -1
        if self._compressed:
            self._messages.append(Packed(message, self._encoding, self._most, self._side))
        else:
            self._messages.append(message)

    def _check(self, flag: int, size: int) -> None:
        if size > self._most:
            raise StatusError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{self._side}: Received message larger than max ({size} vs. {self._most})"
                f"; {_whose(self._side, RECEIVE_OPTION)}",
            )
        if flag > 1:
            raise StatusError(grpc.StatusCode.INTERNAL, f"Bad GRPC frame type 0x{flag:02x}")
        if self._encoding is grpc.Compression.NoCompression:
            raise StatusError(
                grpc.StatusCode.INTERNAL, "Compression bit set but no encoding configured"
            )

    def take(self) -> list[Message]:
        """The messages that are complete, each once. Those that were compressed have to be unpacked yet."""
        messages = self._messages
        if messages:
            self._messages = []
        return messages

    @property
    def count(self) -> int:
        """How many messages are complete, and were not taken."""
        return len(self._messages)

    @property
    def missing(self) -> bool:
        """Whether a message has begun and is not complete: nothing may end here."""
        return self._left >= 0 or self._partial != b""

    @property
    def held(self) -> int:
        """Bytes of the message that is not complete."""
        return sum(map(len, self._chunks)) + len(self._partial)


class Packed:
    """A message that was sent compressed, and waits so for its turn."""

    __slots__ = ("_encoding", "_most", "_payload", "_side")

    def __init__(self, payload: bytes, encoding: grpc.Compression, most: int, side: str) -> None:
        self._payload = payload
        self._encoding = encoding
        self._most = most
        self._side = side

    def unpack(self) -> bytes:
        """The message. Raises :class:`StatusError` when it cannot be accepted."""
        return decompress(self._payload, self._encoding, self._most, self._side)


Message: TypeAlias = bytes | Packed
"""As the :class:`Assembler` gives it."""


# --- Compression --------------------------------------------------------------------------------

ENCODINGS: Final[dict[grpc.Compression, bytes]] = {
    grpc.Compression.NoCompression: b"identity",
    grpc.Compression.Deflate: b"deflate",
    grpc.Compression.Gzip: b"gzip",
}
"""What `grpc-encoding` says for each."""

ACCEPT_ENCODING: Final = b", ".join(ENCODINGS.values())

_COMPRESSIONS: Final = {name: compression for compression, name in ENCODINGS.items()}

# How zlib is to wrap it. gRPC's "deflate" is the zlib format (RFC 1950), not bare deflate.
_WINDOW_BITS: Final = {grpc.Compression.Deflate: 15, grpc.Compression.Gzip: 16 + 15}


def encoding_of(name: bytes | None, side: str) -> grpc.Compression:
    """The encoding that headers name.

    Raises :class:`StatusError` for one that we do not know. To a client the server's
    `grpc-accept-encoding` tells what it may use instead, therefore UNIMPLEMENTED; a server that answers
    with what was not offered is broken, therefore INTERNAL (both as gRPC's page on compression says).
    """
    if name is None:
        return grpc.Compression.NoCompression
    compression = _COMPRESSIONS.get(name)
    if compression is not None:
        return compression
    code = grpc.StatusCode.UNIMPLEMENTED if side == SERVER else grpc.StatusCode.INTERNAL
    shown = name.decode("latin-1")
    raise StatusError(code, f"Error parsing 'grpc-encoding' metadata: {shown!r} is not supported")


def compress(payload: bytes, encoding: grpc.Compression) -> tuple[bytes, bool]:
    """The message to send, and whether it is compressed: it is not if that saves nothing."""
    window_bits = _WINDOW_BITS.get(encoding)
    if window_bits is None:
        return payload, False
    machine = zlib.compressobj(wbits=window_bits)
    compressed = machine.compress(payload) + machine.flush()
    if len(compressed) >= len(payload):
        return payload, False
    return compressed, True


def decompress(payload: bytes, encoding: grpc.Compression, most: int, side: str) -> bytes:
    """The message that was compressed. Raises :class:`StatusError` if it is broken, or unpacks to
    more than `most` bytes, which are not unpacked then."""
    if not payload:
        return b""
    machine = zlib.decompressobj(wbits=_WINDOW_BITS[encoding])
    found = io.BytesIO()
    try:
        for at in range(0, len(payload), STEP):
            if machine.eof:
                raise _broken("not all input consumed")
            piece = payload[at : at + STEP]
            while piece and not machine.eof:
                _add(found, machine.decompress(piece, STEP), most, side)
                piece = machine.unconsumed_tail
        # A step that came out full may have left more inside.
        while not machine.eof and (rest := machine.decompress(b"", STEP)):
            _add(found, rest, most, side)
    except zlib.error as error:
        raise _broken("zlib error") from error
    if not machine.eof:
        raise _broken("data error")
    if machine.unused_data:
        raise _broken("not all input consumed")
    return found.getvalue()


def _add(found: io.BytesIO, step: bytes, most: int, side: str) -> None:
    if found.tell() + len(step) > most:
        raise StatusError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"Decompressed message larger than max; {_whose(side, RECEIVE_OPTION)}",
        )
    found.write(step)


def _broken(cause: str) -> StatusError:
    return StatusError(grpc.StatusCode.INTERNAL, f"Decompression failed due to {cause}")
