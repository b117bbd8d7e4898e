"""The emulated fabric: Hyper-V sockets' rules between processes of one user, without a hypervisor.

Who may listen and connect where is in the two tables below. How bytes get across is a *carrier*:
UNIX sockets, or loopback TCP where Python has none. The accepting side learns who called without a
byte in the stream: from the name of the caller's UNIX socket, or from a file about its TCP port.
Everything that processes know about each other is in `fabric`.

`HVRPC_FABRIC` names the fabric, `HVRPC_FABRIC_VM` makes the process a guest of that name or id;
without it the process is the host.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import time
from collections.abc import Iterator
from typing import Final, TypeAlias
from uuid import UUID

from ..access import Peer
from ..addresses import (
    HV_GUID_BROADCAST,
    HV_GUID_CHILDREN,
    HV_GUID_LOOPBACK,
    HV_GUID_PARENT,
    HV_GUID_SILOHOST,
    HV_GUID_WILDCARD,
    HvsockAddress,
    LocalAddress,
    port_of_service_id,
    service_id_of_port,
    template_id,
)
from ..errors import ConnectError, ConnectRefused, ListenError
from . import causes, fabric
from .carriers import Carrier, carrier_named, chosen_carrier
from .fabric import HOST, Entry, Fabric, Key, Member, Vm
from .listener import Endpoint
from .options import Options

NAME: Final = "local"
FABRIC_VARIABLE: Final = fabric.FABRIC_VARIABLE

FIRST_FREE_PORT: Final = 0x4000_0000
"""Where port 0 is looked for: far above what people choose by hand."""
FREE_PORTS: Final = 0x4000_0000

FabricAddress: TypeAlias = LocalAddress | HvsockAddress


def unavailable() -> tuple[str, str] | None:
    """Why there is none here: there always is."""
    return None


# --- The rules -----------------------------------------------------------------------------------

_LISTEN_ONLY: Final = "is for listening only"
_NO_SILOS: Final = ("silos (containers) are not emulated", "use parent, loopback or a VM")

_CANNOT_CONNECT: Final[dict[UUID, tuple[str, str]]] = {
    HV_GUID_WILDCARD: (f"any {_LISTEN_ONLY}", "connect to one VM, to parent or to loopback"),
    HV_GUID_CHILDREN: (f"children {_LISTEN_ONLY}", "connect to one VM, by its name or id"),
    HV_GUID_BROADCAST: ("broadcast has no use for streams", "connect to one VM"),
    HV_GUID_SILOHOST: _NO_SILOS,
}
_CANNOT_LISTEN: Final[dict[UUID, tuple[str, str]]] = {
    HV_GUID_BROADCAST: ("broadcast has no use for streams", "listen on any"),
    HV_GUID_SILOHOST: _NO_SILOS,
}
_HOST_HAS_NO_PARENT: Final = (
    "this process is the host, which has no parent",
    f"use loopback or a VM's name, or set {fabric.VM_VARIABLE} to make the process a guest",
)
_GUEST_KNOWS_NO_VM: Final = (
    "a guest can listen for its host (parent), for itself (loopback) or for both (any)",
    "listen on parent or any; who may call is a matter of allow=",
)
_GUEST_REACHES_HOST_ONLY: Final = (
    "a guest reaches its host and itself only",
    "connect to parent or loopback",
)


def _callee(address: FabricAddress, here: Fabric) -> Vm:
    """The VM that an address calls, or the error that Hyper-V would answer."""
    vm = address.vm
    if vm in _CANNOT_CONNECT:
        raise _failure(address, causes.CONNECT, *_CANNOT_CONNECT[vm])  # type: ignore[index]
    if vm == HV_GUID_LOOPBACK:
        return here.here
    if vm == HV_GUID_PARENT:
        if here.here.is_host:
            raise _failure(address, causes.CONNECT, *_HOST_HAS_NO_PARENT)
        return HOST
    if not here.here.is_host:
        raise _failure(address, causes.CONNECT, *_GUEST_REACHES_HOST_ONLY, code=errno.ENETUNREACH)
    return here.vm(vm)


def _admits(address: FabricAddress, here: Fabric) -> UUID:
    """For whom an address listens: a wildcard, or a VM's id."""
    vm = address.vm
    if vm in _CANNOT_LISTEN:
        raise _failure(address, causes.LISTEN, *_CANNOT_LISTEN[vm])  # type: ignore[index]
    if vm == HV_GUID_PARENT and here.here.is_host:
        raise _failure(address, causes.LISTEN, *_HOST_HAS_NO_PARENT)
    if vm in (HV_GUID_WILDCARD, HV_GUID_CHILDREN, HV_GUID_LOOPBACK, HV_GUID_PARENT):
        assert isinstance(vm, UUID)
        return vm
    if not here.here.is_host:
        raise _failure(address, causes.LISTEN, *_GUEST_KNOWS_NO_VM)
    return here.vm(vm).id


def _listeners_for(caller: Vm, callee: Vm) -> Iterator[UUID]:
    """What a listener may be bound to in order to get this call, the most specific first."""
    if caller == callee:
        yield HV_GUID_LOOPBACK
    elif caller.is_host:
        yield HV_GUID_PARENT
    else:
        yield caller.id
        yield HV_GUID_CHILDREN
    yield HV_GUID_WILDCARD


def _seen_from(viewer: Vm, vm: Vm) -> UUID:
    """How a VM names another, or itself."""
    return HV_GUID_LOOPBACK if vm.id == viewer.id else vm.id


# --- Connecting ----------------------------------------------------------------------------------


def connect(address: FabricAddress, timeout: float, options: Options) -> tuple[socket.socket, Peer]:
    """Call a service."""
    deadline = time.monotonic() + timeout
    here = fabric.open_fabric(address, causes.CONNECT)
    callee = _callee(address, here)
    service = _service(address)
    for admits in _listeners_for(here.here, callee):
        entry = here.find(Key(callee.id, service, admits))
        if entry is None:
            continue
        carrier = carrier_named(entry.carrier)
        try:
            with fabric.explained(address, causes.CONNECT):
                sock = carrier.dial(here, entry, deadline, options)
        except (ConnectionRefusedError, FileNotFoundError):
            continue  # it has closed between being found and being called
        return sock, _callee_as_peer(here, callee, service, entry)
    with fabric.explained(address, causes.CONNECT):
        refuses = chosen_carrier().refuses
    if not refuses and here.is_running(callee):
        time.sleep(max(deadline - time.monotonic(), 0))
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
    raise _nobody(address, here, callee)


def _callee_as_peer(here: Fabric, callee: Vm, service: UUID, entry: Entry) -> Peer:
    return Peer(
        NAME,
        vm_id=_seen_from(here.here, callee),
        vm_name=callee.name,
        service=service,
        port=port_of_service_id(service),
        pid=entry.pid,
        uid=_own_uid(),
    )


def _own_uid() -> int | None:
    """Both ends belong to this user: nobody else can enter the folder."""
    return os.geteuid() if os.name == "posix" else None


def _nobody(address: FabricAddress, here: Fabric, callee: Vm) -> ConnectError:
    where = f"on fabric {here.name!r}"
    if not here.is_running(callee):
        return ConnectError(
            str(address),
            operation=causes.CONNECT,
            cause=f"{callee} is not running {where}",
            remedy=f"start it: a process with {FABRIC_VARIABLE}={here.name} and"
            f" {fabric.VM_VARIABLE}={callee.name or callee.id}",
            errno=errno.EADDRNOTAVAIL,
        )
    return ConnectRefused(
        str(address),
        operation=causes.CONNECT,
        cause=f"nobody listens on this service there ({callee} {where})",
        remedy="start the server, and let both processes have the same"
        f" {FABRIC_VARIABLE} and the {fabric.VM_VARIABLE} you mean",
        errno=errno.ECONNREFUSED,
    )


# --- Listening -----------------------------------------------------------------------------------


def listen(address: FabricAddress, backlog: int, options: Options) -> Endpoint:
    """Offer a service."""
    here = fabric.open_fabric(address, causes.LISTEN)
    admits = _admits(address, here)
    claim, service = _claim(address, here, admits)
    member: Member | None = None
    sock: socket.socket | None = None
    try:
        member = fabric.join(here)
        with fabric.explained(address, causes.LISTEN):
            carrier = chosen_carrier()
            sock, entry = carrier.open(here, member, backlog, options)
        claim.write(fabric.to_dict(entry))
    except BaseException:
        claim.remove()
        if sock is not None:
            sock.close()
        if member is not None:
            member.leave()
        raise
    chosen = type(address)(address.vm, service)
    endpoint = LocalEndpoint(sock, chosen, here, member, claim, carrier, entry)
    for hook in fabric.listening_hooks:
        hook()
    return endpoint


def _claim(address: FabricAddress, here: Fabric, admits: UUID) -> tuple[fabric.HeldFile, UUID]:
    """Become the one who listens on a service; port 0 becomes a free one."""
    service = _service(address)
    if port_of_service_id(service) == 0:
        return _claim_free_port(here, admits)
    claim = here.claim(Key(here.here.id, service, admits))
    if claim is None:
        raise ListenError(
            str(address),
            operation=causes.LISTEN,
            cause=f"another listener of {here.here} has it already on fabric {here.name!r}",
            remedy="end that one or use another service",
            errno=errno.EADDRINUSE,
        )
    return claim, service


def _claim_free_port(here: Fabric, admits: UUID) -> tuple[fabric.HeldFile, UUID]:
    while True:  # of a thousand million ports nearly all are free
        service = service_id_of_port(FIRST_FREE_PORT + secrets.randbelow(FREE_PORTS))
        claim = here.claim(Key(here.here.id, service, admits))
        if claim is not None:
            return claim, service


class LocalEndpoint(Endpoint):
    """A listener on the fabric."""

    def __init__(
        self,
        sock: socket.socket,
        address: FabricAddress,
        here: Fabric,
        member: Member,
        claim: fabric.HeldFile,
        carrier: Carrier,
        entry: Entry,
    ) -> None:
        super().__init__(sock, address)
        self._here = here
        self._member = member
        self._claim = claim
        self._carrier = carrier
        self._entry = entry

    def peer(self, sock: socket.socket, name: object) -> Peer | None:
        caller = self._carrier.caller(self._here, self._entry, sock, name)
        if caller is None:
            return None
        return Peer(
            NAME,
            vm_id=_seen_from(self._here.here, caller.vm),
            vm_name=caller.vm.name,
            service=template_id(caller.port),
            port=caller.port,
            pid=caller.pid,
            uid=caller.uid,
        )

    def prepare(self, sock: socket.socket, options: Options) -> None:
        self._carrier.tune(sock)

    def release(self) -> None:
        self._claim.remove()
        self._carrier.remove(self._here, self._entry)
        self._member.leave()


# --- Both ----------------------------------------------------------------------------------------


def _service(address: FabricAddress) -> UUID:
    """The id of a service. A name is as good as an id here: nothing has to be registered."""
    service = address.service
    return fabric.service_id(service) if isinstance(service, str) else service


def _failure(
    address: FabricAddress,
    operation: str,
    cause: str,
    remedy: str,
    *,
    code: int = errno.EADDRNOTAVAIL,
) -> ConnectError | ListenError:
    kind = ConnectError if operation == causes.CONNECT else ListenError
    return kind(str(address), operation=operation, cause=cause, remedy=remedy, errno=code)
