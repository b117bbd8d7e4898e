"""What can go wrong in HTTP/2, and who broke it.

    Http2Error
    ├── RemoteProtocolError       the peer broke the protocol, or floods us: this connection is over
    └── LocalProtocolError        this program asked for something the protocol forbids
        ├── StreamClosed          the stream has ended meanwhile (reset, or finished): nothing was sent
        └── CannotOpenStream      no new stream now: nothing was sent
            ├── TooManyStreams    wait until a stream ends, or the peer allows more
            └── ConnectionEnding  use another connection: this one takes no new streams any more

A *connection error* raises `RemoteProtocolError` out of `Connection.feed`, after a GOAWAY with the
code was queued. A *stream error* raises nothing: RST_STREAM is queued, a RESET event is given, and
the connection goes on.
"""

from __future__ import annotations

from enum import IntEnum


class ErrorCode(IntEnum):
    """Error codes of RST_STREAM and GOAWAY (RFC 9113, section 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


def code_name(code: int) -> str:
    """The name of an error code; unknown codes are legal and stay numbers."""
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"error code {code:#x}"


class Http2Error(Exception):
    """Base of all errors of this package."""


class RemoteProtocolError(Http2Error):
    """The peer broke the protocol: the connection has ended, a GOAWAY with `code` is queued."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.reason} ({self.code.name})"


class LocalProtocolError(Http2Error):
    """The call cannot be made on this connection in this state; nothing was sent."""


class StreamClosed(LocalProtocolError):
    """The stream takes no more from this side: it was reset, or this side ended it."""

    def __init__(self, stream_id: int) -> None:
        super().__init__(stream_id)
        self.stream_id = stream_id

    def __str__(self) -> str:
        return f"stream {self.stream_id} is closed for sending"


class CannotOpenStream(LocalProtocolError):
    """No stream could be opened; nothing was sent, so the call may be made again elsewhere."""


class TooManyStreams(CannotOpenStream):
    """The peer's SETTINGS_MAX_CONCURRENT_STREAMS is reached: wait until one of them ends."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit

    def __str__(self) -> str:
        return f"all {self.limit} streams that the peer allows at a time are in use"


class ConnectionEnding(CannotOpenStream):
    """The connection ends, drains, or has used up its stream numbers: open another one."""
