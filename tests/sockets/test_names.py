"""Names become ids where the program runs, and a name that cannot says what to give instead."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from hvrpc import Address, ConnectTimeout, ListenError, UnknownName, UnsupportedError
from hvrpc.sockets import causes, names
from hvrpc.windows import registration, registry, virtual_machines
from hvrpc.windows.virtual_machines import Directory, Kind, Listing, VirtualMachine

from ..windows.fake_registry import FakeRegistry

VM = UUID("12345678-9abc-def0-1234-56789abcdef0")
NAMED = "hvsock://My VM/5000"


def address(url: str) -> Any:
    return Address.parse(url)


def test_ids_are_taken_as_they_are() -> None:
    found = address(f"hvsock://{VM}/5000")
    assert names.vm_id(found, causes.CONNECT) == VM
    assert names.service_id(found, causes.CONNECT) == found.service


@pytest.fixture
def on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "sys", SimpleNamespace(platform="linux"))


@pytest.mark.usefixtures("on_linux")
def test_a_guest_knows_no_names_of_vms() -> None:
    with pytest.raises(UnsupportedError) as caught:
        names.vm_id(address(NAMED), causes.CONNECT)
    assert "'My VM'" in caught.value.problem
    assert "hvsock://parent/" in caught.value.remedy
    assert caught.value.address == "hvsock://My%20VM/5000"
    assert caught.value.operation == "connect to"


@pytest.mark.usefixtures("on_linux")
def test_a_linux_guest_knows_no_names_of_services() -> None:
    with pytest.raises(UnsupportedError) as caught:
        names.service_id(address("hvsock://any/backup"), causes.LISTEN)
    assert "'backup'" in caught.value.problem
    assert "give its port" in caught.value.remedy


class Host:
    """A Windows host with one VM, and what it has been asked."""

    def __init__(self) -> None:
        self.timeouts: list[float] = []
        self.error: Exception | None = None
        self.registry = FakeRegistry()

    def vms(self, timeout: float) -> Listing:
        self.timeouts.append(timeout)
        if self.error is not None:
            raise self.error
        return Listing((VirtualMachine(VM, "My VM", "Running", Kind.CLASSIC, "test"),))


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    here = Host()
    monkeypatch.setattr(names, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(virtual_machines, "directory", Directory(here.vms))
    for user in (registration, registry):
        monkeypatch.setattr(user, "open_registry", lambda *what: here.registry)
    return here


def test_a_windows_host_looks_a_vms_name_up_within_the_callers_time(host: Host) -> None:
    assert names.vm_id(address(NAMED), causes.CONNECT, 3) == VM
    assert host.timeouts == [pytest.approx(3, abs=1)]


def test_a_name_that_no_vm_has_is_an_error_that_lists_those_there_are(host: Host) -> None:
    with pytest.raises(UnknownName, match="connect to hvsock://nobody/5000") as caught:
        names.vm_id(address("hvsock://nobody/5000"), causes.CONNECT, 3)
    assert caught.value.candidates == (f"My VM ({VM}, classic, Running)",)


@pytest.mark.parametrize(
    ("operation", "kind"), [(causes.CONNECT, ConnectTimeout), (causes.LISTEN, ListenError)]
)
def test_a_host_that_does_not_tell_in_time(host: Host, operation: str, kind: type) -> None:
    host.error = TimeoutError("PowerShell has not answered")
    with pytest.raises(kind, match="which VM is called 'My VM'") as caught:
        names.vm_id(address(NAMED), operation, 3)
    assert caught.value.__cause__ is host.error


def test_a_registered_service_name_is_looked_up_on_windows(host: Host) -> None:
    registration.register("backup", port=5000, store=host.registry)
    found = names.service_id(address("hvsock://any/backup"), causes.LISTEN)
    assert found == address("hvsock://any/5000").service


def test_a_service_name_that_is_not_registered(host: Host) -> None:
    registration.register("backup", port=5000, store=host.registry)
    with pytest.raises(UnknownName, match="listen on hvsock://any/backups") as caught:
        names.service_id(address("hvsock://any/backups"), causes.LISTEN)
    assert "'backups'" in caught.value.problem
    assert "hvrpc service register backups" in caught.value.remedy
    assert caught.value.candidates == ("backup (port 5000)",)
