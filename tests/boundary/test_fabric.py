"""Across the emulated fabric, as it usually is and as reluctant as Linux' hv_sock."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from hvrpc.addresses import HV_GUID_PARENT
from hvrpc.sockets.carriers import CARRIER_VARIABLE, CARRIERS
from hvrpc.sockets.fabric import FABRIC_VARIABLE, VM_VARIABLE, open_fabric
from hvrpc.testing import Fabric, Guest

from ..sockets.places import MISSING
from .callers import call_and_stay
from .contract import CallContract, CallerLifeContract, LifeContract, Machine
from .far_side import SERVING, serve

KINDS = [
    pytest.param(name, marks=pytest.mark.skipif(place in MISSING, reason=MISSING.get(place, "")))
    for name, place in (
        ("unix", "local over UNIX"),
        ("tcp", "local over TCP"),
        ("hv_sock", "local like hv_sock"),
    )
]
assert {str(kind.values[0]) for kind in KINDS} == set(CARRIERS)


class FabricMachine(Machine):
    """A guest on the fabric: a process."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._earlier: list[str] = []

    def printed(self, line: str) -> int:
        return [*self._earlier, *self._guest.output.splitlines()].count(line)

    def kill(self) -> None:
        self._guest.kill()

    def start_again(self) -> None:
        self._earlier += self._guest.output.splitlines()
        self._guest.start()

    def reset(self) -> None:
        self.kill()
        self.start_again()

    def pause(self) -> None:
        self._guest.pause()

    def resume(self) -> None:
        self._guest.resume()


@pytest.fixture(params=KINDS)
def fabric(
    request: pytest.FixtureRequest, hvrpc_fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> Fabric:
    monkeypatch.setenv(CARRIER_VARIABLE, request.param)
    return hvrpc_fabric


@pytest.fixture(params=[kind for kind in KINDS if kind.values[0] != "unix"], scope="class")
def lasting_fabric(request: pytest.FixtureRequest) -> Iterator[Fabric]:
    """One for many tests, which only call. On plain UNIX sockets they call elsewhere, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CARRIER_VARIABLE, request.param)
        with Fabric() as fabric:
            yield fabric


class TestHostCallsGuest(CallContract):
    @pytest.fixture(scope="class")
    @classmethod
    def where(cls, lasting_fabric: Fabric) -> str:
        guest = lasting_fabric.guest("web", serve, ["hvsock://any/{}"])
        FabricMachine(guest).wait_for(SERVING)
        return "hvsock://web/{}"

    @pytest.fixture
    def who(self) -> str:
        return str(HV_GUID_PARENT)


class TestGuestCallsHost(CallContract):
    @pytest.fixture(scope="class")
    @classmethod
    def where(cls, lasting_fabric: Fabric) -> Iterator[str]:
        """A process that plays the host serves, and this one plays a guest."""
        environment = {**os.environ, FABRIC_VARIABLE: lasting_fabric.name}
        environment.pop(VM_VARIABLE, None)
        command = [sys.executable, "-m", "tests.boundary.far_side", "hvsock://any/{}"]
        host = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        with host, pytest.MonkeyPatch.context() as patch:
            try:
                assert host.stdout is not None
                assert host.stdout.readline().strip() == SERVING
                patch.setenv(VM_VARIABLE, "web")
                open_fabric("web", "join")  # for good, so it is no test's leak
                yield "hvsock://parent/{}"
            finally:
                host.kill()

    @pytest.fixture
    def who(self, lasting_fabric: Fabric) -> str:
        return str(lasting_fabric.vm_id("web"))


class TestLives(LifeContract):
    @pytest.fixture
    def machine(self, fabric: Fabric) -> Machine:
        machine = FabricMachine(fabric.guest("web", serve, ["hvsock://any/{}"]))
        machine.wait_for(SERVING)
        return machine

    @pytest.fixture
    def where(self) -> str:
        return "hvsock://web/{}"


class TestLivesOfCallers(CallerLifeContract):
    @pytest.fixture
    def own_address(self) -> str:
        return "hvsock://any/{}"

    @pytest.fixture
    def calling_machine(self, fabric: Fabric) -> Callable[[], AbstractContextManager[Machine]]:
        @contextmanager
        def start() -> Iterator[Machine]:
            args: list[Any] = ["hvsock://parent/{}"]
            yield FabricMachine(fabric.guest("web", call_and_stay, args, ready="started"))

        return start
