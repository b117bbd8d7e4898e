"""Names become ids where the program runs, and a name that cannot says what to give instead."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from hvrpc import Address, UnsupportedError
from hvrpc.sockets import causes, names

VM = UUID("12345678-9abc-def0-1234-56789abcdef0")


def address(url: str) -> Any:
    return Address.parse(url)


def test_ids_are_taken_as_they_are() -> None:
    found = address(f"hvsock://{VM}/5000")
    assert names.vm_id(found, causes.CONNECT) == VM
    assert names.service_id(found, causes.CONNECT) == found.service


@pytest.mark.parametrize(
    ("platform", "remedy"), [("win32", "Get-VM"), ("linux", "hvsock://parent/")]
)
def test_a_vm_name_that_is_not_known(
    monkeypatch: pytest.MonkeyPatch, platform: str, remedy: str
) -> None:
    monkeypatch.setattr(names, "sys", SimpleNamespace(platform=platform))
    with pytest.raises(UnsupportedError) as caught:
        names.vm_id(address("hvsock://My VM/5000"), causes.CONNECT)
    assert "'My VM'" in caught.value.problem
    assert remedy in caught.value.remedy
    assert caught.value.address == "hvsock://My%20VM/5000"
    assert caught.value.operation == "connect to"


@pytest.mark.parametrize(
    ("platform", "remedy"), [("win32", "register it on the host"), ("linux", "give its port")]
)
def test_a_service_name_that_is_not_registered(
    monkeypatch: pytest.MonkeyPatch, platform: str, remedy: str
) -> None:
    monkeypatch.setattr(names, "sys", SimpleNamespace(platform=platform))
    monkeypatch.setattr(names, "_registered", lambda name: None, raising=False)
    with pytest.raises(UnsupportedError) as caught:
        names.service_id(address("hvsock://any/backup"), causes.LISTEN)
    assert "'backup'" in caught.value.problem
    assert remedy in caught.value.remedy


def test_a_registered_service_name_is_looked_up_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(names, "_registered", {"backup": VM}.get, raising=False)
    assert names.service_id(address("hvsock://any/backup"), causes.LISTEN) == VM
