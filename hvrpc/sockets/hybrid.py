"""Hybrid vsock: the host's side of Firecracker's and Cloud Hypervisor's vsock device.

The device is a UNIX socket on the host. To call port 52 of the guest one connects to it, writes
`CONNECT 52` and reads `OK` with the port at the other end. The guest's own calls to port 52 of its
host arrive at the UNIX socket whose name has `_52` added.
"""

from __future__ import annotations

import errno
import socket
import time
from typing import Final

from ..access import Peer
from ..addresses import HybridAddress
from ..errors import ConnectError, ConnectRefused
from . import causes, unix
from .listener import Endpoint, bind_to_free_port
from .options import Options

NAME: Final = "hybrid"
MAX_ANSWER: Final = 32
"""`OK 4294967295` has 13 bytes; what is longer is not the handshake."""

unavailable = unix.unavailable


def connect(address: HybridAddress, timeout: float, options: Options) -> tuple[socket.socket, Peer]:
    """Connect to a port of the guest."""
    deadline = time.monotonic() + timeout
    sock = unix.dial(address.path, address, timeout, options)
    try:
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        sock.sendall(b"CONNECT %d\n" % address.port)
        _read_answer(sock, address, deadline)
        sock.settimeout(None)
    except (BrokenPipeError, ConnectionResetError) as error:
        sock.close()
        raise _refused(address) from error
    except BaseException:
        sock.close()
        raise
    return sock, Peer(NAME, host=address.path, port=address.port)


def _read_answer(sock: socket.socket, address: HybridAddress, deadline: float) -> None:
    """Read the answer's line, and not one byte of what the service sends after it."""
    line = bytearray()
    while not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(errno.ETIMEDOUT, "no answer to CONNECT")
        sock.settimeout(left)
        byte = sock.recv(1)
        if not byte:
            raise _refused(address)
        line += byte
        if len(line) > MAX_ANSWER:
            break
    word, _, port = bytes(line).rstrip(b"\r\n").partition(b" ")
    if word != b"OK" or not port.isdigit():
        raise ConnectError(
            str(address),
            operation=causes.CONNECT,
            cause=f"the device answered {bytes(line)!r} instead of OK and a port",
            remedy="check that the path is a VM's vsock device, and not a service's own socket",
        )


def _refused(address: HybridAddress) -> ConnectRefused:
    return ConnectRefused(
        str(address),
        operation=causes.CONNECT,
        cause="nobody listens on this port in the guest, or the guest is not up",
        remedy="start the server in the guest",
        errno=errno.ECONNREFUSED,
    )


def listen(address: HybridAddress, backlog: int, options: Options) -> Endpoint:
    """Listen for the guest's calls to a port of its host."""

    def listen_on(port: int) -> Endpoint:
        chosen = address.with_port(port)
        path = f"{chosen.path}_{port}"
        return _HybridEndpoint(unix.bind(path, chosen, backlog, options), chosen, path)

    return listen_on(address.port) if address.port else bind_to_free_port(listen_on)


class _HybridEndpoint(unix.PathEndpoint):
    def peer(self, sock: socket.socket, name: object) -> Peer | None:
        pid, uid = unix.credentials(sock)  # of the hypervisor, which carries the guest's bytes
        address = self.address
        assert isinstance(address, HybridAddress)
        return Peer(NAME, host=address.path, port=address.port, pid=pid, uid=uid)
