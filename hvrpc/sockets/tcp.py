"""Plain TCP, for foreign peers and for tests. Loopback, unless something else is asked for."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from ..access import Peer
from ..addresses import TcpAddress
from ..errors import ConnectError, ListenError
from . import causes
from .listener import Endpoint
from .options import Options
from .unix import size_buffers

NAME: Final = "tcp"


def unavailable() -> tuple[str, str] | None:
    """Why there is none here: there always is."""
    return None


def connect(address: TcpAddress, timeout: float, options: Options) -> tuple[socket.socket, Peer]:
    """Connect to a host and a port."""
    # With buffers to size, Python's helper cannot be used: it connects before they can be set.
    deadline = time.monotonic() + timeout
    failures: list[OSError] = []
    for family, kind, protocol, _, name in _look_up(address, causes.CONNECT):
        sock = socket.socket(family, kind, protocol)
        try:
            size_buffers(sock, options)
            sock.settimeout(max(deadline - time.monotonic(), 0.001))
            sock.connect(name)
            sock.settimeout(None)
            _tune(sock)
        except OSError as error:
            sock.close()
            failures.append(error)
        except BaseException:
            sock.close()
            raise
        else:
            return sock, _peer(name)
    raise failures[0]


def listen(address: TcpAddress, backlog: int, options: Options) -> Endpoint:
    """Listen on an address of this machine, other machines being kept out unless asked for."""
    if not (address.is_loopback or options.remote_tcp_without_tls):
        raise ListenError(
            str(address),
            operation=causes.LISTEN,
            cause="other machines could reach it, and nothing on it is encrypted",
            remedy="listen on tcp://127.0.0.1:PORT, or ask for it in so many words:"
            " Options(remote_tcp_without_tls=True)",
        )
    family, kind, protocol, _, name = _look_up(address, causes.LISTEN)[0]
    sock = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # on Windows it would let two programs share a port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        elif hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        size_buffers(sock, options)
        sock.bind(name)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return _TcpEndpoint(sock, address.with_port(sock.getsockname()[1]))


class _TcpEndpoint(Endpoint):
    def peer(self, sock: socket.socket, name: object) -> Peer | None:
        return _peer(name)

    def prepare(self, sock: socket.socket, options: Options) -> None:
        _tune(sock)


_Found: TypeAlias = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]


def _look_up(address: TcpAddress, operation: str) -> Sequence[_Found]:
    try:
        return socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        kind = ConnectError if operation == causes.CONNECT else ListenError
        raise kind(
            str(address),
            operation=operation,
            cause=f"the host {address.host!r} is not known here ({error.strerror})",
            remedy="correct its name, or give its IP address",
            errno=error.errno,
        ) from error


def _tune(sock: socket.socket) -> None:
    """Small messages go out at once."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _peer(name: object) -> Peer:
    assert isinstance(name, tuple)
    return Peer(NAME, host=name[0], port=name[1])
