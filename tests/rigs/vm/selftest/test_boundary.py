"""The contract across a real boundary: the outer guest is the host, the inner one its VM."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from ....boundary.contract import CallContract, CallerLifeContract, LifeContract, Lines, Machine
from ....boundary.far_side import PORTS, SERVING, FarSide
from ....sockets.places import short_folder
from ...guard import HOW_TO_RUN_NESTED, rig_role

if sys.platform != "linux" or rig_role() != "outer":
    pytest.skip(HOW_TO_RUN_NESTED, allow_module_level=True)

from ..hybrid import CID_HOST, RealGuestDevice
from ..inner import CID, InnerGuest

FAR_SIDE = ["python3", "-m", "tests.boundary.far_side", "vsock://any/{}"]
CALLERS = ["python3", "-m", "tests.boundary.callers", "vsock://host/{}"]
PYTEST = ["python3", "-P", "-m", "pytest", "-p", "no:cacheprovider", "-q", "--timeout=180"]
NEAR_TESTS = "tests/boundary/test_from_here.py"

BOOTING = 240.0
"""Seconds for a guest of a guest to boot, and to import what it needs."""
pytestmark = pytest.mark.timeout(2 * BOOTING)


class InnerMachine(Machine):
    """The inner guest, which QEMU starts, pauses, resets and kills."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._earlier: list[str] = []
        self._guest = InnerGuest(command)

    def printed(self, line: str) -> int:
        return [*self._earlier, *self._guest.lines].count(line)

    def wait_for(self, line: str, times: int = 1) -> None:
        self._guest.wait_for_line(line, times - self._earlier.count(line), BOOTING)

    def kill(self) -> None:
        self._guest.kill()

    def start_again(self) -> None:
        self._earlier += self._guest.lines
        self._guest.close()
        self._guest = InnerGuest(self._command)

    def reset(self) -> None:
        self._guest.reset()

    def pause(self) -> None:
        self._guest.pause()

    def resume(self) -> None:
        self._guest.resume()

    def wait(self) -> int | None:
        return self._guest.wait()

    def close(self) -> None:
        self._guest.close()


@contextmanager
def running(command: list[str]) -> Iterator[InnerMachine]:
    machine = InnerMachine(command)
    try:
        yield machine
    finally:
        machine.close()


@pytest.fixture(scope="module")
def serving_guest() -> Iterator[InnerMachine]:
    """The far side in the inner guest, for all tests: it takes long to boot."""
    with running(FAR_SIDE) as machine:
        machine.wait_for(SERVING)
        yield machine


class TestHostCallsGuest(CallContract):
    @pytest.fixture
    def where(self, serving_guest: InnerMachine) -> str:
        return f"vsock://{CID}/{{}}"

    @pytest.fixture
    def who(self) -> str:
        return f"vsock:{CID_HOST}/"


class TestHostCallsGuestThroughItsHybridDevice(CallContract):
    @pytest.fixture
    def where(self, serving_guest: InnerMachine) -> Iterator[str]:
        with short_folder() as folder, RealGuestDevice(f"{folder}/v.sock"):
            yield f"hybrid://{folder}/v.sock?port={{}}"

    @pytest.fixture
    def who(self) -> str:
        return f"vsock:{CID_HOST}/"


class TestLives(LifeContract):
    @pytest.fixture
    def machine(self, serving_guest: InnerMachine) -> Machine:
        return serving_guest

    @pytest.fixture
    def where(self) -> str:
        return f"vsock://{CID}/{{}}"


def test_the_guest_calls_the_host() -> None:
    """The same contract, run by a pytest in the inner guest; the second time the host listens on
    the device of hybrid vsock, where the same calls go with a 1 before the port."""
    far_sides = [["vsock://host/{}", f"vsock:{CID}/"], ["vsock://host/1{}", "hybrid:"]]
    command = ["env", f"HVRPC_FAR_SIDES={json.dumps(far_sides)}", *PYTEST, NEAR_TESTS]
    with short_folder() as folder, RealGuestDevice(f"{folder}/v.sock") as device:
        for port in PORTS.values():
            device.let_guest_call(int(f"1{port}"))
        with (
            FarSide("vsock://any/{}", Lines().tell),
            FarSide(f"hybrid://{folder}/v.sock?port=1{{}}", Lines().tell),
            running(command) as inner,
        ):
            assert inner.wait() == 0


class TestLivesOfCallers(CallerLifeContract):
    @pytest.fixture
    def own_address(self) -> str:
        return "vsock://any/{}"

    @pytest.fixture
    def calling_machine(self) -> Callable[[], AbstractContextManager[Machine]]:
        return lambda: running(CALLERS)
