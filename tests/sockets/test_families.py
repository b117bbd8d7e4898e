"""Which family carries an address on this machine, and that the table is complete."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hvrpc import Address, sockets
from hvrpc.sockets import families
from hvrpc.sockets.families import FAMILIES, family_of

from .places import PLACES


@pytest.fixture(autouse=True)
def no_fabric(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HVRPC_FABRIC", raising=False)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("vsock://host/5", "vsock"),
        ("hybrid:///v.sock?port=5", "hybrid"),
        ("local://web/5", "local"),
        ("unix:///x", "unix"),
        ("tcp://localhost:5", "tcp"),
    ],
)
def test_a_scheme_has_its_family_everywhere(url: str, name: str) -> None:
    assert family_of(Address.parse(url)).name == name


@pytest.mark.parametrize(
    ("platform", "name"), [("win32", "hyperv"), ("linux", "vsock"), ("darwin", "vsock")]
)
def test_hvsock_is_what_the_system_has(
    monkeypatch: pytest.MonkeyPatch, platform: str, name: str
) -> None:
    monkeypatch.setattr(families, "sys", SimpleNamespace(platform=platform))
    assert family_of(Address.parse("hvsock://parent/5")).name == name


def test_hvsock_is_the_fabric_only_where_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    address = Address.parse("hvsock://parent/5")
    monkeypatch.setenv("HVRPC_FABRIC", "")
    assert family_of(address).name != "local"
    monkeypatch.setenv("HVRPC_FABRIC", "lab")
    assert family_of(address).name == "local"
    assert family_of(Address.parse("vsock://host/5")).name == "vsock"


def test_every_family_has_a_row_and_is_held_to_the_contract() -> None:
    names = [family.name for family in FAMILIES]
    assert sorted(names) == sorted({name.split()[0] for name in PLACES})
    assert len(set(names)) == len(names)
    assert set(sockets.__all__) >= {"connect", "listen", "Stream", "Listener"}
