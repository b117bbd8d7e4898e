"""What is being called: a virtual machine and a service in it, written as a URL.

An address is a value: immutable, hashable, ordered, and `str()` gives back the URL it came from in
its normal form. Nothing is looked up here. A VM's *name* or a service's *name* stays a name until a
socket is opened, because only then it is known where the program runs: a Windows host can ask
Hyper-V and the registry, a guest cannot.

    hvsock://<vm>/<service>             Hyper-V socket (AF_HYPERV on Windows, AF_VSOCK on Linux)
    vsock://<cid>/<port>                AF_VSOCK on KVM, Firecracker and others
    hybrid:///path/to/v.sock?port=<n>   the host's side of Firecracker's or Cloud Hypervisor's vsock
    local://<vm>/<service>              the emulated fabric: one machine, no hypervisor
    unix:///path                        a plain UNIX socket
    tcp://<host>:<port>                 plain TCP

A Windows service is a GUID, a Linux service a port. One stands for the other through the vsock
template: port 1024 is the GUID 00000400-facb-11e6-bd58-64006a7986d3.
"""

from __future__ import annotations

import ipaddress
import re
import struct
import unicodedata
from dataclasses import dataclass
from functools import total_ordering
from typing import ClassVar, Final, NoReturn, Self
from urllib.parse import quote, unquote
from uuid import UUID

from .errors import AddressError

# --- Well-known VM ids (hvsocket.h) -----------------------------------------------------------

HV_GUID_WILDCARD: Final = UUID(int=0)
"""Listen: accept from every partition. Connecting to it is not possible."""
HV_GUID_BROADCAST: Final = UUID("ffffffff-ffff-ffff-ffff-ffffffffffff")
"""Defined by Hyper-V, without a use for streams."""
HV_GUID_CHILDREN: Final = UUID("90db8b89-0d35-4f79-8ce9-49ea0ac8b7cd")
"""Listen: accept from child partitions only."""
HV_GUID_LOOPBACK: Final = UUID("e0e16197-dd56-4a10-9195-5ee7a155a838")
"""Listen on, or connect to, the same partition."""
HV_GUID_PARENT: Final = UUID("a42e7cda-d03f-480c-9cc2-a4de20abb878")
"""The parent partition: the host, as seen from a virtual machine."""
HV_GUID_SILOHOST: Final = UUID("36bd0c5c-7276-4223-88ba-7d03b654c568")
"""The host of a silo (a container): the utility VM or the host it runs in."""
HV_GUID_VSOCK_TEMPLATE: Final = UUID("00000000-facb-11e6-bd58-64006a7986d3")
"""Service ids of Linux ports: the first 32 bits are the port."""

NAMED_VMS: Final = {
    "any": HV_GUID_WILDCARD,
    "broadcast": HV_GUID_BROADCAST,
    "children": HV_GUID_CHILDREN,
    "loopback": HV_GUID_LOOPBACK,
    "parent": HV_GUID_PARENT,
    "silohost": HV_GUID_SILOHOST,
}
_NAME_OF_VM: Final = {guid: name for name, guid in NAMED_VMS.items()}

MAX_HV_PORT: Final = 0x7FFF_FFFF
"""Hyper-V keeps ports from 0x80000000 on for connections that the host opens."""
MAX_VSOCK_NUMBER: Final = 0xFFFF_FFFF
"""CIDs and ports of AF_VSOCK are unsigned 32-bit numbers."""

VMADDR_CID_ANY: Final = 0xFFFF_FFFF
VMADDR_CID_LOCAL: Final = 1
VMADDR_CID_HOST: Final = 2
VMADDR_PORT_ANY: Final = 0xFFFF_FFFF

NAMED_CIDS: Final = {"any": VMADDR_CID_ANY, "host": VMADDR_CID_HOST, "local": VMADDR_CID_LOCAL}
_NAME_OF_CID: Final = {cid: name for name, cid in NAMED_CIDS.items()}

AF_HYPERV: Final = 34
SOCKADDR_HV: Final = struct.Struct("<HH16s16s")
"""USHORT Family; USHORT Reserved; GUID VmId; GUID ServiceId: 36 bytes."""

_UNSPEAKABLE: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Control characters, half characters and line ends: no name has those."""

_GUID: Final = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE
)
_NUMBER: Final = re.compile(r"[0-9]+", re.ASCII)
_LABEL: Final = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?", re.IGNORECASE | re.ASCII)
MAX_HOST: Final = 253
"""Characters of a host's name in DNS, and 63 of each of its labels."""
_ZONE: Final = re.compile(r"(%[A-Za-z0-9_.-]+)?", re.ASCII)
_DOTTED_NUMBERS: Final = re.compile(r"[0-9.]+", re.ASCII)


def service_id_of_port(port: int) -> UUID:
    """The service id that stands for a Linux port (the vsock template)."""
    if not 0 <= port <= MAX_HV_PORT:
        raise ValueError(f"a Hyper-V socket port is 0…{MAX_HV_PORT}, not {port}")
    return template_id(port)


def template_id(port: int) -> UUID:
    """The vsock template filled with any 32-bit port, those of host-opened connections included."""
    return UUID(int=port << 96 | HV_GUID_VSOCK_TEMPLATE.int)


def port_of_service_id(service: UUID) -> int | None:
    """The Linux port a service id stands for, or None when it is an ordinary GUID."""
    port = service.int >> 96
    is_template = service.int & (2**96 - 1) == HV_GUID_VSOCK_TEMPLATE.int
    return port if is_template and port <= MAX_HV_PORT else None


def pack_sockaddr_hv(vm: UUID, service: UUID) -> bytes:
    """A SOCKADDR_HV as Windows has it in memory (36 bytes)."""
    return SOCKADDR_HV.pack(AF_HYPERV, 0, vm.bytes_le, service.bytes_le)


def unpack_sockaddr_hv(data: bytes) -> tuple[UUID, UUID]:
    """The VM id and the service id in a SOCKADDR_HV."""
    if len(data) != SOCKADDR_HV.size:
        raise ValueError(f"a SOCKADDR_HV has {SOCKADDR_HV.size} bytes, not {len(data)}")
    family, reserved, vm, service = SOCKADDR_HV.unpack(data)
    if family != AF_HYPERV:
        raise ValueError(f"a SOCKADDR_HV begins with family {AF_HYPERV}, not {family}")
    if reserved != 0:
        raise ValueError(f"the reserved field of a SOCKADDR_HV is 0, not {reserved}")
    return UUID(bytes_le=vm), UUID(bytes_le=service)


def describe_vm(vm: UUID | str) -> str:
    """A VM as people write it: by its well-known name, its name, or its id."""
    if isinstance(vm, str):
        return vm
    return _NAME_OF_VM.get(vm, str(vm))


def describe_service(service: UUID | str) -> str:
    """A service as people write it: by port where it has one, else by name or id."""
    if isinstance(service, str):
        return service
    port = port_of_service_id(service)
    return str(service) if port is None else str(port)


@total_ordering
class Address:
    """What is being called. Make one with :meth:`Address.parse`.

    Every function of hvrpc that takes an address also takes its URL as text.
    """

    __slots__ = ()

    scheme: ClassVar[str] = ""
    example: ClassVar[str] = "hvsock://parent/50051"

    @classmethod
    def parse(cls, text: str | Address) -> Address:
        """Read a URL.

        Raises :class:`hvrpc.AddressError`, which names the part that is wrong and shows a right
        one. Given an address, returns it as it is.
        """
        if isinstance(text, Address):
            return text
        if not isinstance(text, str):
            raise AddressError(
                repr(text),
                part=type(text).__name__,
                problem="an address is text or a hvrpc.Address",
                example=cls.example,
            )
        scheme, separator, rest = text.strip().partition("://")
        kind = _KINDS.get(scheme.lower())
        if not separator or kind is None:
            schemes = ", ".join(f"{name}://" for name in _KINDS)
            raise AddressError(
                text,
                part=scheme if separator else text,
                problem=f"an address begins with one of {schemes}",
                example=_meant(text.strip()) or cls.example,
            )
        return kind._read(_Text(text, kind.example), rest)

    @classmethod
    def _read(cls, text: _Text, rest: str) -> Self:
        raise NotImplementedError

    def _rest(self) -> str:
        raise NotImplementedError

    def with_port(self, port: int) -> Self:
        """The same place with another port: what a listener on port 0 was given."""
        raise ValueError(f"{self} has no port")

    def __str__(self) -> str:
        return f"{self.scheme}://{self._rest()}"

    def __repr__(self) -> str:
        return f"Address.parse({str(self)!r})"

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Address):
            return NotImplemented
        return str(self) < str(other)


class _Text:
    """The text being read, kept for the error message."""

    __slots__ = ("example", "whole")

    def __init__(self, whole: str, example: str) -> None:
        self.whole = whole
        self.example = example

    def wrong(self, part: str, problem: str) -> NoReturn:
        raise AddressError(self.whole, part=part, problem=problem, example=self.example)

    def decoded(self, part: str, what: str) -> str:
        """Undo percent-encoding, and refuse what no name can hold."""
        try:
            plain = unquote(part, errors="strict")
        except UnicodeDecodeError:
            self.wrong(part, f"the percent-encoding of the {what} is not UTF-8")
        if re.search("%(?![0-9a-fA-F]{2})", part):
            self.wrong(part, f"a % in the {what} is written %25")
        if any(unicodedata.category(c) in _UNSPEAKABLE for c in plain) or plain != plain.strip():
            self.wrong(
                part, f"the {what} holds a control character, or begins or ends with a space"
            )
        return plain

    def number(self, part: str, what: str, maximum: int) -> int:
        if not _NUMBER.fullmatch(part):
            self.wrong(part, f"the {what} is a number from 0 to {maximum}")
        # Checked by length first: int() of a very long text is slow, and refused by Python.
        digits = part.lstrip("0") or "0"
        if len(digits) > len(str(maximum)) or int(digits) > maximum:
            self.wrong(part, f"the {what} is at most {maximum}")
        return int(digits)

    def guid(self, part: str) -> UUID | None:
        """A GUID, with or without braces; None when the part is not meant to be one."""
        inner = part[1:-1] if part.startswith("{") and part.endswith("}") else part
        if _GUID.fullmatch(inner):
            return UUID(inner)
        if inner is not part:
            self.wrong(part, "between braces stands a GUID, 8-4-4-4-12 hexadecimal digits")
        return None


@dataclass(frozen=True, slots=True, repr=False)
class _PartitionAddress(Address):
    """A VM and a service in it: what hvsock:// and local:// have in common."""

    vm: UUID | str
    """The VM's id, or its name where only a name is known."""
    service: UUID | str
    """The service's id, or its registered name."""

    @property
    def port(self) -> int | None:
        """The Linux port of the service, if it has one."""
        return None if isinstance(self.service, str) else port_of_service_id(self.service)

    def with_port(self, port: int) -> Self:
        return type(self)(self.vm, service_id_of_port(port))

    @classmethod
    def _read(cls, text: _Text, rest: str) -> Self:
        vm, slash, service = rest.partition("/")
        if not slash:
            text.wrong(rest, "a service follows the VM, after a slash")
        if "/" in service:
            text.wrong(service, "one service follows the VM; a slash in its name is written %2F")
        for mark in "?#":
            if mark in rest:
                text.wrong(rest[rest.index(mark) :], f"{mark} has no meaning here")
        return cls(_read_vm(text, vm), _read_service(text, service))

    def _rest(self) -> str:
        vm, service = describe_vm(self.vm), describe_service(self.service)
        return f"{quote(vm, safe=_PLAIN)}/{quote(service, safe=_PLAIN)}"


# What RFC 3986 lets stand in a path segment; a space, a slash and letters beyond ASCII do not.
_PLAIN: Final = "!$&'()*+,;=:@"


def _read_vm(text: _Text, part: str) -> UUID | str:
    name = text.decoded(part, "VM")
    if not name:
        text.wrong(
            part, "the VM is missing: parent, loopback, children, any, a VM's name or its id"
        )
    guid = text.guid(name)
    if guid is not None:
        return guid
    return NAMED_VMS.get(name.lower(), name)


def _read_service(text: _Text, part: str) -> UUID | str:
    name = text.decoded(part, "service")
    if not name:
        text.wrong(part, "the service is missing: a port, a GUID or a registered name")
    if _NUMBER.fullmatch(name):
        return service_id_of_port(text.number(name, "port", MAX_HV_PORT))
    if re.fullmatch(r"[-+][0-9]+", name):
        text.wrong(name, f"the port is a number from 0 to {MAX_HV_PORT}")
    return text.guid(name) or name


class HvsockAddress(_PartitionAddress):
    """A service of a virtual machine, or of its host, over a Hyper-V socket."""

    __slots__ = ()
    scheme = "hvsock"
    example = "hvsock://parent/50051"


class LocalAddress(_PartitionAddress):
    """The same on the emulated fabric."""

    __slots__ = ()
    scheme = "local"
    example = "local://loopback/50051"


@dataclass(frozen=True, slots=True, repr=False)
class VsockAddress(Address):
    """A port of a virtual machine, or of its host, over AF_VSOCK."""

    scheme = "vsock"
    example = "vsock://host/50051"

    cid: int
    port: int

    def with_port(self, port: int) -> VsockAddress:
        return VsockAddress(self.cid, port)

    @classmethod
    def _read(cls, text: _Text, rest: str) -> Self:
        cid, slash, port = rest.partition("/")
        if not slash:
            text.wrong(rest, "a port follows the CID, after a slash")
        number = NAMED_CIDS.get(cid.lower())
        if number is None:
            if not _NUMBER.fullmatch(cid):
                text.wrong(cid, "the CID is a number, host, local or any")
            number = text.number(cid, "CID", MAX_VSOCK_NUMBER)
        return cls(number, text.number(port, "port", MAX_VSOCK_NUMBER))

    def _rest(self) -> str:
        return f"{_NAME_OF_CID.get(self.cid, self.cid)}/{self.port}"


@dataclass(frozen=True, slots=True, repr=False)
class HybridAddress(Address):
    """A port of a VM whose vsock device is a UNIX socket on the host."""

    scheme = "hybrid"
    example = "hybrid:///run/vm/v.sock?port=50051"

    path: str
    port: int

    def with_port(self, port: int) -> HybridAddress:
        return HybridAddress(self.path, port)

    @classmethod
    def _read(cls, text: _Text, rest: str) -> Self:
        path, mark, query = rest.partition("?")
        key, equals, port = query.partition("=")
        if not mark or key != "port" or not equals:
            text.wrong(f"?{query}" if mark else rest, "the port follows the path, as ?port=…")
        return cls(_read_path(text, path), text.number(port, "port", MAX_VSOCK_NUMBER))

    def _rest(self) -> str:
        return f"{quote(self.path, safe='/' + _PLAIN)}?port={self.port}"


@dataclass(frozen=True, slots=True, repr=False)
class UnixAddress(Address):
    """A plain UNIX socket."""

    scheme = "unix"
    example = "unix:///run/service.sock"

    path: str

    @classmethod
    def _read(cls, text: _Text, rest: str) -> Self:
        return cls(_read_path(text, rest))

    def _rest(self) -> str:
        return quote(self.path, safe="/" + _PLAIN)


def _read_path(text: _Text, part: str) -> str:
    for mark in "?#":
        if mark in part:
            text.wrong(part[part.index(mark) :], f"a {mark} in a path is percent-encoded")
    path = text.decoded(part, "path")
    if not path.startswith("/"):
        text.wrong(part, "the path is absolute: three slashes follow the colon")
    if path.endswith("/"):
        text.wrong(part, "the path names a socket, not a folder")
    return path


@dataclass(frozen=True, slots=True, repr=False)
class TcpAddress(Address):
    """A plain TCP port."""

    scheme = "tcp"
    example = "tcp://127.0.0.1:50051"

    host: str
    port: int

    MAX_PORT: ClassVar[int] = 65535

    def with_port(self, port: int) -> TcpAddress:
        return TcpAddress(self.host, port)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @classmethod
    def _read(cls, text: _Text, rest: str) -> Self:
        host, colon, port = rest.rpartition(":")
        if not colon or not port:
            text.wrong(rest, "a port follows the host, after a colon")
        return cls(_read_host(text, host), text.number(port, "port", cls.MAX_PORT))

    def _rest(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def _read_host(text: _Text, part: str) -> str:
    if part.startswith("[") and part.endswith("]"):
        number, percent, zone = part[1:-1].partition("%")
        try:
            plain = str(ipaddress.IPv6Address(number))
        except ValueError:
            text.wrong(part, "between brackets stands an IPv6 address")
        if not _ZONE.fullmatch(percent + zone):
            text.wrong(part, "the zone of an IPv6 address is the name or number of an interface")
        return plain + percent + zone
    if ":" in part:
        text.wrong(part, "an IPv6 address stands between brackets: [::1]")
    if _DOTTED_NUMBERS.fullmatch(part):
        try:
            return str(ipaddress.IPv4Address(part))
        except ValueError:
            text.wrong(part, "this is not an IPv4 address")
    if len(part) > MAX_HOST or not _HOST.fullmatch(part):
        text.wrong(part, "the host is a name, an IPv4 address or an IPv6 address in brackets")
    return part.lower()


_ELSEWHERE: Final = re.compile(
    r"(?:dns:/*|ipv[46]:)?(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]+)"
    r"|(?:unix:)?(?P<path>/[^/].*)"
)
"""How grpcio and others write targets: `localhost:50051`, `dns:///web:50051`, `unix:/run/agent.sock`."""


def _meant(text: str) -> str | None:
    """The address for a target as others write it; None if there is none."""
    match = _ELSEWHERE.fullmatch(text)
    if match is None:
        return None
    if match["path"]:
        guess = f"unix://{match['path']}"
    elif match["host"] == "localhost" or re.fullmatch(r"[0-9.]+|\[.*\]", match["host"]):
        guess = f"tcp://{match['host']}:{match['port']}"
    else:  # any other name is a VM's sooner than that of a machine in a network
        guess = f"hvsock://{match['host']}/{match['port']}"
    try:
        return str(Address.parse(guess))
    except AddressError:
        return None


_KINDS: Final[dict[str, type[Address]]] = {
    kind.scheme: kind
    for kind in (
        HvsockAddress,
        VsockAddress,
        HybridAddress,
        LocalAddress,
        UnixAddress,
        TcpAddress,
    )
}
