"""Metadata: pairs of the user's <-> header fields of HTTP/2.

What is sent is checked as grpcio checks it, with its errors: a wrong *type* raises TypeError where the
call is made, a wrong *character* ends the call with INTERNAL. What grpcio keeps for itself is left out
silently, in both directions.
"""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, TypeAlias

import grpc

from ..http2 import Field, Fields
from .status import StatusError


class Metadatum(NamedTuple):
    """One entry: `value` is bytes if the key ends in "-bin"."""

    key: str
    value: str | bytes


Metadata: TypeAlias = tuple[Metadatum, ...]
"""What users get."""

MetadataLike: TypeAlias = Any
"""What users give: None, any iterable of pairs, or `grpc.aio.Metadata`."""

INVALID: Final = "Invalid metadata"

_BINARY: Final = b"-bin"
_KEY: Final = re.compile(rb"[a-z0-9_.\-]+").fullmatch
_VALUE: Final = re.compile(rb"[\x20-\x7e]*").fullmatch

_PROTOCOL: Final = frozenset(
    (
        b"te",
        b"content-type",
        b"content-length",
        b"grpc-timeout",
        b"grpc-encoding",
        b"grpc-accept-encoding",
        b"grpc-internal-encoding-request",
        b"grpc-status",
        b"grpc-message",
    )
)
"""What the protocol itself says by header fields."""

# What speaks of one HTTP/1.1 connection makes a message malformed (RFC 9113, 8.2.2): with it, no
# server but C core's would take the call.
_NEVER_SENT: Final = _PROTOCOL | {
    b"user-agent",
    b"grpc-previous-rpc-attempts",
    b"connection",
    b"proxy-connection",
    b"keep-alive",
    b"transfer-encoding",
    b"upgrade",
}
# The last two belong to whoever traces calls.
_NEVER_SHOWN: Final = _PROTOCOL | {b"grpc-tags-bin", b"grpc-trace-bin"}

# What was turned into fields before: programs pass the same few tuples again and again.
_known: dict[Any, Fields] = {}
_MOST_KNOWN: Final = 256


def to_fields(metadata: MetadataLike) -> Fields:
    """The fields to send.

    Raises TypeError and ValueError for what is no metadata, and :class:`StatusError` (INTERNAL) for
    characters that may not be sent.
    """
    if not metadata:
        return ()
    if type(metadata) is not tuple:
        return _checked(metadata)
    try:
        fields = _known.get(metadata)
    except TypeError:  # has a list in it
        return _checked(metadata)
    if fields is None:
        fields = _checked(metadata)
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[metadata] = fields
    return fields


def _checked(metadata: Iterable[Any]) -> Fields:
    fields = [_field(key, value) for key, value in metadata]
    for name, value in fields:
        if not _KEY(name) or not _VALUE(value):
            raise StatusError(grpc.StatusCode.INTERNAL, INVALID)
    return tuple([field for field in fields if field[0] not in _NEVER_SENT])


def _field(key: Any, value: Any) -> Field:
    name = _octets(key)
    if name.endswith(_BINARY):
        if type(value) is not bytes:
            raise TypeError(
                f'Binary metadata key="{name.decode("utf-8", "replace")}" expected bytes, got {type(value)}'
            )
        return name, b2a_base64(value, newline=False).rstrip(b"=")
    return name, _octets(value)


def _octets(text: Any) -> bytes:
    if isinstance(text, str):
        return text.encode("utf-8", "surrogatepass")  # refused as a character, later
    if isinstance(text, bytes):
        return text
    if text is None:  # as grpcio has it
        return b""
    raise TypeError(f"Expected str, not {type(text)}")


def from_fields(fields: Fields) -> Metadata:
    """What the user sees of received fields.

    Raises :class:`StatusError` when a binary value is not base64.
    """
    if not fields:
        return ()
    found: list[Metadatum] = []
    for name, value in fields:
        if name in _NEVER_SHOWN or name[:1] == b":":
            continue
        key = name.decode("ascii", "replace")
        if name.endswith(_BINARY):
            found += [Metadatum(key, piece) for piece in _binary(key, value)]
        else:
            found.append(Metadatum(key, _text(value)))
    return tuple(found)


def _binary(key: str, value: bytes) -> list[bytes]:
    """The values of a binary field: proxies may have joined several by commas."""
    try:
        return [_from_base64(piece.strip(b" ")) for piece in value.split(b",")]
    except Base64Error:
        raise StatusError(
            grpc.StatusCode.INTERNAL, f"Error parsing '{key}' metadata: illegal base64 encoding"
        ) from None


def _from_base64(value: bytes) -> bytes:
    value = value.rstrip(b"=")
    return a2b_base64(value + b"=" * (-len(value) % 4), strict_mode=True)


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")
