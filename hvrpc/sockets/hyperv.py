"""AF_HYPERV: Hyper-V sockets on Windows, host or guest.

CPython has them since 3.12. Its address is a tuple of two texts, without braces. Connecting and
accepting work only in blocking calls (asyncio's proactor loop knows neither), so both happen here;
the connected socket can then be used by either.
"""

from __future__ import annotations

import math
import socket
import sys
import time
from typing import Any, Final
from uuid import UUID

from ..access import Peer
from ..addresses import (
    AF_HYPERV,
    HV_GUID_CHILDREN,
    HV_GUID_WILDCARD,
    HvsockAddress,
    describe_vm,
    port_of_service_id,
    service_id_of_port,
)
from ..errors import ConnectError
from . import causes, names
from .listener import Endpoint, bind_to_free_port
from .options import Options
from .unix import size_buffers

NAME: Final = "hyperv"

HV_PROTOCOL_RAW: Final = 1
"""The protocol of the socket, and the level of its options."""
HVSOCKET_CONNECT_TIMEOUT: Final = 0x01
"""Milliseconds; Windows gives up after about 2 s unless told otherwise."""
HVSOCKET_CONNECT_TIMEOUT_MAX: Final = 300_000
"""The longest connect timeout, in milliseconds."""
HVSOCKET_CONTAINER_PASSTHRU: Final = 0x02
"""Out of a container to the VM's host; gone since Windows 11 22H2."""
HVSOCKET_CONNECTED_SUSPEND: Final = 0x04
"""Keep the connection while the VM is paused. Accepted sockets do not inherit it."""
HVSOCKET_HIGH_VTL: Final = 0x08
"""Talk to the guest's higher virtual trust level."""

WSAENOPROTOOPT: Final = 10042

BUFFER: Final = 256 * 1024
"""Larger buffers made bulk transfer 2.5 to 4 times faster in published measurements."""


def unavailable() -> tuple[str, str] | None:
    """Why there are none here, and what to do."""
    if sys.platform != "win32":
        return "Hyper-V sockets of this kind exist on Windows only", "use vsock:// on Linux"
    if not hasattr(socket, "AF_HYPERV"):
        version = ".".join(map(str, sys.version_info[:3]))
        return (
            f"Python {version} has no Hyper-V sockets",
            "install Python 3.12 or later on Windows",
        )
    return None


def connect(address: HvsockAddress, timeout: float, options: Options) -> tuple[socket.socket, Peer]:
    """Connect to a service of a VM or of the host."""
    began = time.monotonic()
    vm = names.vm_id(address, causes.CONNECT, timeout)
    service = names.service_id(address, causes.CONNECT)
    left = timeout - (time.monotonic() - began)
    if vm in (HV_GUID_WILDCARD, HV_GUID_CHILDREN):
        raise ConnectError(
            str(address),
            operation=causes.CONNECT,
            cause=f"{describe_vm(vm)} is for listening only",
            remedy="connect to one VM, to parent or to loopback",
            errno=10049,
        )
    sock = _open()
    try:
        milliseconds = max(1, min(math.ceil(left * 1000), HVSOCKET_CONNECT_TIMEOUT_MAX))
        _set(sock, HVSOCKET_CONNECT_TIMEOUT, milliseconds)
        if options.container_passthrough:
            _set(sock, HVSOCKET_CONTAINER_PASSTHRU, 1)
        if options.high_vtl:
            _set(sock, HVSOCKET_HIGH_VTL, 1)
        _prepare(sock, options)
        sock.connect((str(vm), str(service)))
    except BaseException:
        sock.close()
        raise
    name = address.vm if isinstance(address.vm, str) else None
    return sock, Peer(
        NAME, vm_id=vm, vm_name=name, service=service, port=port_of_service_id(service)
    )


def listen(address: HvsockAddress, backlog: int, options: Options) -> Endpoint:
    """Offer a service."""
    vm = names.vm_id(address, causes.LISTEN)
    service = names.service_id(address, causes.LISTEN)
    sock = _open()
    try:
        _prepare(sock, options)
        if port_of_service_id(service) == 0:
            service = bind_to_free_port(lambda port: _bind(sock, vm, service_id_of_port(port)))
        else:
            _bind(sock, vm, service)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return _HyperVEndpoint(sock, HvsockAddress(address.vm, service))


class _HyperVEndpoint(Endpoint):
    def peer(self, sock: socket.socket, name: object) -> Peer | None:
        assert isinstance(name, tuple)
        vm, service = UUID(name[0]), UUID(name[1])
        return Peer(NAME, vm_id=vm, service=service, port=port_of_service_id(service))

    def prepare(self, sock: socket.socket, options: Options) -> None:
        _prepare(sock, options)


def _open() -> socket.socket:
    family: Any = AF_HYPERV
    sock = socket.socket(family, socket.SOCK_STREAM, HV_PROTOCOL_RAW)
    sock.settimeout(None)  # whatever the program has made the default
    return sock


def _prepare(sock: socket.socket, options: Options) -> None:
    """What every socket needs, accepted ones included."""
    size_buffers(sock, options, BUFFER)
    if options.connected_suspend:
        try:
            _set(sock, HVSOCKET_CONNECTED_SUSPEND, 1)
        except OSError as error:
            # Windows before 10 version 1709 does not know it; there is nothing to lose then.
            if causes.code_of(error) != WSAENOPROTOOPT:
                raise


def _set(sock: socket.socket, option: int, value: int) -> None:
    sock.setsockopt(HV_PROTOCOL_RAW, option, value)


def _bind(sock: socket.socket, vm: UUID, service: UUID) -> UUID:
    sock.bind((str(vm), str(service)))
    return service
