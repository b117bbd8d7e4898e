"""Machines of all sorts, as facts: what the doctor's checks judge in tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

from hvrpc.cli.doctor.machine import PACKAGES, Linux, Machine, Windows
from hvrpc.windows.guest import Identity
from hvrpc.windows.privileges import Privileges
from hvrpc.windows.virtual_machines import Kind, Listing, VirtualMachine

WEB = UUID("2e5c1f0a-7d0b-4b6e-9a67-3b8f1f6f9c11")
WSL = UUID("eed44daf-4f7e-4cf5-82fd-f9c8ebf8db82")
CLASSIC_VM = VirtualMachine(WEB, "web", "Running", Kind.CLASSIC, "Get-VM")
WSL_VM = VirtualMachine(WSL, "WSL", "Running", Kind.WSL, "hcsdiag")

NO_RIGHTS = Privileges(False, False)
ADMINISTRATOR = Privileges(True, False)
MEMBER = Privileges(False, True)

HOST = {
    "hypervisor": True,
    "model": "Precision 5550",
    "features": {"Microsoft-Hyper-V": True, "VirtualMachinePlatform": True},
    "services": {"vmms": "Running", "vmcompute": "Running"},
    "is_listed": False,
}
GUEST = {**HOST, "model": "Virtual Machine", "features": {}, "services": {}}


def machine(**settings: Any) -> Machine:
    plain = Machine(
        platform="Test-1.0",
        python=(3, 12, 4),
        packages=dict.fromkeys(PACKAGES, "1.0"),
        fabric=None,
        fabric_vm=None,
        identity=None,
    )
    return replace(plain, **settings)


def windows(*, python: tuple[int, int, int] = (3, 12, 4), **settings: Any) -> Machine:
    """A Windows host with Hyper-V, where nothing is wrong, unless told otherwise."""
    facts: dict[str, Any] = {
        "build": 22631,
        "hyperv_socket": 0,
        "privileges": ADMINISTRATOR,
        "vms": Listing((CLASSIC_VM,)),
        "system": HOST,
    }
    identity = settings.pop("identity", None)
    return machine(python=python, identity=identity, windows=Windows(**{**facts, **settings}))


def linux(*, fabric: str | None = None, **settings: Any) -> Machine:
    """A Linux guest of Hyper-V where nothing is wrong, unless told otherwise."""
    facts: dict[str, Any] = {
        "kernel": "6.8.0-45-generic",
        "hypervisor": "Hyper-V",
        "modules": frozenset({"vsock", "hv_sock", "hv_vmbus"}),
        "has_device": True,
        "python_has_vsock": True,
        "own_network": False,
    }
    known = Identity(WEB, "web", "host.example.org", "/var/lib/hyperv/.kvp_pool_3")
    identity = settings.pop("identity", known)
    return machine(fabric=fabric, identity=identity, linux=Linux(**{**facts, **settings}))
