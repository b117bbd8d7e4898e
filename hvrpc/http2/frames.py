"""Frames on the wire (RFC 9113, sections 4 and 6): numbers, and how small frames are written.

There is no frame object. The 9 octets before each payload are read and written by one struct:
`length << 8 | type`, flags, stream id. On the hot path the connection calls `pack_header` and
`unpack_header` itself; the functions here write the frames that are rare.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Final

from .settings import pack_settings

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITISED: Final = 0x20

MOST_STREAM_ID: Final = 2**31 - 1

HEADER_LENGTH: Final = 9
_HEADER: Final = Struct(">IBI")
pack_header: Final = _HEADER.pack
unpack_header: Final = _HEADER.unpack_from

_NUMBER: Final = Struct(">I")
_TWO_NUMBERS: Final = Struct(">II")
unpack_number: Final = _NUMBER.unpack_from
unpack_two_numbers: Final = _TWO_NUMBERS.unpack_from

_NAMES = {
    DATA: "DATA",
    HEADERS: "HEADERS",
    PRIORITY: "PRIORITY",
    RST_STREAM: "RST_STREAM",
    SETTINGS: "SETTINGS",
    PUSH_PROMISE: "PUSH_PROMISE",
    PING: "PING",
    GOAWAY: "GOAWAY",
    WINDOW_UPDATE: "WINDOW_UPDATE",
    CONTINUATION: "CONTINUATION",
}


def frame_name(kind: int) -> str:
    """A frame type for error messages."""
    return _NAMES.get(kind, f"frame of type {kind:#x}")


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    return pack_header(len(payload) << 8 | kind, flags, stream_id) + payload


def settings_frame(values: Mapping[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, pack_settings(values))


def reset_frame(stream_id: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream_id, _NUMBER.pack(code))


def window_frame(stream_id: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream_id, _NUMBER.pack(increment))


def ping_frame(payload: bytes, *, ack: bool = False) -> bytes:
    return frame(PING, ACK if ack else 0, 0, payload)


def goaway_frame(last_id: int, code: int, debug: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, _TWO_NUMBERS.pack(last_id, code) + debug)


def header_frames(stream_id: int, block: bytes, end_stream: bool, most: int) -> bytes:
    """HEADERS, and as many CONTINUATIONs as frames of `most` bytes require."""
    flags = END_STREAM if end_stream else 0
    if len(block) <= most:
        return frame(HEADERS, flags | END_HEADERS, stream_id, block)
    pieces = [block[at : at + most] for at in range(0, len(block), most)]
    first, *middle, last = pieces
    return b"".join(
        (
            frame(HEADERS, flags, stream_id, first),
            *(frame(CONTINUATION, 0, stream_id, piece) for piece in middle),
            frame(CONTINUATION, END_HEADERS, stream_id, last),
        )
    )
