"""What the facts mean. Nothing is looked at here, so every machine can be judged in a test."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from typing import Final

from ...addresses import (
    HV_GUID_CHILDREN,
    HV_GUID_LOOPBACK,
    HV_GUID_PARENT,
    HV_GUID_WILDCARD,
    Address,
    HvsockAddress,
    VsockAddress,
)
from ...errors import PrivilegeError
from ...windows import registration
from ...windows.privileges import HYPER_V_ADMINISTRATORS
from ...windows.registration import Origin
from ...windows.virtual_machines import Kind
from .findings import Finding, note, ok, problem
from .machine import Machine, Windows

OLDEST: Final = (3, 11)
OLDEST_ON_WINDOWS: Final = (3, 12)
"""Since then Python has Hyper-V sockets."""
KEEPS_PAUSED_CONNECTIONS: Final = 16299
"""Build of Windows 10 version 1709, which has HVSOCKET_CONNECTED_SUSPEND."""
EXTRAS: Final = {"grpc": ("grpcio", "protobuf", "hpack"), "codegen": ("grpcio-tools",)}
BECOME_A_MEMBER: Final = (
    f"    Add-LocalGroupMember -SID {HYPER_V_ADMINISTRATORS}"
    ' -Member "$env:USERDOMAIN\\$env:USERNAME"'
)
LOG_OFF: Final = "log off and on again: membership counts only for those who logged on after it"

Check = Callable[[Machine, Address | None], Iterator[Finding]]


def judge(machine: Machine, address: Address | None = None) -> list[Finding]:
    """Everything there is to say about a machine, for an address if one is given."""
    return [finding for check in CHECKS for finding in check(machine, address)]


# --- Everywhere ----------------------------------------------------------------------------------


def python(machine: Machine, address: Address | None) -> Iterator[Finding]:
    oldest = OLDEST_ON_WINDOWS if machine.windows else OLDEST
    version = ".".join(map(str, machine.python))
    if machine.python >= oldest:
        yield ok("Python", f"{version}, on {machine.platform}")
        return
    why = " for Hyper-V sockets on Windows" if machine.windows else ""
    needed = ".".join(map(str, oldest))
    yield problem("Python", f"{version} is too old{why}", f"install Python {needed} or later")


def packages(machine: Machine, address: Address | None) -> Iterator[Finding]:
    lacking = [
        extra
        for extra, names in EXTRAS.items()
        if any(machine.packages.get(name) is None for name in names)
    ]
    there = ", ".join(f"{name} {version}" for name, version in machine.packages.items() if version)
    yield ok("hvrpc", f"{machine.hvrpc} with {there}")
    if lacking:
        yield note(
            "hvrpc",
            f"not installed: what gRPC or its code generator need (extras {', '.join(lacking)})",
            f'if you want it:\n    python -m pip install "hvrpc[{",".join(lacking)}]"',
        )


def fabric(machine: Machine, address: Address | None) -> Iterator[Finding]:
    if machine.fabric is None:
        if machine.fabric_vm is not None:
            yield note("emulated fabric", "HVRPC_FABRIC_VM is set, and HVRPC_FABRIC is not")
        return
    here = f"the VM {machine.fabric_vm}" if machine.fabric_vm else "the host"
    yield note(
        "emulated fabric",
        f"hvsock:// addresses go over the emulated fabric {machine.fabric!r}, where this is {here}",
        "unset HVRPC_FABRIC to use real Hyper-V sockets",
    )


def identity(machine: Machine, address: Address | None) -> Iterator[Finding]:
    known = machine.identity
    if known is not None:
        name = f"{known.name}, " if known.name else ""
        host = f", on {known.host}" if known.host else ""
        yield ok("this guest", f"{name}id {known.id}{host} (told by {known.found_by})")
    elif machine.linux and machine.linux.hypervisor == "Hyper-V":
        yield note(
            "this guest",
            "its host has not told its name and id; calling the host works without that",
            "if you want them: install hyperv-daemons (Debian) or linux-cloud-tools (Ubuntu), and turn"
            " on Data Exchange in the VM's integration services",
        )


# --- Windows -------------------------------------------------------------------------------------


def hyperv_sockets(machine: Machine, address: Address | None) -> Iterator[Finding]:
    windows = machine.windows
    if windows is None or machine.python < OLDEST_ON_WINDOWS:
        return
    about = "Hyper-V sockets"
    if windows.hyperv_socket is None:
        yield problem(about, "this Python was built without them", "use the one of python.org")
    elif windows.hyperv_socket == 0:
        yield ok(about, f"can be opened (Windows build {windows.build})")
        if windows.build < KEEPS_PAUSED_CONNECTIONS:
            yield note(about, "a VM that is paused loses its connections in this build of Windows")
    else:
        yield problem(
            about,
            f"cannot be opened here (error {windows.hyperv_socket})",
            "on a host, turn on the Windows feature Hyper-V, or Virtual Machine Platform for WSL, and"
            " restart",
        )


def features(machine: Machine, address: Address | None) -> Iterator[Finding]:
    windows = machine.windows
    if windows is None:
        return
    about = "Hyper-V"
    if windows.system_problem:
        yield note(about, f"what is turned on could not be asked: {windows.system_problem}")
        return
    on = [name for name, is_on in _mapping(windows, "features").items() if is_on]
    running = [name for name, state in _mapping(windows, "services").items() if state == "Running"]
    if _is_guest(machine):
        yield ok(about, f"this Windows is a guest ({windows.system.get('model')})")
    if "Microsoft-Hyper-V" in on and "vmms" not in running:
        yield problem(
            about,
            "it is turned on, and its service vmms does not run",
            "start it, as administrator; if it does not start, virtualization may be off in the"
            " firmware:\n    Start-Service vmms",
        )
    elif on:
        services = f", with {' and '.join(running)}" if running else ""
        yield ok(about, f"{' and '.join(on)} is turned on{services}")
    elif not _is_guest(machine):
        yield problem(
            about,
            "neither Hyper-V nor the Virtual Machine Platform is turned on",
            "turn it on, as administrator, and restart:\n"
            "    Enable-WindowsOptionalFeature -Online -FeatureName Microsoft-Hyper-V -All",
        )


def _mapping(windows: Windows, name: str) -> dict[str, object]:
    found = windows.system.get(name)
    return found if isinstance(found, dict) else {}


def _is_guest(machine: Machine) -> bool:
    model = machine.windows.system.get("model") if machine.windows else None
    return machine.identity is not None or model == "Virtual Machine"


def rights(machine: Machine, address: Address | None) -> Iterator[Finding]:
    windows = machine.windows
    if windows is None or (_is_guest(machine) and not windows.vms.machines):
        return
    about = "privileges"
    if windows.privileges.is_administrator:
        yield ok(about, "this process runs as administrator")
    elif windows.privileges.is_hyper_v_administrator:
        yield ok(about, "the user is in Hyper-V Administrators; registering takes an administrator")
    elif windows.system.get("is_listed"):
        yield problem(
            about,
            "the user is in Hyper-V Administrators, and this process does not know it yet",
            LOG_OFF,
        )
    else:
        yield problem(
            about,
            "neither administrator nor in Hyper-V Administrators: classic VMs can neither be seen nor"
            " called (those of WSL can, by their id)",
            f"as administrator, then {LOG_OFF}:\n{BECOME_A_MEMBER}",
        )


def registered(machine: Machine, address: Address | None) -> Iterator[Finding]:
    windows = machine.windows
    if windows is None:
        return
    about = "registration"
    wanted = _offered_by_the_host(address)
    if wanted is not None:
        meant = str(wanted.service)
        found = next((one for one in windows.services if registration.is_meant(meant, one)), None)
        if found is not None:
            yield ok(about, f"{found} is registered: guests may call it")
        else:
            yield problem(
                about,
                f"the service of {address} is not registered, so no guest can call it on this host",
                f"as administrator:\n    hvrpc service register {_named(wanted)}",
            )
        return
    ours = [str(service) for service in windows.services if service.origin is Origin.HVRPC]
    if ours:
        yield ok(about, f"{', '.join(ours)}: guests may call this host on it")
    elif not _is_guest(machine):
        yield note(
            about,
            "hvrpc has registered nothing here; it is needed only where the host listens for guests",
            "hvrpc service register NAME, as administrator",
        )


def _named(address: HvsockAddress) -> str:
    """The service of an address, in the words of `hvrpc service register`."""
    if isinstance(address.service, str):
        return subprocess.list2cmdline([address.service])
    number = f"--guid {address.service}" if address.port is None else f"--port {address.port}"
    return f"NAME {number}"


def _offered_by_the_host(address: Address | None) -> HvsockAddress | None:
    """An address that a host listens on: a wildcard, and not what it calls itself."""
    listening = (HV_GUID_WILDCARD, HV_GUID_CHILDREN)
    is_one = isinstance(address, HvsockAddress) and address.vm in listening
    return address if is_one and isinstance(address, HvsockAddress) else None


def wildcards(machine: Machine, address: Address | None) -> Iterator[Finding]:
    windows = machine.windows
    if windows is None or not windows.vms.machines:
        return
    others = [vm for vm in windows.vms.machines if not vm.kind.routes_wildcards]
    if not others:
        yield ok("wildcards", "all VMs are classic ones: they reach a listener on hvsock://any/…")
        return
    names = ", ".join(f"{vm.name or vm.id} ({vm.kind.value})" for vm in others)
    yield note(
        "wildcards",
        f"a listener on hvsock://any/… looks healthy and gets no calls from {names}",
        f"for those listen on the VM's id, hvsock://{others[0].id}/PORT; an id of WSL changes with"
        " each wsl --shutdown",
    )


def vms(machine: Machine, address: Address | None) -> Iterator[Finding]:
    windows = machine.windows
    if windows is None:
        return
    listing = windows.vms
    classic = sum(vm.kind is Kind.CLASSIC for vm in listing.machines)
    for error in listing.problems:
        # Without the right to look it has been said already, and a guest has no VMs to show.
        if not isinstance(error, PrivilegeError) and not _is_guest(machine):
            why = getattr(error, "problem", error)
            yield note("VMs", f"not all could be seen: {why}", str(getattr(error, "remedy", "")))
    if listing.machines:
        total = len(listing.machines)
        yield ok("VMs", f"{total} can be seen, {classic} of them classic; hvrpc vms lists them")


def called_vm(machine: Machine, address: Address | None) -> Iterator[Finding]:
    """Whether the VM that an address calls is one that runs. Its name is looked up when it is called."""
    windows = machine.windows
    if windows is None or machine.fabric is not None or not isinstance(address, HvsockAddress):
        return
    named = str(address.vm).casefold()
    found = [vm for vm in windows.vms.machines if named in (str(vm.id), (vm.name or "").casefold())]
    if len(found) == 1 and found[0].state != "Running":
        (vm,) = found
        start = (
            f"Get-VM -Id {vm.id} | Resume-VM"
            if vm.state == "Paused"
            else f"Get-VM -Id {vm.id} | Start-VM"
        )
        yield problem("the VM", f"{vm.name or vm.id} is {vm.state}", f"start it:\n    {start}")
    elif len(found) == 1:
        yield ok("the VM", f"{found[0].name or found[0].id} is running")


# --- Linux ---------------------------------------------------------------------------------------

_TRANSPORTS: Final = {
    "hv_sock": "Hyper-V",
    "vmw_vsock_virtio_transport": "virtio (KVM, Firecracker and others)",
    "vmw_vsock_vmci_transport": "VMware",
}


def hypervisor(machine: Machine, address: Address | None) -> Iterator[Finding]:
    linux = machine.linux
    if linux is None:
        return
    if linux.hypervisor is None:
        yield note(
            "virtual machine",
            "this does not look like one, so there is no host to call",
            "use it as a KVM host (vsock://CID/PORT), or try things out on the emulated fabric:"
            " local://loopback/5000",
        )
    else:
        yield ok("virtual machine", f"of {linux.hypervisor}, kernel {linux.kernel}")


def vm_sockets(machine: Machine, address: Address | None) -> Iterator[Finding]:
    linux = machine.linux
    if linux is None:
        return
    about = "VM sockets"
    needs_them = isinstance(address, VsockAddress | HvsockAddress) and machine.fabric is None
    is_hyper_v = linux.hypervisor in ("Hyper-V", "WSL")
    bad = problem if needs_them or is_hyper_v else note
    if not linux.python_has_vsock:
        yield bad(about, "this Python was built without AF_VSOCK", "use your distribution's Python")
        return
    transports = [name for name in _TRANSPORTS if name in linux.modules]
    if transports:
        names = ", ".join(f"{name}, for {_TRANSPORTS[name]}" for name in transports)
        yield ok(about, f"there is a way to the host: {names}")
    else:
        wanted = "hv_sock" if is_hyper_v else "vmw_vsock_virtio_transport"
        also = "; on a KVM host: vhost_vsock; to call oneself: vsock_loopback"
        yield bad(
            about,
            "the kernel has no way to a host loaded",
            f"load it{'' if is_hyper_v else also}:\n    modprobe {wanted}",
        )
    if is_hyper_v and transports and "hv_sock" not in transports:
        yield problem(
            about,
            "this is a guest of Hyper-V, and hv_sock is not loaded",
            "load it:\n    modprobe hv_sock",
        )
    if transports and not linux.has_device:
        yield note(about, "there is no /dev/vsock: the own CID cannot be asked; calling works")
    if linux.own_network and "hv_sock" in linux.modules:
        yield problem(
            about,
            "this process is in a network namespace of its own, where hv_sock does not work",
            "run it in the machine's network (docker run --network host)",
        )


def kernel(machine: Machine, address: Address | None) -> Iterator[Finding]:
    linux = machine.linux
    if linux is None or linux.hypervisor not in ("Hyper-V", "WSL"):
        return
    version = _kernel_version(linux.kernel)
    if version < (4, 14):
        yield problem("kernel", f"{linux.kernel} is too old for hv_sock to be whole", "update it")
    elif version < (5, 3):
        yield note(
            "kernel",
            f"{linux.kernel}: closing an hv_sock connection may hang or lose data before 5.3",
            "update it",
        )
    elif version < (6, 1):
        yield note("kernel", f"{linux.kernel}: a waiting receiver may sleep for ever before 6.1")
    elif (6, 17) <= version <= (7, 0):
        yield note(
            "kernel",
            f"{linux.kernel} may report the end of a connection as an error; hvrpc knows that one",
        )


def _kernel_version(release: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", release)
    return (int(found[1]), int(found[2])) if found else (99, 0)


def addressed(machine: Machine, address: Address | None) -> Iterator[Finding]:
    """What can be said of an address before it is tried."""
    if not isinstance(address, HvsockAddress) or machine.fabric is not None:
        return
    if machine.linux is not None and address.vm not in (
        HV_GUID_PARENT,
        HV_GUID_LOOPBACK,
        HV_GUID_WILDCARD,
    ):
        yield problem(
            "address",
            f"{address}: a Linux guest of Hyper-V reaches its host only",
            "call hvsock://parent/PORT; under KVM, vsock://CID/PORT",
        )
    if machine.linux is not None and address.port is None:
        yield problem(
            "address", f"{address}: Linux knows services by port only", "use hvsock://parent/PORT"
        )


CHECKS: Final[tuple[Check, ...]] = (
    python,
    packages,
    fabric,
    identity,
    hyperv_sockets,
    features,
    rights,
    registered,
    vms,
    wildcards,
    called_vm,
    hypervisor,
    vm_sockets,
    kernel,
    addressed,
)
