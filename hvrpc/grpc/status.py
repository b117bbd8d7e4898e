"""How a call ends: status codes, their texts on the wire, and what other endings mean in them.

A call may also end by a reset stream, by an HTTP error of something in between, or by nonsense. The
code of each is what gRPC's specification says, the text what its C core says: programs look at both.
"""

from __future__ import annotations

import re
from typing import Final

import grpc

from ..http2 import ErrorCode

CODES: Final[tuple[grpc.StatusCode, ...]] = tuple(
    sorted(grpc.StatusCode, key=lambda code: int(code.value[0]))
)
"""Status codes by their number."""

NUMBERS: Final[dict[grpc.StatusCode, bytes]] = {
    code: b"%d" % number for number, code in enumerate(CODES)
}
"""What `grpc-status` says for each of them."""

_CODES_ON_THE_WIRE: Final = {number: code for code, number in NUMBERS.items()}

_OF_RESET: Final = {
    ErrorCode.REFUSED_STREAM: grpc.StatusCode.UNAVAILABLE,
    ErrorCode.CANCEL: grpc.StatusCode.CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.INADEQUATE_SECURITY: grpc.StatusCode.PERMISSION_DENIED,
}

_OF_HTTP: Final = {
    400: grpc.StatusCode.INTERNAL,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.UNIMPLEMENTED,
    429: grpc.StatusCode.UNAVAILABLE,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.UNAVAILABLE,
}

NO_STATUS: Final = "No status received"
"""Details when trailers came without `grpc-status`."""
NO_TRAILERS: Final = "Stream removed (Data frame with END_STREAM flag received)"
"""Details when the answer ended without trailers."""


class StatusError(Exception):
    """The call ends here, with this status: what was received, or shall be sent, cannot go on."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(code, details)
        self.code = code
        self.details = details

    def __str__(self) -> str:
        return f"{self.details} ({self.code.name})"


def code_of(value: bytes) -> grpc.StatusCode:
    """The code that `grpc-status` says: UNKNOWN for a number that nobody knows, INTERNAL for what
    is no number."""
    code = _CODES_ON_THE_WIRE.get(value)
    if code is not None:
        return code
    if not value.isdigit():
        return grpc.StatusCode.INTERNAL
    return _CODES_ON_THE_WIRE.get(value.lstrip(b"0") or b"0", grpc.StatusCode.UNKNOWN)


def code_of_reset(error_code: int) -> tuple[grpc.StatusCode, str]:
    """The status of a call whose stream the peer has reset."""
    received = f"RST_STREAM (Received RST_STREAM with error code {int(error_code)})"
    code = _OF_RESET.get(error_code, grpc.StatusCode.INTERNAL)  # type: ignore[call-overload]
    return code, stream_removed(received)


def code_of_http(status: int) -> grpc.StatusCode:
    """The status of a call that was answered by HTTP alone: a proxy, or no gRPC server at all."""
    return _OF_HTTP.get(status, grpc.StatusCode.UNKNOWN)


def details_of_http(status: int) -> str:
    """The details that belong to it."""
    return f"Received http2 header with status: {status}"


def stream_removed(cause: str) -> str:
    """The details of a call that the transport has ended."""
    return f"Stream removed ({cause})"


# --- grpc-message -------------------------------------------------------------------------------

_TO_ENCODE: Final = re.compile(rb"[^\x20-\x24\x26-\x7e]")
_ENCODED: Final = re.compile(rb"%([0-9A-Fa-f]{2})")


def encode_message(message: str) -> bytes:
    """Details as `grpc-message` carries them: UTF-8, percent-encoded where it is not printable."""
    if message.isascii() and message.isprintable() and "%" not in message:
        return message.encode("ascii")
    return _TO_ENCODE.sub(lambda found: b"%%%02X" % found[0][0], message.encode("utf-8", "replace"))


def decode_message(value: bytes) -> str:
    """Details out of `grpc-message`. Never fails: what is wrong stays as it is, and bytes that are no
    UTF-8 are read as Latin-1, for half a text is better than none."""
    if b"%" in value:
        value = _ENCODED.sub(lambda found: bytes((int(found[1], 16),)), value)
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")
