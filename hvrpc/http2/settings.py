"""SETTINGS: what we offer, what the peer offered (RFC 9113, section 6.5), and their wire format.

`Settings` is ours: chosen once per connection, sent first, never changed. `PeerSettings` is
theirs: starts with the values that hold before any SETTINGS arrived, and is changed by `apply`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from struct import Struct

from .errors import ErrorCode, RemoteProtocolError

HEADER_TABLE_SIZE = 0x1
ENABLE_PUSH = 0x2
MAX_CONCURRENT_STREAMS = 0x3
INITIAL_WINDOW_SIZE = 0x4
MAX_FRAME_SIZE = 0x5
MAX_HEADER_LIST_SIZE = 0x6

# Ours, which others ignore as the RFC asks (5.5): the peer may send PINGs as often as it likes. gRPC's
# C core ends a connection on which it is asked more than twice in five minutes.
PINGS_WELCOME = 0xFE48

DEFAULT_TABLE_SIZE = 4096
DEFAULT_WINDOW = 65_535
DEFAULT_FRAME_SIZE = 16_384
MOST_FRAME_SIZE = 2**24 - 1
MOST_WINDOW = 2**31 - 1

# "No limit", which is what the absence of MAX_CONCURRENT_STREAMS means.
UNLIMITED = 2**32 - 1

# How many streams a client opens before the server's first SETTINGS have arrived. RFC 9113 (6.5.2)
# recommends that nobody offers less.
STREAMS_BEFORE_SETTINGS = 100

_ENTRY = Struct(">HI")

# What a peer may say: setting -> (least, most, error code otherwise).
_LEGAL = {
    ENABLE_PUSH: (0, 1, ErrorCode.PROTOCOL_ERROR),
    INITIAL_WINDOW_SIZE: (0, MOST_WINDOW, ErrorCode.FLOW_CONTROL_ERROR),
    MAX_FRAME_SIZE: (DEFAULT_FRAME_SIZE, MOST_FRAME_SIZE, ErrorCode.PROTOCOL_ERROR),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What this side offers, and how far its receiving windows may grow."""

    # Size of the peer's HPACK table that we keep. The default of the protocol: a table of this
    # size holds the headers of some fifty methods, and a thousand idle connections stay small.
    header_table_size: int = DEFAULT_TABLE_SIZE

    # How many calls a client may have open on one connection (servers only).
    max_concurrent_streams: int = 1000

    # How much one stream may send before we ask for more, at first and at most. It doubles
    # whenever its consumer has kept up; a slow consumer's window never grows. Every call is a new
    # stream: with a quarter of this, a message of a megabyte waited three times until it was asked
    # for, which cost a third more processor time, and on a busy machine several times as long.
    stream_window: int = 1024 * 1024
    most_stream_window: int = 4 * 1024 * 1024

    # The same for all streams of the connection together.
    connection_window: int = 4 * 1024 * 1024
    most_connection_window: int = 16 * 1024 * 1024

    # What lies unread in streams does not count for that, up to this: or a few slow consumers would
    # hold up all others. So it is this and the connection's window that a client can make us hold
    # (servers only: a client holds what the windows of its own streams allow).
    most_unread: int = 64 * 1024 * 1024

    # Large frames save work per frame. DATA is handed on as it arrives, so that a large frame is
    # never held whole; what it does is to keep other streams waiting, at 1 GB/s for 0.25 ms.
    max_frame_size: int = 256 * 1024

    # Decoded headers of one message, counted as RFC 9113 (6.5.2) says: 32 more for each field.
    # gRPC's own default for metadata is 8 KiB with a hard end at 16 KiB.
    max_header_list_size: int = 16 * 1024

    def __post_init__(self) -> None:
        for name, least, most in (
            ("header_table_size", 0, 2**20),
            ("max_concurrent_streams", 0, UNLIMITED),
            ("stream_window", 1, MOST_WINDOW),
            ("most_stream_window", self.stream_window, MOST_WINDOW),
            ("connection_window", DEFAULT_WINDOW, MOST_WINDOW),
            ("most_connection_window", self.connection_window, MOST_WINDOW),
            ("most_unread", 0, MOST_WINDOW),
            ("max_frame_size", DEFAULT_FRAME_SIZE, MOST_FRAME_SIZE),
            ("max_header_list_size", 1024, 2**24),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"{name}={value}: must be between {least} and {most}")

    def wire(self, *, client: bool) -> dict[int, int]:
        """What goes into our SETTINGS frame: all that differs from the protocol's defaults."""
        role = {ENABLE_PUSH: 0} if client else {MAX_CONCURRENT_STREAMS: self.max_concurrent_streams}
        table = {HEADER_TABLE_SIZE: self.header_table_size}
        return {
            **({} if self.header_table_size == DEFAULT_TABLE_SIZE else table),
            **role,
            INITIAL_WINDOW_SIZE: self.stream_window,
            MAX_FRAME_SIZE: self.max_frame_size,
            MAX_HEADER_LIST_SIZE: self.max_header_list_size,
            PINGS_WELCOME: 1,
        }


class PeerSettings:
    """What the peer has offered so far."""

    __slots__ = (
        "header_table_size",
        "initial_window_size",
        "max_concurrent_streams",
        "max_frame_size",
        "max_header_list_size",
        "pings_welcome",
    )

    def __init__(self) -> None:
        self.header_table_size = DEFAULT_TABLE_SIZE
        self.initial_window_size = DEFAULT_WINDOW
        self.max_concurrent_streams = STREAMS_BEFORE_SETTINGS
        self.max_frame_size = DEFAULT_FRAME_SIZE
        self.max_header_list_size = UNLIMITED
        self.pings_welcome = False

    def apply(self, values: Mapping[int, int]) -> None:
        """Take over checked values; settings nobody knows are ignored, as the RFC asks."""
        self.header_table_size = values.get(HEADER_TABLE_SIZE, self.header_table_size)
        self.initial_window_size = values.get(INITIAL_WINDOW_SIZE, self.initial_window_size)
        self.max_concurrent_streams = values.get(
            MAX_CONCURRENT_STREAMS, self.max_concurrent_streams
        )
        self.max_frame_size = values.get(MAX_FRAME_SIZE, self.max_frame_size)
        self.max_header_list_size = values.get(MAX_HEADER_LIST_SIZE, self.max_header_list_size)
        self.pings_welcome = bool(values.get(PINGS_WELCOME, self.pings_welcome))


def pack_settings(values: Mapping[int, int]) -> bytes:
    """The payload of a SETTINGS frame."""
    return b"".join(_ENTRY.pack(setting, value) for setting, value in values.items())


def parse_settings(payload: bytes, *, client: bool) -> dict[int, int]:
    """Read and check a SETTINGS payload; a later value of the same setting wins.

    `client` tells who reads: a server may not switch on pushes to us.
    """
    if len(payload) % _ENTRY.size:
        raise RemoteProtocolError(
            ErrorCode.FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes is no multiple of 6"
        )
    values: dict[int, int] = {}
    for setting, value in _ENTRY.iter_unpack(payload):
        least, most, code = _LEGAL.get(setting, (0, UNLIMITED, ErrorCode.PROTOCOL_ERROR))
        if not least <= value <= most or (client and setting == ENABLE_PUSH and value):
            raise RemoteProtocolError(code, f"setting {setting:#x} may not be {value}")
        values[setting] = value
    return values
