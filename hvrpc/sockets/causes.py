"""What a socket error means on a VM socket, and what to do about it.

An `OSError` says a number. These tables say what it means here: Hyper-V sockets report "nobody
listens" as a timeout in one direction and as a refusal in the other, a deleted VM as an address
that is not available, and a peer that is gone in ten different ways.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..errors import (
    ConnectError,
    ConnectRefused,
    ConnectTimeout,
    HvrpcError,
    ListenError,
    PeerGone,
    StreamClosed,
    TransportError,
    TransportTimeout,
    UnsupportedError,
)

CONNECT: Final = "connect to"
LISTEN: Final = "listen on"
ACCEPT: Final = "accept on"
SEND: Final = "send to"
RECEIVE: Final = "receive from"

_BY_OPERATION: Final[dict[str, type[TransportError]]] = {
    CONNECT: ConnectError,
    LISTEN: ListenError,
    ACCEPT: ListenError,
}


@dataclass(frozen=True, slots=True)
class Meaning:
    """A row of the tables below."""

    cause: str
    remedy: str
    kind: type[TransportError] | type[UnsupportedError] | None = None
    """The class of the error; None: what is usual for the operation."""


_REFUSED = "nobody listens on this service there"
_START = "start the server"

WINDOWS: Final[dict[int, Meaning]] = {
    109: Meaning("the other side closed without saying goodbye", "connect again", PeerGone),
    10004: Meaning("it was closed while it waited", "", StreamClosed),
    10013: Meaning(
        "Hyper-V does not allow it",
        "on the host, register the service and run as administrator or as a member of Hyper-V"
        " Administrators (membership counts only after logging off and on); on a container or WSL"
        " VM its security descriptor decides",
    ),
    10022: Meaning(
        "the service is disabled in the VM's service table",
        "enable its entry in the VM's HvSocketConfig",
    ),
    10038: Meaning("it is closed already", "", StreamClosed),
    10041: Meaning(
        "the protocol is not HV_PROTOCOL_RAW", "this is a fault of hvrpc: please report it"
    ),
    10042: Meaning(
        "this version of Windows does not know one of the options",
        "leave out container_passthrough (gone since Windows 11 22H2) or high_vtl (new there)",
    ),
    10047: Meaning(
        "Windows has no Hyper-V sockets here",
        "turn on the Windows feature Hyper-V or Virtual Machine Platform, and restart",
        UnsupportedError,
    ),
    10048: Meaning("another program listens on it already", "end that one or use another service"),
    10049: Meaning(
        "there is no such running VM, or it is a name for listening only",
        "use the id of a running VM ((Get-VM -Name NAME).Id; a WSL VM gets a new one at each start)",
    ),
    10050: Meaning("the VM's sockets are down for the moment", "try again: it may be rebooting"),
    10051: Meaning("the VM cannot be reached for the moment", "try again"),
    10053: Meaning("the other side, or its VM, is gone", "connect again", PeerGone),
    10054: Meaning("the other side, or its VM, is gone", "connect again", PeerGone),
    10057: Meaning(
        "the connection was torn down, by standby or by the end of the VM",
        "connect again",
        PeerGone,
    ),
    10058: Meaning("the connection is shut down", "connect again", PeerGone),
    10060: Meaning(
        "nobody answered in time",
        "check that the service runs in the guest (a Linux guest without it looks like this) and"
        " that the guest is up; restart the VM if only new connections fail after a standby",
    ),
    10061: Meaning(
        _REFUSED,
        f"{_START}; if the host listens on any or children and this is a WSL, sandbox or container"
        " VM, let it listen on the VM's id",
        ConnectRefused,
    ),
}
"""AF_HYPERV."""

LINUX_VM: Final[dict[int, Meaning]] = {
    errno.ETIMEDOUT: Meaning(
        "nobody answered in time",
        "check that the host listens, that the service is registered there, and that it listens on"
        " this VM's id if any and children are not routed (a Hyper-V host never refuses, it is"
        " silent)",
    ),
    errno.ENETUNREACH: Meaning(
        "a Hyper-V guest reaches only its host, on ports up to 2147483647",
        "use hvsock://parent/PORT",
    ),
    errno.ENODEV: Meaning(
        "no VM socket transport is loaded",
        "modprobe hv_sock (Hyper-V), vmw_vsock_virtio_transport (KVM) or vsock_loopback",
    ),
    errno.EAFNOSUPPORT: Meaning(
        "this kernel has no VM sockets",
        "use one with CONFIG_VSOCKETS (modprobe vsock)",
        UnsupportedError,
    ),
    errno.EACCES: Meaning("ports below 1024 need CAP_NET_BIND_SERVICE", "use a port from 1024 on"),
    errno.EADDRNOTAVAIL: Meaning(
        "a guest can only listen for everybody", "listen on hvsock://any/PORT"
    ),
    errno.EOPNOTSUPP: Meaning(
        "VM sockets of Hyper-V guests cannot do that",
        "this is a fault of hvrpc: please report it",
    ),
}
"""AF_VSOCK. Looked up before LINUX."""

_ENDED = Meaning(
    "the connection ended (kernels 6.17 to 7.0 say it this way)", "connect again", PeerGone
)

LINUX_VM_DURING: Final[dict[str, dict[int, Meaning]]] = {
    CONNECT: {errno.ECONNRESET: Meaning(_REFUSED, _START, ConnectRefused)},
    RECEIVE: {errno.EIO: _ENDED, errno.ENOMEM: _ENDED},
}
"""AF_VSOCK, where a number means something else in one operation. Looked up before LINUX_VM."""

LINUX: Final[dict[int, Meaning]] = {
    errno.ECONNREFUSED: Meaning(_REFUSED, _START, ConnectRefused),
    errno.ENOENT: Meaning(_REFUSED, f"{_START}, or correct the path", ConnectRefused),
    errno.EADDRINUSE: Meaning(
        "another program listens on it already", "end that one or use another port"
    ),
    errno.EADDRNOTAVAIL: Meaning("this machine does not have that address", "use one it has"),
    errno.EACCES: Meaning("permission denied", "run as a user who may use it"),
    errno.EPERM: Meaning("permission denied", "run as a user who may use it"),
    errno.EPIPE: Meaning("the other side is gone", "connect again", PeerGone),
    errno.ENOTCONN: Meaning("the other side is gone", "connect again", PeerGone),
    errno.ECONNRESET: Meaning("the other side is gone", "connect again", PeerGone),
    errno.ECONNABORTED: Meaning("the other side is gone", "connect again", PeerGone),
    errno.ESHUTDOWN: Meaning("the connection is shut down", "connect again", PeerGone),
    errno.EBADF: Meaning("it is closed already", "", StreamClosed),
    errno.EMFILE: Meaning(
        "this process has no file descriptor left", "close some, or raise the limit (ulimit -n)"
    ),
    errno.ETIMEDOUT: Meaning("nobody answered in time", "check that the server runs"),
}
"""UNIX and TCP sockets, on Windows too: there Python gives its own errors these numbers as well."""

LINUX_DURING: Final[dict[str, dict[int, Meaning]]] = {
    LISTEN: {errno.ENOENT: Meaning("its folder does not exist", "make it, or correct the path")},
}
"""The same, where a number means something else in one operation. Looked up before LINUX."""

_TIMED_OUT: Final = frozenset({errno.ETIMEDOUT, 10060})
IN_USE: Final = frozenset({errno.EADDRINUSE, 10048})
_AGAIN: Final = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, 10035})

_SILENT: Final = Meaning(
    "the other side, or its VM, does not answer any more", "connect again", PeerGone
)

_GONE_WINDOWS: Final = frozenset(
    {
        64,  # ERROR_NETNAME_DELETED: how overlapped operations say 10054
        109,
        232,  # ERROR_NO_DATA: the pipe is being closed
        995,  # ERROR_OPERATION_ABORTED
        10053,
        10054,
        10057,
        10058,
        10060,  # the guest's kernel has panicked
    }
)
_GONE: Final = frozenset(
    {
        errno.EPIPE,
        errno.ENOTCONN,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.ESHUTDOWN,
        errno.ETIMEDOUT,  # TCP has repeated itself in vain
    }
)
_GONE_VSOCK: Final = _GONE | {errno.EIO, errno.ENOMEM}

_HYPERV: Final = "hyperv"
_VSOCK: Final = "vsock"


def code_of(error: OSError) -> int | None:
    """The system's number: on Windows the one of Windows."""
    winerror: int | None = getattr(error, "winerror", None)
    return winerror or error.errno


def _code(error: OSError, family: str) -> int | None:
    return code_of(error) if family == _HYPERV else error.errno


def _tables(operation: str, family: str) -> tuple[Mapping[int, Meaning], ...]:
    if family == _HYPERV:
        return (WINDOWS,)
    plain = (LINUX_DURING.get(operation, {}), LINUX)
    if family == _VSOCK:
        return (LINUX_VM_DURING.get(operation, {}), LINUX_VM, *plain)
    return plain


def _is_own_timeout(error: OSError) -> bool:
    """Whether it was the timeout set on this side that ended a wait.

    Python says so without a number, and the kernel (SO_RCVTIMEO) with EAGAIN. ETIMEDOUT is another
    matter: the system has given up on the other side.
    """
    return error.errno in _AGAIN or (isinstance(error, TimeoutError) and error.errno is None)


def is_gone(error: OSError, family: str) -> bool:
    """Whether this is one of the many ways to learn that the other side is no longer there."""
    if _is_own_timeout(error):
        return False
    if isinstance(error, (BrokenPipeError, ConnectionAbortedError, ConnectionResetError)):
        return True
    gone = {_HYPERV: _GONE_WINDOWS, _VSOCK: _GONE_VSOCK}.get(family, _GONE)
    return _code(error, family) in gone


def meaning_of(error: OSError, operation: str, family: str) -> Meaning:
    """The row of the tables that explains an error."""
    own_timeout = _is_own_timeout(error)
    if own_timeout and operation in (SEND, RECEIVE):
        return Meaning("the time was up", "", TransportTimeout)
    timeout = 10060 if family == _HYPERV else errno.ETIMEDOUT
    code = timeout if own_timeout else _code(error, family)
    if code in _TIMED_OUT and operation in (SEND, RECEIVE):
        return _SILENT
    for table in _tables(operation, family):
        found = table.get(code or 0)
        if found is None:
            continue
        if code in _TIMED_OUT and operation == CONNECT:
            return Meaning(found.cause, found.remedy, ConnectTimeout)
        return found
    return Meaning(error.strerror or str(error) or type(error).__name__, "")


def explain(error: OSError, *, operation: str, address: object, family: str) -> HvrpcError:
    """Our error for an error of the system. The caller chains it: `raise explain(e, …) from e`."""
    if isinstance(error, HvrpcError):
        return error
    meaning = meaning_of(error, operation, family)
    kind = meaning.kind
    if kind is UnsupportedError:
        return UnsupportedError(
            str(address), operation=operation, problem=meaning.cause, remedy=meaning.remedy
        )
    if kind is None or (kind is PeerGone and operation in _BY_OPERATION):
        kind = _BY_OPERATION.get(operation, TransportError)
    if kind is ConnectRefused and operation != CONNECT:
        kind = _BY_OPERATION.get(operation, PeerGone)
    assert issubclass(kind, TransportError)
    return kind(
        str(address),
        operation=operation,
        cause=meaning.cause,
        remedy=meaning.remedy,
        errno=_code(error, family),
    )
