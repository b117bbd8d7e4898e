"""Which VMs there are on this Windows host, and which one a name means.

    classic     Hyper-V's own: Get-VM, or its WMI classes where the PowerShell module is missing
    WSL, container, other
                what the Host Compute Service runs: hcsdiag; without the right to ask it, at least
                the ids, from the registry

A classic VM keeps its id for ever. One of WSL has a new one after each `wsl --shutdown`, and a
container one for each start, so an answer is kept for a few seconds only.
"""

from __future__ import annotations

import enum
import hashlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from ..errors import HvrpcError, PrivilegeError, UnknownName, UnsupportedError
from . import powershell, privileges
from .powershell import PowerShellError
from .registry import Store, open_registry

LIFETIME: Final = 5.0
"""Seconds for which an answer is used again: many connections are opened in that time, and asking
takes PowerShell about one."""

COMPUTE_SYSTEMS: Final = (
    r"SOFTWARE\Microsoft\Windows NT\CurrentVersion\HostComputeService\VolatileStore\ComputeSystem"
)
"""A key for each running system of the Host Compute Service. Everybody may read it."""


class Kind(enum.Enum):
    """What manages a VM. The rules about who may listen and connect differ between them."""

    CLASSIC = "classic"
    """Hyper-V itself: Get-VM shows it."""
    WSL = "WSL"
    CONTAINER = "container"
    OTHER = "other"
    """Run by the Host Compute Service for another program, Windows Sandbox for instance."""

    @property
    def routes_wildcards(self) -> bool:
        """Whether a listener of the host on `any` or `children` gets its calls.

        To a system of the Host Compute Service the host listens on the VM's id.
        """
        return self is Kind.CLASSIC


@dataclass(frozen=True, slots=True)
class VirtualMachine:
    """A VM of this host."""

    id: UUID
    name: str | None
    """None where only the id can be seen."""
    state: str
    """As Hyper-V says it: Running, Off, Paused, Saved …"""
    kind: Kind
    found_by: str

    def __str__(self) -> str:
        return f"{self.name or '(unnamed)'} ({self.id}, {self.kind.value}, {self.state})"


@dataclass(frozen=True, slots=True)
class Listing:
    """The VMs that could be found, and what could not be asked."""

    machines: tuple[VirtualMachine, ...] = ()
    problems: tuple[HvrpcError, ...] = ()
    """Why it may be incomplete."""
    asked_at: float = field(default=0.0, compare=False)


# --- Asking --------------------------------------------------------------------------------------

_CLASSIC_SCRIPT: Final = r"""
if (Get-Command -Name 'Hyper-V\Get-VM' -ErrorAction SilentlyContinue) {
    Hyper-V\Get-VM | ForEach-Object {
        @{ id = "$($_.Id)"; name = "$($_.Name)"; state = "$($_.State)"; by = 'Get-VM' } }
} else {
    $space = 'root\virtualization\v2'
    $states = @{}
    Get-CimInstance -Namespace $space -ClassName Msvm_ComputerSystem |
        ForEach-Object { $states["$($_.Name)"] = [int]$_.EnabledState }
    Get-CimInstance -Namespace $space -ClassName Msvm_VirtualSystemSettingData `
        -Filter "VirtualSystemType = 'Microsoft:Hyper-V:System:Realized'" | ForEach-Object {
            @{ id = "$($_.VirtualSystemIdentifier)"; name = "$($_.ElementName)"; by = 'WMI'
               state = $states["$($_.VirtualSystemIdentifier)"] } }
}
"""

_STATES: Final = {
    2: "Running",
    3: "Off",
    4: "Stopping",
    6: "Saved",
    9: "Paused",
    10: "Starting",
    32768: "Paused",
    32769: "Saved",
    32770: "Starting",
    32773: "Saving",
    32774: "Stopping",
    32776: "Pausing",
    32777: "Resuming",
}
"""EnabledState of Msvm_ComputerSystem, in the words of Get-VM."""

_NO_SUCH_NAMESPACE: Final = ("0x8004100e", "InvalidNamespace")
"""WBEM_E_INVALID_NAMESPACE: Hyper-V's WMI classes are not installed."""


def classic(timeout: float = powershell.LONGEST) -> list[VirtualMachine]:
    """Hyper-V's own VMs, running or not.

    Raises :class:`hvrpc.PrivilegeError` or :class:`hvrpc.UnsupportedError`.
    """
    try:
        found = read_classic(powershell.ask(_CLASSIC_SCRIPT, timeout=timeout))
    except PowerShellError as error:
        raise _explained(error) from error
    if not found and not privileges.current().may_use_vms:
        raise _may_not_look()  # WMI does not refuse: it shows nothing
    return found


def read_classic(answer: Iterable[Any]) -> list[VirtualMachine]:
    """VMs in what PowerShell has answered. What has no id is left out."""
    found = []
    for row in answer:
        vm = _guid(row.get("id")) if isinstance(row, Mapping) else None
        if vm is None:
            continue
        state = row.get("state")
        known = _STATES.get(state, f"state {state}") if isinstance(state, int) else state
        name, by = row.get("name"), row.get("by")
        found.append(
            VirtualMachine(vm, name or None, known or "unknown", Kind.CLASSIC, by or "PowerShell")
        )
    return found


def _guid(text: object) -> UUID | None:
    try:
        return UUID(str(text))
    except ValueError:
        return None


def _explained(error: PowerShellError) -> HvrpcError:
    """What went wrong when Hyper-V was asked."""
    if "permission" in error.problem.lower() or error.category in (
        "PermissionDenied",
        "SecurityError",
    ):
        return _may_not_look()
    if any(mark in f"{error.kind} {error.problem}" for mark in _NO_SUCH_NAMESPACE):
        return UnsupportedError(
            "",
            operation="list VMs",
            problem="this Windows does not run Hyper-V, or only the parts that WSL needs",
            remedy="on a host, turn on the Windows feature Hyper-V; in a guest, use"
            " hvsock://parent/…",
        )
    return UnsupportedError(
        "", operation="list VMs", problem=str(error), remedy="try Get-VM in PowerShell yourself"
    )


def _may_not_look() -> PrivilegeError:
    return PrivilegeError(
        "list VMs",
        problem="Hyper-V shows its VMs to administrators and members of Hyper-V Administrators only",
        remedy="give the VM's id, or become a member (it counts after logging off and on): as"
        " administrator",
        command=f"Add-LocalGroupMember -SID {privileges.HYPER_V_ADMINISTRATORS}"
        ' -Member "$env:USERDOMAIN\\$env:USERNAME"',
    )


def compute_systems(timeout: float = 10.0) -> list[VirtualMachine]:
    """What the Host Compute Service runs: WSL, containers, and classic VMs that are running."""
    try:
        done = subprocess.run(
            [powershell.of_system("hcsdiag.exe"), "list"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except subprocess.TimeoutExpired:
        raise UnsupportedError(
            "",
            operation="list VMs",
            problem=f"hcsdiag has not answered within {timeout:g} s",
            remedy="try again",
        ) from None
    except OSError:
        raise UnsupportedError(
            "",
            operation="list VMs",
            problem="there is no hcsdiag, so names of WSL and container VMs are not known",
            remedy="turn on the Windows feature Hyper-V or Virtual Machine Platform",
        ) from None
    if done.returncode:
        raise _may_not_look()
    return read_compute_systems(
        done.stdout.decode("oem" if sys.platform == "win32" else "utf-8", "replace")
    )


_VMMS: Final = "vmms"
"""Owner of Hyper-V's own VMs."""
_OF_CONTAINERS: Final = ("docker", "containerd", "hns", "runhcs", "cri")


def read_compute_systems(output: str) -> list[VirtualMachine]:
    """What `hcsdiag list` prints: an id, then a line `type, state, VM id, owner`."""
    found = []
    title = ""
    for line in output.lstrip("\ufeff").splitlines():
        if line and not line[0].isspace():
            title = line.strip()
            continue
        fields = [part.strip() for part in line.split(",", 3)]
        if len(fields) == 4 and (vm := _guid(fields[2])) is not None:
            kind, state, _, owner = fields
            found.append(
                VirtualMachine(
                    vm, _name_of(title, vm, owner), state, _kind_of(kind, owner), "hcsdiag"
                )
            )
    return found


def _kind_of(type_of_system: str, owner: str) -> Kind:
    if owner.casefold() == _VMMS:
        return Kind.CLASSIC
    if owner.casefold().startswith("wsl"):
        return Kind.WSL
    is_container = "container" in type_of_system.casefold()
    return (
        Kind.CONTAINER
        if is_container or owner.casefold().startswith(_OF_CONTAINERS)
        else Kind.OTHER
    )


def _name_of(title: str, vm: UUID, owner: str) -> str | None:
    """A container has a name of its own; a VM of WSL is called after its owner."""
    if owner.casefold() == _VMMS:
        return None  # Get-VM knows it better
    return owner or None if _guid(title) == vm else title


_CONTAINERS: Final = UUID("cab70344-facb-41e4-b5e5-ab6592283e6e")
"""What ids of containers are hashed with, to become ids of Hyper-V sockets."""


def id_of_container(name: str) -> UUID:
    """The id for Hyper-V sockets of a container that the Host Compute Service knows by this name."""
    digest = hashlib.sha1(_CONTAINERS.bytes + name.upper().encode("utf-16-le"))
    return UUID(bytes=digest.digest()[:16], version=5)


def running(store: Store | None = None) -> list[VirtualMachine]:
    """What runs, as everybody may see it: by id, and containers by name."""
    store = store or open_registry("list VMs")
    try:
        keys = store.subkeys(COMPUTE_SYSTEMS)
    except OSError:
        return []
    return [_running(key) for key in keys]


def _running(key: str) -> VirtualMachine:
    vm = _guid(key)
    if vm is not None:
        return VirtualMachine(vm, None, "Running", Kind.OTHER, "registry")
    return VirtualMachine(id_of_container(key), key, "Running", Kind.CONTAINER, "registry")


def list_all(timeout: float = powershell.LONGEST) -> Listing:
    """Every VM that can be seen from here, and what could not be asked."""
    if sys.platform != "win32":
        raise _only_on_a_host("")
    return merged([lambda: classic(timeout), lambda: compute_systems(timeout)], instead=running)


def merged(
    sources: Iterable[Callable[[], list[VirtualMachine]]],
    instead: Callable[[], list[VirtualMachine]] = list,
) -> Listing:
    """What several sources say; the first that knows a VM has the word about it.

    `instead` knows less, and is asked when one of the others could not tell.
    """
    machines: dict[UUID, VirtualMachine] = {}
    problems: list[HvrpcError] = []
    for source in sources:
        try:
            found = source()
        except HvrpcError as error:
            problems.append(error)
        else:
            machines = {vm.id: vm for vm in found} | machines
    if problems:
        machines = {vm.id: vm for vm in instead()} | machines
    ordered = sorted(machines.values(), key=lambda vm: (vm.name is None, vm.name or "", vm.id.int))
    return Listing(tuple(ordered), tuple(problems))


def _only_on_a_host(address: str, operation: str = "list VMs") -> UnsupportedError:
    return UnsupportedError(
        address,
        operation=operation,
        problem="VMs are known on their Windows host only",
        remedy="a guest reaches its host only, as hvsock://parent/…",
    )


# --- What a name means ---------------------------------------------------------------------------


class Directory:
    """Names of VMs, with answers that are kept for a short while.

    One question at a time: a hundred connections that come back at once shall not start a hundred
    PowerShells, so they wait for the one that is asking and take its answer.
    """

    def __init__(
        self,
        ask: Callable[[float], Listing] = list_all,
        *,
        lifetime: float = LIFETIME,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._lifetime = lifetime
        self._clock = clock
        self._asking = threading.Lock()
        self._latest: Listing | None = None

    def find(self, name: str, *, address: str, operation: str, timeout: float) -> VirtualMachine:
        """The VM with this name.

        Raises :class:`hvrpc.UnknownName` when there is none, or when several have it;
        :class:`hvrpc.PrivilegeError` and :class:`hvrpc.UnsupportedError` where nobody tells; and
        :class:`TimeoutError`.
        """
        began = self._clock()
        listing = self._listing(began - self._lifetime, timeout)
        if not _named(name, listing.machines):
            # It may have been made, or started, since then.
            left = timeout - (self._clock() - began)
            listing = self._listing(began, left)
        return choose(name, listing, address, operation)

    def _listing(self, not_before: float, timeout: float) -> Listing:
        deadline = self._clock() + timeout
        if not self._asking.acquire(timeout=max(0.0, timeout)):
            raise TimeoutError("Windows is still being asked for its VMs")
        try:
            latest = self._latest
            if latest is not None and latest.asked_at >= not_before:
                return latest
            asked_at = self._clock()
            listing = self._ask(max(0.1, deadline - asked_at))
            self._latest = Listing(listing.machines, listing.problems, asked_at)
            return self._latest
        finally:
            self._asking.release()


def choose(name: str, listing: Listing, address: str, operation: str) -> VirtualMachine:
    """The one VM that a name means."""
    found = _named(name, listing.machines)
    if len(found) == 1:
        return found[0]
    if found:
        raise UnknownName(
            address,
            operation=operation,
            problem=f"several VMs are called {name!r}",
            candidates=[str(vm) for vm in found],
            remedy="give the id of the one you mean",
        )
    if not listing.machines and listing.problems:
        raise _about(address, operation, listing.problems[0])
    hidden = "".join(f"; not all could be seen: {_in_short(e)}" for e in listing.problems[:1])
    raise UnknownName(
        address,
        operation=operation,
        problem=f"no VM is called {name!r}{hidden}",
        candidates=[str(vm) for vm in listing.machines],
        remedy="check the name (hvrpc vms lists them); a VM of WSL is there only while it runs",
    )


def _named(name: str, machines: Iterable[VirtualMachine]) -> list[VirtualMachine]:
    """Those with exactly that name; if there are none, those that differ in case only."""
    machines = list(machines)
    exact = [vm for vm in machines if vm.name == name]
    return exact or [vm for vm in machines if (vm.name or "").casefold() == name.casefold()]


def _about(address: str, operation: str, problem: HvrpcError) -> HvrpcError:
    """The same problem, as seen by somebody who wanted to open an address."""
    if isinstance(problem, PrivilegeError):
        return PrivilegeError(
            f"{operation} {address}",
            problem=problem.problem,
            remedy=problem.remedy,
            command=problem.command,
        )
    if isinstance(problem, UnsupportedError):
        return UnsupportedError(
            address, operation=operation, problem=problem.problem, remedy=problem.remedy
        )
    return problem


def _in_short(error: HvrpcError) -> str:
    return str(getattr(error, "problem", error))


directory: Final = Directory()
"""The names of this machine."""
