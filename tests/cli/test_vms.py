"""`hvrpc vms`: the VMs of a host, of a fabric, and what a guest is itself."""

from __future__ import annotations

import json
import sys
from uuid import UUID

import pytest

from hvrpc import HvrpcError, PrivilegeError, sockets
from hvrpc.testing import Fabric
from hvrpc.windows import guest, virtual_machines
from hvrpc.windows.guest import Identity
from hvrpc.windows.virtual_machines import Kind, Listing, VirtualMachine

from .runs import run

WEB = UUID("2e5c1f0a-7d0b-4b6e-9a67-3b8f1f6f9c11")
WSL = UUID("eed44daf-4f7e-4cf5-82fd-f9c8ebf8db82")
MACHINES = (
    VirtualMachine(WEB, "web агент", "Running", Kind.CLASSIC, "Get-VM"),
    VirtualMachine(WSL, None, "Running", Kind.OTHER, "registry"),
)
MAY_NOT = PrivilegeError(
    "list VMs", problem="you may not look", remedy="ask", command="Add-LocalGroupMember"
)


def host(
    monkeypatch: pytest.MonkeyPatch, machines: tuple[VirtualMachine, ...], *problems: HvrpcError
) -> None:
    monkeypatch.delenv("HVRPC_FABRIC", raising=False)
    monkeypatch.setattr(virtual_machines, "list_all", lambda: Listing(machines, problems))


def test_the_vms_of_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    host(monkeypatch, MACHINES)
    lines = run("vms").stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["NAME", "ID", "STATE", "KIND", "FOUND", "BY"],
        ["web", "агент", str(WEB), "Running", "classic", "Get-VM"],
        ["-", str(WSL), "Running", "other", "registry"],
    ]
    assert json.loads(run("vms", "--json").stdout)[0] == {
        "name": "web агент",
        "id": str(WEB),
        "state": "Running",
        "kind": "classic",
        "found_by": "Get-VM",
    }


def test_a_host_without_vms(monkeypatch: pytest.MonkeyPatch) -> None:
    host(monkeypatch, ())
    assert run("vms").stdout == "there are no VMs\n"
    assert json.loads(run("vms", "--json").stdout) == []


def test_what_could_not_be_asked_does_not_spoil_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    host(monkeypatch, MACHINES, MAY_NOT)
    result = run("vms", "--json")
    assert result.exit_code == 0
    assert len(json.loads(result.stdout)) == 2
    assert "not everything could be seen: you may not look" in result.stderr


def test_when_nobody_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    host(monkeypatch, (), MAY_NOT)
    result = run("vms")
    assert result.exit_code == 6
    assert "you may not look" in result.stderr
    assert "\n           Add-LocalGroupMember\n" in result.stderr


def test_a_host_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def late() -> Listing:
        raise TimeoutError("PowerShell has not answered within 60 s")

    monkeypatch.delenv("HVRPC_FABRIC", raising=False)
    monkeypatch.setattr(virtual_machines, "list_all", late)
    result = run("vms")
    assert result.exit_code == 4
    assert "PowerShell has not answered within 60 s" in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows may be a host")
def test_a_linux_guest_is_sent_to_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HVRPC_FABRIC", raising=False)
    result = run("vms")
    assert result.exit_code == 69
    assert "Windows host only" in result.stderr


def wait() -> None:
    with sockets.listen("hvsock://any/5000") as listener:
        listener.accept()


def test_the_vms_of_a_fabric() -> None:
    with Fabric() as fabric:
        alive, dead = fabric.guest("web агент", wait), fabric.guest("db", wait)
        dead.kill()
        rows = json.loads(run("vms", "--json").stdout)
        told = [(row["name"], row["state"], row["kind"], row["found_by"]) for row in rows]
        assert told == [
            ("db", "Off", "emulated", f"fabric {fabric.name}"),
            ("web агент", "Running", "emulated", f"fabric {fabric.name}"),
        ]
        alive.kill()


def test_a_fabric_that_does_not_exist_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HVRPC_FABRIC", "nobody has ever used this one")
    assert run("vms").stdout == "there are no VMs\n"


def test_what_a_guest_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HVRPC_FABRIC", raising=False)
    known = Identity(WEB, "web", "host.example.org", "/var/lib/hyperv/.kvp_pool_3")
    monkeypatch.setattr(guest, "identity", lambda: known)
    told = run("vms", "--self").stdout
    for part in (str(WEB), "web", "host.example.org", "kvp_pool_3"):
        assert part in told
    assert json.loads(run("vms", "--self", "--json").stdout) == {
        "id": str(WEB),
        "name": "web",
        "host": "host.example.org",
        "found_by": "/var/lib/hyperv/.kvp_pool_3",
    }


def test_what_this_is_on_a_fabric(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HVRPC_FABRIC", "test")
    host = json.loads(run("vms", "--self", "--json").stdout)
    assert (host["name"], host["id"]) == ("the host", "a42e7cda-d03f-480c-9cc2-a4de20abb878")
    monkeypatch.setenv("HVRPC_FABRIC_VM", "web")
    told = json.loads(run("vms", "--self", "--json").stdout)
    assert (told["name"], told["found_by"]) == ("web", "fabric test")
    monkeypatch.setenv("HVRPC_FABRIC_VM", "parent")
    wrong = run("vms", "--self")
    assert wrong.exit_code == 69
    assert "HVRPC_FABRIC_VM is wrong" in wrong.stderr


def test_what_is_no_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HVRPC_FABRIC", raising=False)
    monkeypatch.setattr(guest, "identity", lambda: None)
    result = run("vms", "--self")
    assert result.exit_code == 69
    assert "Data Exchange" in result.stderr
