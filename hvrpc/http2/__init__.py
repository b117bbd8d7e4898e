"""HTTP/2 for gRPC, both roles, without I/O, threads or a clock.

    errors      who broke the protocol
    limits      what a peer may do before its connection is ended
    settings    what each side offers
    frames      numbers and small frames on the wire
    events      what a connection tells its owner
    fields      which header lists are well formed
    headers     HPACK, with the caches that make small calls fast
    windows     receiving windows that grow with use
    streams     one stream
    sending     calls -> bytes
    connection  bytes -> events; `Connection`, which is all of it

The files stand in the order in which they are best read; imports point upwards in this list.
"""

from .connection import Connection, Role
from .errors import (
    CannotOpenStream,
    ConnectionEnding,
    ErrorCode,
    Http2Error,
    LocalProtocolError,
    RemoteProtocolError,
    StreamClosed,
    TooManyStreams,
)
from .events import (
    DATA_RECEIVED,
    GOAWAY_RECEIVED,
    HEADERS_RECEIVED,
    PING_RECEIVED,
    PONG_RECEIVED,
    SETTINGS_RECEIVED,
    SETTINGS_TAKEN,
    STREAM_RESET,
    STREAM_WRITABLE,
    TRAILERS_RECEIVED,
    Event,
)
from .fields import Field, Fields
from .headers import Headers
from .limits import Limits
from .sending import Buffer
from .settings import PeerSettings, Settings

__all__ = [
    "DATA_RECEIVED",
    "GOAWAY_RECEIVED",
    "HEADERS_RECEIVED",
    "PING_RECEIVED",
    "PONG_RECEIVED",
    "SETTINGS_RECEIVED",
    "SETTINGS_TAKEN",
    "STREAM_RESET",
    "STREAM_WRITABLE",
    "TRAILERS_RECEIVED",
    "Buffer",
    "CannotOpenStream",
    "Connection",
    "ConnectionEnding",
    "ErrorCode",
    "Event",
    "Field",
    "Fields",
    "Headers",
    "Http2Error",
    "Limits",
    "LocalProtocolError",
    "PeerSettings",
    "RemoteProtocolError",
    "Role",
    "Settings",
    "StreamClosed",
    "TooManyStreams",
]
