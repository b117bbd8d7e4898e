"""What grpcio's C core says before HTTP/2 when it takes us for an HTTP proxy, without I/O.

It cannot be given a socket, but it can be told to begin each connection with

    CONNECT hvsock://web/50051 HTTP/1.1
    <header lines of our choice>

and to wait for a status. So the request names where we shall dial, and proves that it comes from a
channel that we have made. The two channel arguments that cause it are not documented
(`grpc.http_connect_server`, `grpc.http_connect_headers`), and the same since 2017; a test holds
grpcio to them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

MAX_SIZE: Final = 16 * 1024
"""Bytes of a request. Ours have some hundred; a path of a UNIX socket makes it a little longer."""
END: Final = b"\r\n\r\n"

_NAME: Final = re.compile(r"[A-Za-z0-9-]+")


class BadPreface(ValueError):
    """What came is not a request of this kind."""


@dataclass(frozen=True, slots=True)
class Preface:
    """The request: where to, and our header lines by their names in lower case."""

    target: str
    headers: Mapping[str, str]


def parse(data: bytes) -> Preface:
    """Read a request, `END` included."""
    if not data.endswith(END):
        raise BadPreface("it does not end")
    try:
        first, *lines = data.decode("ascii").removesuffix("\r\n\r\n").split("\r\n")
    except UnicodeDecodeError as error:
        raise BadPreface("it is not ASCII") from error
    method, _, rest = first.partition(" ")
    target, _, version = rest.rpartition(" ")
    if method != "CONNECT" or not version.startswith("HTTP/1.") or not target:
        raise BadPreface("it is not CONNECT, a target and HTTP/1.1")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not _NAME.fullmatch(name) or name.lower() in headers:
            raise BadPreface("a header line is wrong")
        headers[name.lower()] = value.strip()
    return Preface(target, headers)


def answer(status: HTTPStatus) -> bytes:
    """What the C core waits for. Of anything but success it shows the number, and nothing else."""
    return f"HTTP/1.1 {status.value} {status.phrase}\r\n\r\n".encode("ascii")


def arguments(target: str, headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """The arguments of a channel that make the C core send this request."""
    lines = "\n".join(f"{name}:{value}" for name, value in headers.items())
    return [("grpc.http_connect_server", target), ("grpc.http_connect_headers", lines)]
