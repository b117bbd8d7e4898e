"""AF_VSOCK: the guest's side on Linux, and both sides under KVM.

`hvsock://` addresses become CIDs and ports here: the parent is CID 2, this machine CID 1, a service
the port in its id. Under Hyper-V a guest reaches its host only and is silent where others refuse:
no listener shows as a timeout. MSG_PEEK, SO_RCVLOWAT and a large MSG_WAITALL do not work there, so
nothing in hvrpc uses them.
"""

from __future__ import annotations

import math
import socket
import struct
import sys
from typing import Any, Final

from ..access import Peer
from ..addresses import (
    HV_GUID_LOOPBACK,
    HV_GUID_PARENT,
    HV_GUID_WILDCARD,
    VMADDR_CID_ANY,
    VMADDR_CID_HOST,
    VMADDR_CID_LOCAL,
    Address,
    HvsockAddress,
    VsockAddress,
    template_id,
)
from ..errors import UnsupportedError
from . import causes, names
from .listener import Endpoint, bind_to_free_port
from .options import Options
from .structs import set_option
from .unix import size_buffers

NAME: Final = "vsock"

AF_VSOCK: Final = 40
SO_VM_SOCKETS_BUFFER_SIZE: Final = 0
SO_VM_SOCKETS_BUFFER_MAX_SIZE: Final = 2
SO_VM_SOCKETS_CONNECT_TIMEOUT: Final = 6
"""A struct timeval; Linux gives up after 2 s unless told otherwise."""

_TIMEVAL: Final = struct.Struct("@ll")
_U64: Final = struct.Struct("@Q")

BUFFER: Final = 256 * 1024
"""What hv_sock's rings hold at most (24 KiB by default), and a good credit for virtio."""


def unavailable() -> tuple[str, str] | None:
    """Why there are none here, and what to do."""
    if not sys.platform.startswith("linux"):
        return "AF_VSOCK exists on Linux only", "use hvsock:// on Windows"
    if not hasattr(socket, "AF_VSOCK"):
        return "this Python was built without AF_VSOCK", "use your distribution's Python"
    return None


def connect(
    address: HvsockAddress | VsockAddress, timeout: float, options: Options
) -> tuple[socket.socket, Peer]:
    """Connect to a port of the host or of a guest."""
    cid, port = _place(address, causes.CONNECT)
    if cid == VMADDR_CID_ANY:
        raise UnsupportedError(
            str(address),
            operation=causes.CONNECT,
            problem="any is for listening only",
            remedy="connect to hvsock://parent/PORT, or vsock://CID/PORT",
        )
    sock = _open()
    try:
        _size_buffers(sock, options)
        # Rounded up: zero would stand for the system's own 2 s.
        limit = _TIMEVAL.pack(*divmod(math.ceil(timeout * 1_000_000), 1_000_000))
        set_option(sock, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, limit)
        sock.connect((cid, port))
    except BaseException:
        sock.close()
        raise
    return sock, _peer(cid, port)


def listen(address: HvsockAddress | VsockAddress, backlog: int, options: Options) -> Endpoint:
    """Listen on a port."""
    cid, port = _place(address, causes.LISTEN)
    sock = _open()
    try:
        _size_buffers(sock, options)
        if not port:
            # Not the system's own choice: it takes ports above what Hyper-V can reach, too.
            port = bind_to_free_port(lambda free: _bind(sock, cid, free))
        else:
            _bind(sock, cid, port)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return _VsockEndpoint(sock, address.with_port(port))


class _VsockEndpoint(Endpoint):
    def peer(self, sock: socket.socket, name: object) -> Peer | None:
        assert isinstance(name, tuple)
        return _peer(*name)


def _open() -> socket.socket:
    family: Any = AF_VSOCK
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.settimeout(None)  # whatever the program has made the default
    return sock


def _bind(sock: socket.socket, cid: int, port: int) -> int:
    sock.bind((cid, port))
    return port


def _peer(cid: int, port: int) -> Peer:
    """The host and this machine have the same VM ids here as on Windows; other guests have none."""
    vm = {VMADDR_CID_HOST: HV_GUID_PARENT, VMADDR_CID_LOCAL: HV_GUID_LOOPBACK}.get(cid)
    return Peer(NAME, vm_id=vm, cid=cid, service=template_id(port), port=port)


def _size_buffers(sock: socket.socket, options: Options) -> None:
    # hv_sock looks at SO_SNDBUF and SO_RCVBUF, virtio at its own options: set both.
    size_buffers(sock, options, BUFFER)
    size = _U64.pack(options.receive_buffer or BUFFER)
    set_option(sock, AF_VSOCK, SO_VM_SOCKETS_BUFFER_MAX_SIZE, size)
    set_option(sock, AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, size)


_CID_OF_VM: Final = {
    HV_GUID_PARENT: VMADDR_CID_HOST,
    HV_GUID_LOOPBACK: VMADDR_CID_LOCAL,
    HV_GUID_WILDCARD: VMADDR_CID_ANY,
}
_LISTEN_FOR_ALL: Final = (HV_GUID_PARENT, HV_GUID_WILDCARD)


def _place(address: Address, operation: str) -> tuple[int, int]:
    """The CID and the port of an address, `hvsock://` ones included."""
    if isinstance(address, VsockAddress):
        return address.cid, address.port
    assert isinstance(address, HvsockAddress)
    vm = names.vm_id(address, operation)
    names.service_id(address, operation)
    port = address.port
    if port is None:
        raise UnsupportedError(
            str(address),
            operation=operation,
            problem="the service's id is not one that stands for a port, and Linux knows ports only",
            remedy="use a port on both sides (hvsock://parent/PORT)",
        )
    if operation == causes.LISTEN and vm in _LISTEN_FOR_ALL:
        # A guest can bind to every CID only; that its callers are the parent is a matter of access.
        return VMADDR_CID_ANY, port
    cid = _CID_OF_VM.get(vm)
    if cid is None:
        raise UnsupportedError(
            str(address),
            operation=operation,
            problem="a Linux guest of Hyper-V reaches its host only",
            remedy="use hvsock://parent/PORT; under KVM, vsock://CID/PORT",
        )
    return cid, port
