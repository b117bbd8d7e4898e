"""The socket families: one row each. Nothing outside this package mentions one.

To add a family, write a module with the same four names and add its row.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from socket import socket
from types import ModuleType
from typing import Any, Final

from ..access import Peer
from ..addresses import (
    Address,
    HvsockAddress,
    HybridAddress,
    LocalAddress,
    TcpAddress,
    UnixAddress,
    VsockAddress,
)
from . import hybrid, hyperv, local, tcp, unix, vsock
from .listener import Endpoint
from .options import Options


@dataclass(frozen=True, slots=True)
class Family:
    """How one kind of socket is opened."""

    name: str
    connect: Callable[[Any, float, Options], tuple[socket, Peer]]
    """address, seconds, options -> a connected blocking socket, and who is at the other end."""
    listen: Callable[[Any, int, Options], Endpoint]
    """address, backlog, options -> a listening socket with what belongs to it."""
    unavailable: Callable[[], tuple[str, str] | None]
    """Why this machine does not have it, and what to do; None when it does."""


def _row(module: ModuleType) -> Family:
    return Family(module.NAME, module.connect, module.listen, module.unavailable)


HYPERV: Final = _row(hyperv)
VSOCK: Final = _row(vsock)
HYBRID: Final = _row(hybrid)
LOCAL: Final = _row(local)
UNIX: Final = _row(unix)
TCP: Final = _row(tcp)

FAMILIES: Final = (HYPERV, VSOCK, HYBRID, LOCAL, UNIX, TCP)

_BY_ADDRESS: Final[dict[type[Address], Family]] = {
    VsockAddress: VSOCK,
    HybridAddress: HYBRID,
    LocalAddress: LOCAL,
    UnixAddress: UNIX,
    TcpAddress: TCP,
}


def family_of(address: Address) -> Family:
    """The family that carries an address on this machine."""
    if isinstance(address, HvsockAddress):
        if os.environ.get(local.FABRIC_VARIABLE):
            return LOCAL
        return HYPERV if sys.platform == "win32" else VSOCK
    return _BY_ADDRESS[type(address)]
