"""What the doctor makes of machines, sound ones and others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hvrpc import Address, PrivilegeError, UnsupportedError
from hvrpc.cli.doctor.checks import CHECKS, judge
from hvrpc.cli.doctor.findings import Finding, Status
from hvrpc.cli.doctor.machine import Machine
from hvrpc.windows.registration import Origin, Service, wanted
from hvrpc.windows.virtual_machines import Listing

from .machines import (
    CLASSIC_VM,
    GUEST,
    HOST,
    MEMBER,
    NO_RIGHTS,
    WSL,
    WSL_VM,
    linux,
    machine,
    windows,
)

AGENT = wanted("agent", port=5000)
MAY_NOT = PrivilegeError("list VMs", problem="you may not", remedy="ask")
NO_HYPER_V = UnsupportedError("", operation="list VMs", problem="no Hyper-V", remedy="get it")


def told(subject: Machine, status: Status, about: str, address: str | None = None) -> list[Finding]:
    where = None if address is None else Address.parse(address)
    return [
        finding
        for finding in judge(subject, where)
        if finding.status is status and finding.about == about
    ]


def problems(subject: Machine, address: str | None = None) -> list[str]:
    where = None if address is None else Address.parse(address)
    return [f.about for f in judge(subject, where) if f.status is Status.PROBLEM]


SOUND = [
    machine(),
    windows(),
    windows(privileges=MEMBER, services=(AGENT,)),
    windows(system=GUEST, privileges=NO_RIGHTS, vms=Listing((), (NO_HYPER_V,))),
    windows(system={}, system_problem="PowerShell: it has answered nothing"),
    windows(vms=Listing((CLASSIC_VM, WSL_VM))),
    linux(),
    linux(identity=None),
    linux(hypervisor="KVM", modules=frozenset({"vmw_vsock_virtio_transport"})),
    linux(hypervisor=None, modules=frozenset(), has_device=False, identity=None),
    linux(hypervisor=None, modules=frozenset(), python_has_vsock=False),
]


@pytest.mark.parametrize("subject", SOUND)
def test_a_sound_machine_has_no_problem(subject: Machine) -> None:
    assert problems(subject) == []
    assert any(finding.status is Status.OK for finding in judge(subject))


def test_every_finding_that_is_not_well_says_what_to_do() -> None:
    for subject in (windows(privileges=NO_RIGHTS, hyperv_socket=10047), linux(modules=frozenset())):
        for finding in judge(subject):
            assert finding.do or finding.status is not Status.PROBLEM


def test_every_check_is_used() -> None:
    assert len(set(CHECKS)) == len(CHECKS)


# --- Everywhere ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "needed"),
    [(machine(python=(3, 10, 1)), "3.11"), (windows(python=(3, 11, 9)), "3.12")],
)
def test_a_python_that_is_too_old(subject: Machine, needed: str) -> None:
    (finding,) = told(subject, Status.PROBLEM, "Python")
    assert needed in finding.do


def test_extras_that_are_missing_are_worth_a_note() -> None:
    packages = {**machine().packages, "hpack": None, "grpcio-tools": None}
    (finding,) = told(machine(packages=packages), Status.NOTE, "hvrpc")
    assert 'pip install "hvrpc[grpc,codegen]"' in finding.do


def test_an_emulated_fabric_is_said_loudly() -> None:
    (finding,) = told(linux(fabric="test"), Status.NOTE, "emulated fabric")
    assert "'test'" in finding.text
    assert "the host" in finding.text
    (finding,) = told(machine(fabric="test", fabric_vm="web"), Status.NOTE, "emulated fabric")
    assert "the VM web" in finding.text
    assert told(machine(fabric_vm="web"), Status.NOTE, "emulated fabric")


def test_a_guest_knows_who_it_is() -> None:
    (finding,) = told(linux(), Status.OK, "this guest")
    assert "web" in finding.text
    assert "host.example.org" in finding.text
    (finding,) = told(linux(identity=None), Status.NOTE, "this guest")
    assert "hyperv-daemons" in finding.do


# --- Windows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [10047, 10013])
def test_a_windows_without_hyperv_sockets(error: int) -> None:
    (finding,) = told(windows(hyperv_socket=error), Status.PROBLEM, "Hyper-V sockets")
    assert str(error) in finding.text


@pytest.mark.parametrize(("build", "count"), [(14393, 1), (16299, 0), (22631, 0)])
def test_a_windows_that_drops_connections_of_paused_vms(build: int, count: int) -> None:
    assert len(told(windows(build=build), Status.NOTE, "Hyper-V sockets")) == count


def test_a_python_for_windows_without_hyperv_sockets() -> None:
    assert told(windows(hyperv_socket=None), Status.PROBLEM, "Hyper-V sockets")
    old = windows(hyperv_socket=None, python=(3, 11, 9))
    assert not told(old, Status.PROBLEM, "Hyper-V sockets"), "the Python is the problem"


def test_hyper_v_is_turned_off() -> None:
    off = {"Microsoft-Hyper-V": False, "VirtualMachinePlatform": False}
    (finding,) = told(windows(system={**HOST, "features": off}), Status.PROBLEM, "Hyper-V")
    assert "Enable-WindowsOptionalFeature" in finding.do


def test_hyper_v_is_turned_on_and_does_not_run() -> None:
    stopped = {"vmms": "Stopped", "vmcompute": "Running"}
    (finding,) = told(windows(system={**HOST, "services": stopped}), Status.PROBLEM, "Hyper-V")
    assert "Start-Service vmms" in finding.do


def test_wsl_alone_is_enough_for_its_own_vms() -> None:
    features = {"Microsoft-Hyper-V": False, "VirtualMachinePlatform": True}
    system = {**HOST, "features": features, "services": {"vmcompute": "Running"}}
    assert problems(windows(system=system)) == []


def test_a_user_without_privileges() -> None:
    subject = windows(privileges=NO_RIGHTS, vms=Listing((WSL_VM,), (MAY_NOT,)))
    (finding,) = told(subject, Status.PROBLEM, "privileges")
    assert "Add-LocalGroupMember -SID S-1-5-32-578" in finding.do
    assert "log off" in finding.do
    assert not told(subject, Status.NOTE, "VMs"), "it has been said"


def test_a_member_who_has_not_logged_off_yet() -> None:
    system = {**HOST, "is_listed": True}
    (finding,) = told(windows(privileges=NO_RIGHTS, system=system), Status.PROBLEM, "privileges")
    assert "does not know it yet" in finding.text
    assert finding.do.startswith("log off")


def test_what_is_registered() -> None:
    (finding,) = told(windows(services=(AGENT,)), Status.OK, "registration")
    assert "agent (port 5000)" in finding.text
    (finding,) = told(windows(), Status.NOTE, "registration")
    assert "hvrpc service register" in finding.do


@pytest.mark.parametrize("address", ["hvsock://any/5000", "hvsock://children/agent"])
def test_a_service_that_guests_may_call(address: str) -> None:
    assert told(windows(services=(AGENT,)), Status.OK, "registration", address)


@pytest.mark.parametrize(
    ("address", "command"),
    [
        ("hvsock://any/5001", "hvrpc service register NAME --port 5001"),
        (f"hvsock://any/{WSL}", f"hvrpc service register NAME --guid {WSL}"),
        ("hvsock://any/my%20agent", 'hvrpc service register "my agent"'),
    ],
)
def test_a_service_that_guests_may_not_call(address: str, command: str) -> None:
    theirs = Service(WSL_VM.id, "other", Origin.OTHER)
    services = (AGENT,) if str(WSL) in address else (AGENT, theirs)
    (finding,) = told(windows(services=services), Status.PROBLEM, "registration", address)
    assert command in finding.do


def test_what_a_guest_offers_needs_no_registration() -> None:
    assert not told(windows(), Status.PROBLEM, "registration", "hvsock://loopback/5001")


def test_wildcards_that_do_not_reach_everybody() -> None:
    assert told(windows(), Status.OK, "wildcards")
    (finding,) = told(windows(vms=Listing((CLASSIC_VM, WSL_VM))), Status.NOTE, "wildcards")
    assert "WSL" in finding.text
    assert f"hvsock://{WSL}/PORT" in finding.do


def test_vms_that_cannot_all_be_seen() -> None:
    (finding,) = told(windows(vms=Listing((CLASSIC_VM,), (NO_HYPER_V,))), Status.NOTE, "VMs")
    assert "no Hyper-V" in finding.text


@pytest.mark.parametrize("vm", ["web", "WEB", str(CLASSIC_VM.id)])
def test_the_vm_that_is_called(vm: str) -> None:
    address = f"hvsock://{vm}/5000"
    assert told(windows(), Status.OK, "the VM", address)
    for state, command in (("Off", "Start-VM"), ("Saved", "Start-VM"), ("Paused", "Resume-VM")):
        listing = Listing((replace(CLASSIC_VM, state=state), WSL_VM))
        (finding,) = told(windows(vms=listing), Status.PROBLEM, "the VM", address)
        assert finding.text == f"web is {state}"
        assert command in finding.do


@pytest.mark.parametrize(
    "address", ["hvsock://other/5000", "hvsock://parent/5000", "tcp://[::1]:1"]
)
def test_what_is_called_is_no_vm_that_is_known(address: str) -> None:
    assert not [f for f in judge(windows(), Address.parse(address)) if f.about == "the VM"]


# --- Linux ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("modules", [set(), {"vsock"}, {"vsock", "vsock_loopback"}])
def test_a_guest_of_hyper_v_without_its_module(modules: set[str]) -> None:
    (finding,) = told(linux(modules=frozenset(modules)), Status.PROBLEM, "VM sockets")
    assert "modprobe hv_sock" in finding.do


def test_a_guest_of_hyper_v_with_the_wrong_module() -> None:
    subject = linux(modules=frozenset({"vsock", "vmw_vsock_virtio_transport"}))
    (finding,) = told(subject, Status.PROBLEM, "VM sockets")
    assert "modprobe hv_sock" in finding.do


@pytest.mark.parametrize(
    ("address", "is_bad"),
    [
        (None, False),
        ("tcp://127.0.0.1:5000", False),
        ("vsock://host/5000", True),
        ("hvsock://parent/5000", True),
    ],
)
def test_a_missing_module_is_a_problem_for_those_who_need_it(
    address: str | None, is_bad: bool
) -> None:
    subject = linux(hypervisor=None, modules=frozenset(), identity=None)
    status = Status.PROBLEM if is_bad else Status.NOTE
    (finding,) = told(subject, status, "VM sockets", address)
    assert "modprobe" in finding.do


def test_on_the_fabric_no_module_is_needed() -> None:
    subject = linux(hypervisor=None, modules=frozenset(), fabric="test")
    assert problems(subject, "hvsock://web/5000") == []


def test_a_python_without_vsock() -> None:
    assert told(linux(python_has_vsock=False), Status.PROBLEM, "VM sockets")


def test_a_container_with_a_network_of_its_own() -> None:
    (finding,) = told(linux(own_network=True), Status.PROBLEM, "VM sockets")
    assert "namespace" in finding.text


@pytest.mark.parametrize(
    ("kernel", "status"),
    [
        ("4.9.0-azure", Status.PROBLEM),
        ("4.19.0-27-amd64", Status.NOTE),
        ("5.15.167.4-microsoft-standard-WSL2", Status.NOTE),
        ("6.1.0-18-amd64", None),
        ("6.18.44", Status.NOTE),
        ("7.1.2", None),
        ("nonsense", None),
    ],
)
def test_kernels_with_known_faults(kernel: str, status: Status | None) -> None:
    found = [f.status for f in judge(linux(kernel=kernel)) if f.about == "kernel"]
    assert found == ([] if status is None else [status])
    kvm = linux(kernel=kernel, hypervisor="KVM", modules=frozenset({"vmw_vsock_virtio_transport"}))
    assert not [f for f in judge(kvm) if f.about == "kernel"], "the faults are hv_sock's"


@pytest.mark.parametrize(
    ("address", "count"),
    [
        ("hvsock://parent/5000", 0),
        ("hvsock://any/5000", 0),
        ("hvsock://web/5000", 1),
        (f"hvsock://{WSL}/5000", 1),
        (f"hvsock://parent/{WSL}", 1),
        ("vsock://host/5000", 0),
    ],
)
def test_addresses_that_a_linux_guest_cannot_call(address: str, count: int) -> None:
    assert len(told(linux(), Status.PROBLEM, "address", address)) == count
    assert not told(windows(), Status.PROBLEM, "address", address)
