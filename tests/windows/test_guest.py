"""A guest's own id, from what its host has written."""

from __future__ import annotations

import sys
from pathlib import Path
from uuid import UUID

import pytest

from hvrpc.windows import guest
from hvrpc.windows.guest import Identity, from_pools, from_registry, from_wsl, read_pool

from .fake_registry import FakeRegistry

ID = UUID("2e5c1f0a-7d0b-4b6e-9a67-3b8f1f6f9c11")

TOLD = {
    "HostName": "HOST",
    "HostingSystemEditionId": "72",
    "PhysicalHostName": "HOST",
    "PhysicalHostNameFullyQualified": "host.example.org",
    "VirtualMachineDynamicMemoryBalancingEnabled": "0",
    "VirtualMachineId": str(ID).upper(),
    "VirtualMachineName": "агент 代理 🦊",
}


def record(key: str, value: str) -> bytes:
    return key.encode().ljust(512, b"\0") + value.encode().ljust(2048, b"\0")


def pool(pairs: dict[str, str]) -> bytes:
    return b"".join(record(key, value) for key, value in pairs.items())


def test_a_pool_of_linux() -> None:
    assert read_pool(pool(TOLD)) == TOLD


@pytest.mark.parametrize("left", [1, 511, 512, 2559])
def test_half_a_record_does_not_count(left: int) -> None:
    assert read_pool(pool(TOLD) + record("more", "x")[:left]) == TOLD


@pytest.mark.parametrize(
    ("content", "pairs"),
    [
        (b"", {}),
        (bytes(2560), {}),
        (record("a", "1") + record("a", "2"), {"a": "2"}),
        (record("a", " 1 \r\n"), {"a": "1"}),
        (b"a\0garbage".ljust(512, b"x") + b"1\0garbage".ljust(2048, b"x"), {"a": "1"}),
        (b"k" * 512 + b"v" * 2048, {"k" * 512: "v" * 2048}),
        (b"\xff".ljust(512, b"\0") + b"\xff".ljust(2048, b"\0"), {"\ufffd": "\ufffd"}),
    ],
)
def test_pools_of_all_sorts(content: bytes, pairs: dict[str, str]) -> None:
    assert read_pool(content) == pairs


def test_the_first_pool_that_tells_counts(tmp_path: Path) -> None:
    empty, full = tmp_path / "empty", tmp_path / "full"
    empty.write_bytes(b"")
    full.write_bytes(pool(TOLD))
    found = from_pools([tmp_path / "missing", tmp_path, empty, full])
    assert found == Identity(ID, "агент 代理 🦊", "host.example.org", str(full))


def test_a_pool_without_end_is_not_read_to_it(tmp_path: Path) -> None:
    many = tmp_path / "pool"
    many.write_bytes(record("a", "1") * guest.MOST_RECORDS + pool(TOLD))
    assert from_pools([many]) is None


@pytest.mark.parametrize("wrong", [{}, {"VirtualMachineId": "nonsense"}, {"VirtualMachineId": ""}])
def test_a_pool_that_does_not_tell(tmp_path: Path, wrong: dict[str, str]) -> None:
    file = tmp_path / "pool"
    file.write_bytes(pool(wrong))
    assert from_pools([file]) is None


def test_the_registry_of_windows() -> None:
    registry = FakeRegistry({guest.GUEST_PARAMETERS: {**TOLD, "number": 7}})
    assert from_registry(registry) == Identity(ID, "агент 代理 🦊", "host.example.org", "registry")
    assert from_registry(FakeRegistry()) is None
    assert from_registry(FakeRegistry({guest.GUEST_PARAMETERS: {}})) is None


@pytest.fixture
def wsl(tmp_path: Path) -> Path:
    kernel = tmp_path / "osrelease"
    kernel.write_text("5.15.167.4-microsoft-standard-WSL2\n")
    return kernel


posix = pytest.mark.skipif(sys.platform == "win32", reason="starts a script: run it on Linux")


@posix
@pytest.mark.parametrize(
    ("script", "found"),
    [
        (f"test $1 = --vm-id && echo {ID}", Identity(ID, "WSL", None, "wslinfo")),
        ("echo 'Invalid command line argument: --vm-id' >&2; exit 1", None),
    ],
)
def test_wsl(tmp_path: Path, wsl: Path, script: str, found: Identity | None) -> None:
    program = tmp_path / "wslinfo"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    assert from_wsl(program, wsl) == found


def test_wsl_without_its_program(tmp_path: Path, wsl: Path) -> None:
    assert from_wsl(tmp_path / "missing", wsl) is None


def test_another_linux_is_not_asked(tmp_path: Path) -> None:
    kernel = tmp_path / "osrelease"
    kernel.write_text("6.1.0-18-amd64\n")
    assert from_wsl(tmp_path / "missing", kernel) is None
    assert from_wsl(tmp_path / "missing", tmp_path / "missing") is None


def test_this_machine_can_be_asked() -> None:
    """Whatever it is: the answer is an identity or none, never an error."""
    assert isinstance(guest.identity(), Identity | None)
