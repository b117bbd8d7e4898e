"""What is looked at on Linux, from files laid out like those of real machines."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from hvrpc.cli.doctor import machine
from hvrpc.cli.doctor.machine import look_at_linux

CPU = "processor\t: 0\nflags\t\t: fpu vme{}\nbugs\t\t: spectre_v1\n"


def root(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return folder


HYPER_V = {
    "proc/sys/kernel/osrelease": "6.8.0-45-generic\n",
    "proc/cpuinfo": CPU.format(" hypervisor"),
    "sys/class/dmi/id/sys_vendor": "Microsoft Corporation\n",
    "sys/class/dmi/id/product_name": "Virtual Machine\n",
    "sys/module/hv_sock/x": "",
    "dev/vsock": "",
}


def test_a_guest_of_hyper_v(tmp_path: Path) -> None:
    seen = look_at_linux(root(tmp_path, HYPER_V))
    assert (seen.kernel, seen.hypervisor) == ("6.8.0-45-generic", "Hyper-V")
    assert seen.modules == {"hv_sock"}
    assert seen.has_device


@pytest.mark.parametrize(
    ("files", "hypervisor"),
    [
        ({"proc/sys/kernel/osrelease": "5.15.167.4-microsoft-standard-WSL2"}, "WSL"),
        ({"sys/class/dmi/id/product_name": "KVM\n"}, "KVM"),
        (
            {"sys/class/dmi/id/sys_vendor": "QEMU", "sys/class/dmi/id/product_name": ""},
            "QEMU",
        ),
        (
            {"sys/class/dmi/id/sys_vendor": "", "sys/class/dmi/id/product_name": ""},
            "a hypervisor that does not say its name",
        ),
        (
            # A Surface is made by Microsoft, too.
            {"sys/class/dmi/id/product_name": "Surface", "proc/cpuinfo": CPU.format("")},
            None,
        ),
    ],
)
def test_hypervisors(tmp_path: Path, files: dict[str, str], hypervisor: str | None) -> None:
    assert look_at_linux(root(tmp_path, {**HYPER_V, **files})).hypervisor == hypervisor


def test_modules_that_are_built_in(tmp_path: Path) -> None:
    built_in = "kernel/net/vmw_vsock/hv_sock.ko\nkernel/drivers/vhost/vhost_vsock.ko\nkernel/x.ko\n"
    files = {
        "proc/sys/kernel/osrelease": "6.8.0",
        "lib/modules/6.8.0/modules.builtin": built_in,
    }
    assert look_at_linux(root(tmp_path, files)).modules == {"hv_sock", "vhost_vsock"}


def test_a_machine_that_shows_nothing(tmp_path: Path) -> None:
    seen = look_at_linux(tmp_path)
    assert (seen.kernel, seen.hypervisor, seen.modules) == ("", None, frozenset())
    assert not seen.has_device
    assert not seen.own_network


def test_this_machine_can_be_looked_at_without_opening_a_vm_socket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a socket was opened")

    if sys.platform != "win32":
        monkeypatch.setattr(socket, "socket", refuse)
    seen = machine.look()
    assert seen.python == sys.version_info[:3]
    assert seen.packages["msgpack"]
    assert (seen.windows is not None) == (sys.platform == "win32")
    assert (seen.linux is not None) == sys.platform.startswith("linux")
