"""Header lists as gRPC over HTTP/2 has them, and what they mean.

Lists are tuples that are the same object for all calls of a method, so that HTTP/2 encodes and
decodes them once (`hvrpc/http2/headers.py`). What differs from call to call follows them. What was
read from a received list is kept with it, as its `memo`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import grpc

from ..http2 import Field, Fields, Headers
from . import status, timeouts
from .messages import ACCEPT_ENCODING, CLIENT, ENCODINGS, SERVER, encoding_of
from .metadata import from_fields

CONTENT_TYPE: Final = b"application/grpc"

RESPONSE: Final[Fields] = (
    (b":status", b"200"),
    (b"content-type", CONTENT_TYPE),
    (b"grpc-accept-encoding", ACCEPT_ENCODING),
)
OK: Final[Fields] = ((b"grpc-status", b"0"),)

PLAIN: Final = grpc.Compression.NoCompression

_RESPONSES: Final[dict[grpc.Compression, Fields]] = {
    compression: RESPONSE if compression is PLAIN else (*RESPONSE, (b"grpc-encoding", name))
    for compression, name in ENCODINGS.items()
}
_STATUS: Final[dict[grpc.StatusCode, Fields]] = {
    code: ((b"grpc-status", number),) for code, number in status.NUMBERS.items()
}
_STATUS[grpc.StatusCode.OK] = OK
# With the encodings that we know: who used another one learns them together with the refusal.
_ALONE: Final = {code: (*RESPONSE, *fields) for code, fields in _STATUS.items()}


def response_fields(compression: grpc.Compression) -> Fields:
    """What opens a response whose messages may be compressed in this way."""
    return _RESPONSES[compression]


def status_fields(code: grpc.StatusCode, *, alone: bool) -> Fields:
    """What ends a response; `alone`: what is the whole of it (gRPC's "Trailers-Only")."""
    return _ALONE[code] if alone else _STATUS[code]


@lru_cache(maxsize=1024)
def request_fields(
    path: str, authority: str, user_agent: str, compression: grpc.Compression = PLAIN
) -> Fields:
    """What opens every call of one method on one channel: the same object each time."""
    fields = (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", authority.encode()),
        (b"te", b"trailers"),
        (b"content-type", CONTENT_TYPE),
        (b"user-agent", user_agent.encode()),
        (b"grpc-accept-encoding", ACCEPT_ENCODING),
    )
    return fields if compression is PLAIN else (*fields, (b"grpc-encoding", ENCODINGS[compression]))


class Ending:
    """How a call ended: what the server's trailers say, or what this side knows better."""

    __slots__ = ("code", "details", "fields", "metadata_")

    def __init__(self, code: grpc.StatusCode, details: str, fields: Fields = ()) -> None:
        self.code = code
        self.details = details
        self.fields = fields
        self.metadata_: tuple[Any, ...] | None = None

    @property
    def metadata(self) -> tuple[Any, ...]:
        """The trailing metadata."""
        if self.metadata_ is None:
            self.metadata_ = from_fields(self.fields)
        return self.metadata_


def ending_of(trailers: Headers) -> Ending:
    """What trailers say. Remembered: nearly all calls end in the same way."""
    memo = trailers.memo
    if type(memo) is Ending:
        return memo
    ending = trailers.memo = _read_ending(trailers.fields)
    return ending


def _read_ending(fields: Fields, http_status: bytes = b"200") -> Ending:
    code: grpc.StatusCode | None = None
    details = ""
    unreadable = _unreadable(fields)
    if unreadable is not None:
        return unreadable
    for name, value in fields:
        if name == b"grpc-status":
            code = status.code_of(value)
        elif name == b"grpc-message":
            details = status.decode_message(value)
    if code is None:
        if http_status == b"200":
            return Ending(grpc.StatusCode.UNKNOWN, status.NO_STATUS, fields)
        code = status.code_of_http(int(http_status))
        details = status.details_of_http(int(http_status))
    return Ending(code, details, fields)


def _unreadable(fields: Fields) -> Ending | None:
    """How a call ends because metadata that came are no metadata, if so. As with grpcio, one need not ask
    for them to learn it."""
    if any(name.endswith(b"-bin") for name, _ in fields):
        try:
            from_fields(fields)
        except status.StatusError as error:
            return Ending(error.code, error.details)
    return None


class Opening:
    """What opened a response."""

    __slots__ = ("encoding", "ending", "fields", "metadata_", "problem")

    def __init__(self, fields: Fields) -> None:
        self.fields = fields
        self.metadata_: tuple[Any, ...] | None = None
        self.encoding = PLAIN
        self.problem: Ending | None = None
        """Why this is no response of gRPC's that could be read, if so."""
        http_status = content_type = b""
        encoding: bytes | None = None
        for name, value in fields:
            if name == b"content-type":
                content_type = value
            elif name == b":status":
                http_status = value
            elif name == b"grpc-encoding":
                encoding = value
        self.ending = _read_ending(fields, http_status)
        """What it says if it is the end as well (gRPC's "Trailers-Only")."""
        if http_status != b"200":
            self.problem = self.ending
        elif not content_type.startswith(CONTENT_TYPE):
            self.problem = Ending(
                grpc.StatusCode.UNKNOWN,
                f"Received http2 header with content-type: {content_type.decode('latin-1')}"
                " instead of application/grpc",
            )
        elif (unreadable := _unreadable(fields)) is not None:
            self.problem = unreadable
            self.metadata_ = ()
        elif encoding is not None:
            try:
                self.encoding = encoding_of(encoding, CLIENT)
            except status.StatusError as error:
                self.problem = Ending(error.code, error.details)

    @property
    def metadata(self) -> tuple[Any, ...]:
        """The initial metadata."""
        if self.metadata_ is None:
            self.metadata_ = from_fields(self.fields)
        return self.metadata_


def opening_of(headers: Headers) -> Opening:
    """What a response's first headers say. Remembered."""
    memo = headers.memo
    if type(memo) is Opening:
        return memo
    opening = headers.memo = Opening(headers.fields)
    return opening


class Request:
    """What opened a call, as the server reads it."""

    __slots__ = (
        "accepted",
        "authority",
        "content_type",
        "encoding",
        "fields",
        "metadata_",
        "method",
        "path",
        "problem",
        "timeout",
    )

    def __init__(self, fields: Fields) -> None:
        self.fields = fields
        self.metadata_: tuple[Any, ...] | None = None
        self.path = self.authority = ""
        self.content_type = self.method = b""
        self.accepted: tuple[bytes, ...] = ()
        self.encoding = PLAIN
        self.problem: status.StatusError | None = None
        """Why it cannot be read, if so."""
        self.timeout: float | None = None
        for field in fields:
            self._read(field)

    def _read(self, field: Field) -> None:
        name, value = field
        if name == b":path":
            self.path = value.decode("latin-1")
        elif name == b":authority":
            self.authority = value.decode("latin-1")
        elif name == b":method":
            self.method = value
        elif name == b"content-type":
            self.content_type = value
        elif name == b"grpc-encoding":
            try:
                self.encoding = encoding_of(value, SERVER)
            except status.StatusError as error:
                self.problem = error
        elif name == b"grpc-accept-encoding":
            self.accepted = tuple(value.replace(b" ", b"").split(b","))
        elif name == b"grpc-timeout":
            try:
                self.timeout = timeouts.decode(value)
            except ValueError:
                self.timeout = None

    def extended(self, extra: Fields) -> Request:
        """This with more fields: most calls of a method differ in their last fields only."""
        request = Request.__new__(Request)
        request.fields = self.fields + extra
        request.metadata_ = None
        request.path = self.path
        request.authority = self.authority
        request.method = self.method
        request.content_type = self.content_type
        request.accepted = self.accepted
        request.encoding = self.encoding
        request.problem = self.problem
        request.timeout = self.timeout
        for field in extra:
            request._read(field)
        return request

    @property
    def metadata(self) -> tuple[Any, ...]:
        """The invocation metadata."""
        if self.metadata_ is None:
            self.metadata_ = from_fields(self.fields)
        return self.metadata_


def request_of(headers: Headers) -> Request:
    """What a request's headers say. Remembered, and read from what is known where that is possible."""
    memo = headers.memo
    if type(memo) is Request:
        return memo
    base = headers.base
    if base is headers:
        request = Request(headers.fields)
    else:
        known = base.memo
        if type(known) is not Request:
            known = base.memo = Request(base.fields)
        request = known.extended(headers.extra)
    headers.memo = request
    return request
