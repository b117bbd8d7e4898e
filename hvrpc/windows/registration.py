"""Services that a Windows host offers its guests, in the host's registry.

A host that listens for guests has to have the service registered, once, by an administrator: a key
named after the service's id. Its `ElementName` is the friendly name that `hvsock://` addresses may
use. Nothing has to be registered in a guest, nor for a service that a guest offers to its host.

What is to be done is decided first (`_decide`), from what is there; then it is done, and undone if
it fails halfway. A key with a name, and `RegisteredBy`, is one that hvrpc made: `reset` removes
those. What belongs to Windows is shown and never touched.
"""

from __future__ import annotations

import enum
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote
from uuid import UUID

from ..addresses import (
    HV_GUID_WILDCARD,
    Address,
    HvsockAddress,
    port_of_service_id,
    service_id_of_port,
)
from ..errors import AddressError, PrivilegeError, RegistrationError, UnknownName
from . import privileges
from .registry import Store, open_registry

_VIRTUALIZATION: Final = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion\Virtualization"
KEY: Final = rf"{_VIRTUALIZATION}\GuestCommunicationServices"
"""Where the host keeps its services: one key per service id."""
OLDER_KEY: Final = (
    rf"{_VIRTUALIZATION}\VirtualDevices\6C09BB55-D683-4DA0-8931-C9BF705F6480"
    r"\GuestCommunicationServices"
)
"""Where the first builds of Windows 10 had them. Read, never written."""
ELEMENT_NAME: Final = "ElementName"
REGISTERED_BY: Final = "RegisteredBy"
US: Final = "hvrpc"
_OTHER_TOOLS: Final = "ToolName"
"""Where podman writes who it is."""

IN_BOX: Final = {
    UUID("999e53d4-3d5c-4c3e-8779-bed06ec056e1"): "PowerShell Direct",
    UUID("a5201c21-2770-4c11-a68e-f182edb29220"): "PowerShell Direct",
    UUID("6c09bb55-d683-4da0-8931-c9bf705f6480"): "Guest Service Interface",
    UUID("acef5661-84a1-4e44-856b-6245e69f4620"): "Guest Compute Service",
    UUID("ae8da506-a019-4553-a52b-902bc0fa0411"): "Guest Compute Service",
    UUID("172dad59-976d-45f2-8b6c-6d1b13f2ac4d"): "Guest Compute Service, its log",
    UUID("894cc2d6-9d79-424f-93fe-42969ae6d8d1"): "Guest Compute Service, its host",
}
"""Services of Windows itself that are known. Others of them are not ours either."""

FIRST_CHOSEN_PORT: Final = 20_000
LAST_CHOSEN_PORT: Final = 49_999
"""Ports for services that are registered without one: easy to type, and below those of WSL (50000)."""

LONGEST_NAME: Final = 255
"""Characters: as many as a key's name in the registry may have."""


class Origin(enum.Enum):
    """Who has registered a service."""

    HVRPC = "hvrpc"
    WINDOWS = "Windows"
    OTHER = "others"


@dataclass(frozen=True, slots=True)
class Service:
    """A service as the registry has it."""

    id: UUID
    name: str | None
    origin: Origin
    registered_by: str | None = None
    """The tool that says to have made it."""
    is_in_older_place: bool = False

    @property
    def port(self) -> int | None:
        """The port by which Linux guests know it, if it has one."""
        return port_of_service_id(self.id)

    @property
    def address(self) -> str:
        """Under which the host listens for it."""
        return str(HvsockAddress(HV_GUID_WILDCARD, self.id))

    def __str__(self) -> str:
        number = self.id if self.port is None else f"port {self.port}"
        return f"{self.name} ({number})" if self.name else str(number)


@dataclass(frozen=True, slots=True)
class Change:
    """What was done about a service, or would be."""

    service: Service
    was_there: bool
    """It was registered already, just so: nothing had to be done."""
    dry_run: bool = False


# --- What is there -------------------------------------------------------------------------------


def services(store: Store | None = None) -> list[Service]:
    """All services that are registered here: first those with a port, in order, then the others.

    Raises :class:`hvrpc.UnsupportedError` where there is no registry.
    """
    store = store or open_registry("list services")
    found = {service.id: service for service in _read(store, OLDER_KEY, older=True)}
    found |= {service.id: service for service in _read(store, KEY, older=False)}
    return sorted(found.values(), key=_order)


def _order(service: Service) -> tuple[bool, int]:
    return (service.port is None, service.port or service.id.int)


def _read(store: Store, place: str, older: bool) -> Iterator[Service]:
    for key in store.subkeys(place):
        try:
            service = UUID(key)
            values = store.values(rf"{place}\{key}")
        except (ValueError, OSError):
            continue  # no service's key, or one that only Windows may read
        if values is not None:
            yield _service(service, values, older)


def _service(service: UUID, values: dict[str, object], older: bool) -> Service:
    folded = {name.casefold(): value for name, value in values.items()}
    texts = {name: value for name, value in folded.items() if isinstance(value, str) and value}
    by = texts.get(REGISTERED_BY.casefold()) or texts.get(_OTHER_TOOLS.casefold())
    if service in IN_BOX:
        origin = Origin.WINDOWS
    else:
        origin = Origin.HVRPC if by == US and not older else Origin.OTHER
    return Service(service, texts.get(ELEMENT_NAME.casefold()), origin, by, older)


def find(which: str, store: Store | None = None, *, operation: str = "find service") -> Service:
    """The service with this name, port or GUID.

    Raises :class:`hvrpc.UnknownName` when there is none, or when several have that name.
    """
    return _find(which, services(store), which, operation)


def is_meant(which: str, service: Service) -> bool:
    """Whether a name, a port or a GUID means this service."""
    return any(same(service) for same in (_has_id(which), _is_called(which)))


def find_id(name: str, *, address: str, operation: str) -> UUID:
    """The id of the service with this name, for an address that is being opened."""
    return _find(name, services(), address, operation).id


def _find(which: str, among: list[Service], address: str, operation: str) -> Service:
    for same in (_has_id(which), _is_named(which), _is_called(which)):
        found = [service for service in among if same(service)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UnknownName(
                address,
                operation=operation,
                problem=f"several services are registered as {which!r}",
                candidates=[str(service) for service in found],
                remedy="give the port or the GUID of the one you mean",
            )
    raise UnknownName(
        address,
        operation=operation,
        problem=f"no service is registered as {which!r} here",
        candidates=[str(service) for service in among if service.origin is not Origin.WINDOWS],
        remedy=f"register it (hvrpc service register {_shown(which)}), or give its port or GUID",
    )


def _has_id(which: str) -> Callable[[Service], bool]:
    wanted = _read_id(which)
    return lambda service: service.id == wanted


def _is_named(which: str) -> Callable[[Service], bool]:
    return lambda service: service.name == which


def _is_called(which: str) -> Callable[[Service], bool]:
    """The same, as people remember names: in upper or lower case."""
    wanted = which.casefold()
    return lambda service: service.name is not None and service.name.casefold() == wanted


def _read_id(which: str) -> UUID | None:
    """A port or a GUID as people write it; None for a name."""
    try:
        address = Address.parse(f"hvsock://any/{quote(which, safe='')}")
    except AddressError:
        return None
    assert isinstance(address, HvsockAddress)
    return address.service if isinstance(address.service, UUID) else None


# --- What is to be done --------------------------------------------------------------------------


def wanted(name: str, *, port: int | None = None, guid: UUID | str | None = None) -> Service:
    """The service that somebody wants to have registered, before one looks at what is there.

    Without a port and a GUID it gets a port that follows from its name, so it is the same one on
    every host. Raises :class:`hvrpc.RegistrationError` for a name or a number that cannot be.
    """
    _check_name(name)
    if port is not None and guid is not None:
        raise _refused(name, "a port and a GUID are two ways to say the same", "give one of them")
    if guid is not None:
        return _ours(name, _checked_guid(name, guid))
    if port is None:
        port = next(_ports_for(name))
    try:
        service = service_id_of_port(port)
    except ValueError as error:
        raise _refused(name, str(error), "give another port") from error
    if port == 0:
        raise _refused(name, "port 0 stands for any free port", "give a port from 1 on")
    return _ours(name, service)


def _check_name(name: str) -> None:
    if _read_id(name) is not None:
        raise _refused(name, "that is a number, which needs no name", "give it a name, and --port")
    try:
        Address.parse(f"hvsock://any/{quote(name, safe='')}")
    except AddressError as error:
        raise _refused(name, error.problem, "choose another name") from error
    if len(name) > LONGEST_NAME:
        raise _refused(
            name, f"a name has at most {LONGEST_NAME} characters", "choose a shorter one"
        )


def _checked_guid(name: str, guid: UUID | str) -> UUID:
    service = guid if isinstance(guid, UUID) else _read_id(guid)
    if service is None:
        raise _refused(
            name, f"{guid!r} is no GUID", "give 8-4-4-4-12 hexadecimal digits, or --port"
        )
    if service in IN_BOX:
        raise _refused(name, f"that id is Windows' own ({IN_BOX[service]})", "choose another one")
    return service


def _ports_for(name: str) -> Iterator[int]:
    """Every port that may be chosen, beginning with the one that the name leads to."""
    count = LAST_CHOSEN_PORT - FIRST_CHOSEN_PORT + 1
    begin = int.from_bytes(hashlib.sha256(name.casefold().encode()).digest()[:8], "big")
    return (FIRST_CHOSEN_PORT + (begin + step) % count for step in range(count))


def _ours(name: str, service: UUID) -> Service:
    return Service(service, name, Origin.HVRPC, US)


def _decide(service: Service, there: list[Service], chosen: bool) -> Service | None:
    """What is registered already and will do; None if the service has to be written.

    `chosen`: its number is one that the user has chosen, so another one will not do.
    """
    namesakes = [other for other in there if _is_called(service.name or "")(other)]
    for other in namesakes:
        if other.id == service.id or not chosen:
            return other
    if namesakes:
        raise _refused(
            service.name or "",
            f"that name is taken by {namesakes[0]}",
            "choose another name, or remove that one first",
        )
    same = next((other for other in there if other.id == service.id), None)
    if same is None or (same.name is None and same.registered_by in (None, US)):
        return None  # or what a crash has left of it: a key without a name, which is completed
    by = f", by {same.registered_by}" if same.registered_by else ""
    raise _refused(
        service.name or "",
        f"{same} is registered already{by}; guests can call it as it is",
        "use it, or choose another number",
    )


def _refused(name: str, problem: str, remedy: str) -> RegistrationError:
    return RegistrationError(
        _shown(name), operation="register service", problem=problem, remedy=remedy
    )


def _shown(name: str) -> str:
    return name if name.isprintable() and " " not in name and name else repr(name)


# --- Doing it ------------------------------------------------------------------------------------


def register(
    name: str,
    *,
    port: int | None = None,
    guid: UUID | str | None = None,
    dry_run: bool = False,
    store: Store | None = None,
) -> Change:
    """Register a service of this host, so that guests may call it. What exists is left as it is.

    Raises :class:`hvrpc.RegistrationError` for what cannot be, :class:`hvrpc.PrivilegeError` with the
    command for an administrator, :class:`hvrpc.UnsupportedError` where there is no registry. In all
    of these cases nothing has been changed.
    """
    service = wanted(name, port=port, guid=guid)
    store = store or open_registry("register service", name)
    there = services(store)
    chosen = port is not None or guid is not None
    if not chosen:
        service = _with_free_port(service, there)
    found = _decide(service, there, chosen)
    if found is not None:
        return Change(found, was_there=True, dry_run=dry_run)
    if not dry_run:
        with _as_administrator("register", f"register service {_shown(name)}", *_words(service)):
            _write(store, service)
    return Change(service, was_there=False, dry_run=dry_run)


def _with_free_port(service: Service, there: list[Service]) -> Service:
    assert service.name is not None
    taken = {other.port for other in there if not _is_called(service.name)(other)}
    free = (port for port in _ports_for(service.name) if port not in taken)
    return _ours(service.name, service_id_of_port(next(free)))


def _words(service: Service) -> Iterable[str]:
    """What identifies a service on the command line."""
    assert service.name is not None
    number = ("--guid", str(service.id)) if service.port is None else ("--port", str(service.port))
    return (service.name, *number)


def _write(store: Store, service: Service) -> None:
    """All of it, or nothing. Who made it comes first: what a crash leaves can be completed."""
    assert service.name is not None
    path = rf"{KEY}\{service.id}"
    is_new = store.create(path)
    try:
        store.set_text(path, REGISTERED_BY, US)
        store.set_text(path, ELEMENT_NAME, service.name)
    except BaseException:
        if is_new:
            store.delete(path)
        raise


def remove(
    which: str, *, others: bool = False, dry_run: bool = False, store: Store | None = None
) -> Service:
    """Remove the service with this name, port or GUID, and return what it was.

    `others`: although another program, or a person, has registered it. Windows' own are never removed.
    Raises :class:`hvrpc.UnknownName`, :class:`hvrpc.RegistrationError`, :class:`hvrpc.PrivilegeError`.
    """
    store = store or open_registry("remove service", which)
    service = find(which, store, operation="remove service")
    if reason := _not_ours(service, others):
        raise RegistrationError(
            str(service), operation="remove service", problem=reason[0], remedy=reason[1]
        )
    if not dry_run:
        option = ("--others",) if others else ()
        with _as_administrator("remove", f"remove service {service}", which, *option):
            store.delete(_path(service, store))
    return service


def _not_ours(service: Service, others: bool) -> tuple[str, str] | None:
    """Why it may not be removed, and what to do."""
    if service.origin is Origin.WINDOWS:
        return f"it belongs to Windows ({IN_BOX[service.id]})", "leave it where it is"
    if service.is_in_older_place:
        return (
            "it stands where early builds of Windows 10 had it",
            f"remove it there: HKLM\\{OLDER_KEY}",
        )
    if service.origin is Origin.OTHER and not others:
        by = service.registered_by or "somebody else, Windows perhaps"
        return f"it was registered by {by}", "say --others if you are sure that nobody needs it"
    return None


def _path(service: Service, store: Store) -> str:
    """The key of a service, as somebody may have written it: with braces, or in upper case."""
    for key in store.subkeys(KEY):
        try:
            if UUID(key) == service.id:
                return rf"{KEY}\{key}"
        except ValueError:
            continue
    return rf"{KEY}\{service.id}"


def reset(*, dry_run: bool = False, store: Store | None = None) -> list[Service]:
    """Remove everything that hvrpc has registered, and return it."""
    store = store or open_registry("remove all services")
    ours = [service for service in services(store) if service.origin is Origin.HVRPC]
    if ours and not dry_run:
        with _as_administrator("reset", "remove all services of hvrpc"):
            for service in ours:
                store.delete(_path(service, store))
    return ours


@contextmanager
def _as_administrator(command: str, operation: str, *words: str) -> Iterator[None]:
    """Explain a refusal of the system by the command that an administrator has to run."""
    try:
        yield
    except PermissionError as error:
        raise PrivilegeError(
            operation,
            problem="the system lets only an administrator write services",
            remedy="run this in PowerShell, and confirm the question that Windows asks",
            command=privileges.elevated("service", command, *words),
        ) from error


def can_write() -> bool:
    """Whether this process may register services, without trying."""
    return sys.platform == "win32" and privileges.current().is_administrator
