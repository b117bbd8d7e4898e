"""Socket options that are structures, on every family.

CPython takes an option of an AF_VSOCK socket as a 64-bit number only. A second socket object on the
same descriptor, of a family it thinks nothing of, takes bytes; the kernel knows no difference.
"""

from __future__ import annotations

import os
import socket


def set_option(sock: socket.socket, level: int, option: int, data: bytes) -> None:
    """Set a socket option to the bytes of a structure."""
    if getattr(socket, "AF_VSOCK", None) != sock.family:
        sock.setsockopt(level, option, data)
        return
    blocking = os.get_blocking(sock.fileno())
    alias = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=sock.fileno())
    try:
        alias.setsockopt(level, option, data)
    finally:
        # With a default timeout set by the program, the new object has made the descriptor, which
        # both share, non-blocking.
        os.set_blocking(alias.detach(), blocking)
