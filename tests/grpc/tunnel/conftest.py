"""A fabric for each test, and the check that the tunnel leaves nothing of its own behind."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hvrpc.grpc import tunnel
from hvrpc.grpc.tunnel.door import door_here
from hvrpc.grpc.tunnel.places import CARRIER_VARIABLE

from ...sockets.background import wait_until
from ...sockets.places import MISSING, short_folder
from .calls import Calls

C_CORE = "grpcio's C core keeps threads and descriptors for the whole process"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = os.path.dirname(__file__)
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.may_leave(C_CORE))


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """Of one process, as the door is. The door is closed with it."""
    with short_folder() as made:
        yield made
        tunnel.close()


def relay_threads() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name.startswith("hvrpc-relay")}


@pytest.fixture(params=["unix", "tcp"], autouse=True)
def carrier(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> Iterator[str]:
    """Both ways to meet the C core. No thread of a connection outlives its test."""
    if request.param == "unix" and "unix" in MISSING:
        pytest.skip(MISSING["unix"])
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("HVRPC_FABRIC", f"tunnel-{os.getpid()}")
    monkeypatch.delenv("HVRPC_FABRIC_VM", raising=False)
    monkeypatch.setenv(CARRIER_VARIABLE, request.param)
    # An error of grpc.aio's may keep its connection, until it is collected.
    monkeypatch.setattr("hvrpc.grpc.tunnel.refusals.REFUSE_FOR", 0.5)
    monkeypatch.setattr(door_here()._relay._log, "_burst", 1000)  # the door is that of all tests
    before = len(relay_threads())
    yield request.param
    wait_until(lambda: len(relay_threads()) <= before, "no thread of the tunnel is left")


@pytest.fixture(params=["sync", "aio"])
def calls(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Servers and channels of either kind, ended after the test."""
    with Calls(request.param) as made:
        yield made
