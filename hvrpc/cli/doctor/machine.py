"""What can be seen of this machine without changing it: facts, and no opinion about them."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ... import __version__
from ...addresses import AF_HYPERV
from ...errors import HvrpcError, UnsupportedError
from ...sockets.fabric import FABRIC_VARIABLE, VM_VARIABLE
from ...windows import guest, powershell, privileges, registration, virtual_machines
from ...windows.guest import Identity
from ...windows.privileges import Privileges
from ...windows.registration import Service
from ...windows.virtual_machines import Listing

PACKAGES: Final = ("msgpack", "tenacity", "grpcio", "protobuf", "hpack", "grpcio-tools", "uvloop")
"""What hvrpc uses, all of it or with an extra."""


@dataclass(frozen=True, slots=True)
class Windows:
    """What only a Windows has."""

    build: int
    hyperv_socket: int | None
    """The error of opening a Hyper-V socket, without connecting it: 0 for none, None: no AF_HYPERV."""
    privileges: Privileges
    services: tuple[Service, ...] = ()
    vms: Listing = field(default_factory=Listing)
    system: dict[str, Any] = field(default_factory=dict)
    """What PowerShell has told: see `_SYSTEM_SCRIPT`."""
    system_problem: str = ""
    """Why it has told nothing."""


@dataclass(frozen=True, slots=True)
class Linux:
    """What only a Linux has."""

    kernel: str
    hypervisor: str | None
    """Who made the machine, as far as it tells: "Microsoft", "KVM", "WSL" …"""
    modules: frozenset[str]
    """Modules of VM sockets that are loaded or built in."""
    has_device: bool
    """Whether there is /dev/vsock."""
    python_has_vsock: bool
    own_network: bool
    """Whether this process is in a network namespace of its own, a container's say."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Where this process runs."""

    platform: str
    python: tuple[int, int, int]
    packages: dict[str, str | None]
    """Version by name; None: not installed."""
    fabric: str | None
    fabric_vm: str | None
    identity: Identity | None
    windows: Windows | None = None
    linux: Linux | None = None
    hvrpc: str = __version__


def look() -> Machine:
    """Look at this machine. Takes a few seconds on Windows, which is asked through PowerShell."""
    return Machine(
        platform=platform.platform(),
        python=sys.version_info[:3],
        packages={name: _version(name) for name in PACKAGES},
        fabric=os.environ.get(FABRIC_VARIABLE) or None,
        fabric_vm=os.environ.get(VM_VARIABLE) or None,
        identity=guest.identity(),
        windows=_look_at_windows(),
        linux=look_at_linux() if sys.platform.startswith("linux") else None,
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


# --- Windows -------------------------------------------------------------------------------------

_SYSTEM_SCRIPT: Final = r"""
$computer = Get-CimInstance -ClassName Win32_ComputerSystem
$features = @{}
Get-CimInstance -ClassName Win32_OptionalFeature -Filter ("Name = 'Microsoft-Hyper-V' OR " +
    "Name = 'VirtualMachinePlatform'") | ForEach-Object { $features[$_.Name] = $_.InstallState -eq 1 }
$services = @{}
Get-Service -Name vmms, vmcompute -ErrorAction SilentlyContinue |
    ForEach-Object { $services[$_.Name] = "$($_.Status)" }
$members = $null
try { $members = @(Get-LocalGroupMember -SID S-1-5-32-578 | ForEach-Object { "$($_.SID.Value)" }) }
catch { }
@{ hypervisor = [bool]$computer.HypervisorPresent; model = "$($computer.Model)"
   features = $features; services = $services; members = $members
   user = "$([Security.Principal.WindowsIdentity]::GetCurrent().User.Value)" }
"""


def _look_at_windows() -> Windows | None:
    if sys.platform != "win32":
        return None
    try:
        (system,), trouble = powershell.ask(_SYSTEM_SCRIPT), ""
    except (powershell.PowerShellError, TimeoutError, ValueError) as error:
        system, trouble = {}, str(error)
    # Reports are shown to others, whom ids of users do not concern.
    user, members = system.pop("user", None), system.pop("members", None)
    system["is_listed"] = user in (members or ())
    return Windows(
        build=sys.getwindowsversion().build,
        hyperv_socket=_open_hyperv_socket(),
        privileges=privileges.current(),
        services=tuple(registration.services()),
        vms=_vms(),
        system=system,
        system_problem=trouble,
    )


def _vms() -> Listing:
    try:
        return virtual_machines.list_all()
    except HvrpcError as error:
        return Listing((), (error,))
    except TimeoutError as error:
        late = UnsupportedError("", operation="list VMs", problem=str(error), remedy="try again")
        return Listing((), (late,))


def _open_hyperv_socket() -> int | None:
    """Open one and close it again: nothing is called by that."""
    if not hasattr(socket, "AF_HYPERV"):
        return None
    family: Any = AF_HYPERV
    try:
        socket.socket(family, socket.SOCK_STREAM, 1).close()
    except OSError as error:
        return getattr(error, "winerror", None) or error.errno or -1
    return 0


# --- Linux ---------------------------------------------------------------------------------------

MODULES: Final = (
    "vsock",
    "hv_sock",
    "vmw_vsock_virtio_transport",
    "vmw_vsock_vmci_transport",
    "vsock_loopback",
    "vhost_vsock",
    "hv_vmbus",
)


def look_at_linux(root: Path = Path("/")) -> Linux:
    """The same for Linux, from files only."""
    kernel = _read(root / "proc/sys/kernel/osrelease")
    return Linux(
        kernel=kernel,
        hypervisor=_hypervisor(root, kernel),
        modules=frozenset(name for name in MODULES if _has_module(root, kernel, name)),
        has_device=(root / "dev/vsock").exists(),
        python_has_vsock=hasattr(socket, "AF_VSOCK"),
        own_network=_has_own_network(root),
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _has_module(root: Path, kernel: str, name: str) -> bool:
    """Loaded modules have a folder; most of those that are built in have one too."""
    if (root / "sys/module" / name).exists():
        return True
    built_in = _read(root / "lib/modules" / kernel / "modules.builtin")
    return any(Path(line).stem == name for line in built_in.splitlines())


def _hypervisor(root: Path, kernel: str) -> str | None:
    if "microsoft" in kernel.casefold():
        return "WSL"
    vendor = _read(root / "sys/class/dmi/id/sys_vendor")
    product = _read(root / "sys/class/dmi/id/product_name")
    if vendor == "Microsoft Corporation" and product == "Virtual Machine":
        return "Hyper-V"
    if (
        "hypervisor"
        in _read(root / "proc/cpuinfo").partition("flags")[2].partition("\n")[0].split()
    ):
        return product or vendor or "a hypervisor that does not say its name"
    return None


def _has_own_network(root: Path) -> bool:
    try:
        return os.readlink(root / "proc/self/ns/net") != os.readlink(root / "proc/1/ns/net")
    except OSError:
        return False
