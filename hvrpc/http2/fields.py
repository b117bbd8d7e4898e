"""Which header lists are well formed (RFC 9113, section 8.2 and 8.3).

Each check returns what is wrong, or an empty text. A malformed message is an error of its stream;
the connection goes on. Lists are checked once per distinct block, not once per call: see
`headers.py`.

One rule is not enforced: white space around a value. gRPC's C core sends and accepts it in
metadata, so refusing it would fail calls that work everywhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeAlias

Field: TypeAlias = tuple[bytes, bytes]
Fields: TypeAlias = tuple[Field, ...]

# A token in lower case; the colon of pseudo-headers is taken off before.
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_BAD_VALUE = re.compile(rb"[\0\r\n]").search

# They speak of one HTTP/1.1 connection (8.2.2).
_CONNECTION_SPECIFIC = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)

# Names that were found good with any value, which saves half of the time of checking a field. Of
# all connections together: bounded, because peers choose them.
_good_names: set[bytes] = set()
_MOST_GOOD_NAMES = 1000

_REQUEST_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
_RESPONSE_PSEUDO = frozenset((b":status",))


def request_problem(fields: Fields) -> str:
    """What is wrong with the header list that opens a request."""
    pseudo, problem = _read(fields, _REQUEST_PSEUDO)
    if problem:
        return problem
    if pseudo.get(b":method") == b"CONNECT":
        good = b":authority" in pseudo and b":scheme" not in pseudo and b":path" not in pseudo
        return "" if good else "CONNECT takes :authority, and neither :scheme nor :path"
    for name in (b":method", b":scheme", b":path"):
        if not pseudo.get(name):
            return f"{name.decode()} is missing or empty"
    return ""


def response_problem(fields: Fields) -> str:
    """What is wrong with the header list that opens a response."""
    pseudo, problem = _read(fields, _RESPONSE_PSEUDO)
    if problem:
        return problem
    status = pseudo.get(b":status", b"")
    if len(status) != 3 or not status.isdigit():
        return f":status is {status!r} instead of three digits"
    return ""


def trailers_problem(fields: Fields) -> str:
    """What is wrong with the header list that ends a message."""
    return _read(fields, frozenset())[1]


def _read(fields: Fields, allowed: frozenset[bytes]) -> tuple[dict[bytes, bytes], str]:
    """The pseudo-headers of a list, and the first rule it breaks."""
    pseudo: dict[bytes, bytes] = {}
    regular = False
    for name, value in fields:
        if name[:1] == b":":
            if name not in allowed:
                return pseudo, f"pseudo-header {name!r} does not belong here"
            if regular:
                return pseudo, f"pseudo-header {name!r} stands after a regular header"
            if name in pseudo:
                return pseudo, f"pseudo-header {name!r} comes twice"
            pseudo[name] = value
        else:
            regular = True
            if name not in _good_names:
                if not _NAME(name):
                    return pseudo, f"header name {name!r} has characters that are not allowed"
                if name in _CONNECTION_SPECIFIC or (name == b"te" and value != b"trailers"):
                    return pseudo, f"header {name!r} with value {value!r} has no place in HTTP/2"
                _remember(name)
        if _BAD_VALUE(value):
            return pseudo, f"the value of header {name!r} has characters that are not allowed"
    return pseudo, ""


def _remember(name: bytes) -> None:
    if name != b"te" and len(name) <= 64 and len(_good_names) < _MOST_GOOD_NAMES:
        _good_names.add(name)


def unsendable(fields: Fields) -> str:
    """What keeps a list of ours from being sent: checked once per list, see `headers.py`."""
    for name, value in fields:
        if type(name) is not bytes or type(value) is not bytes:
            return f"header {name!r}: name and value must be bytes"
        if not _NAME(name.removeprefix(b":")):
            return f"header name {name!r} has characters that are not allowed (use lower case)"
        if _BAD_VALUE(value):
            return f"the value of header {name!r} has characters that are not allowed"
    return ""


def content_length(fields: Iterable[Field]) -> int | None:
    """The announced length of the body; -1 when it is not a number, or two that differ."""
    values = {value for name, value in fields if name == b"content-length"}
    if not values:
        return None
    value = values.pop()
    # 19 digits: the longest numbers that other implementations count in.
    if values or not value.isdigit() or len(value) > 19:
        return -1
    return int(value)
