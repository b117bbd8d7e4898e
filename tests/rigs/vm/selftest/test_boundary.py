"""The contract across a real boundary: the outer guest is the host, the inner one its VM."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from ....boundary.contract import CallContract, CallerLifeContract, LifeContract, Lines, Machine
from ....boundary.far_side import SERVING, FarSide
from ...guard import HOW_TO_RUN_NESTED, rig_role

if sys.platform != "linux" or rig_role() != "outer":
    pytest.skip(HOW_TO_RUN_NESTED, allow_module_level=True)

from ..inner import CID, InnerGuest

FAR_SIDE = ["python3", "-m", "tests.boundary.far_side", "vsock://any/{}"]
CALLERS = ["python3", "-m", "tests.boundary.callers", "vsock://host/{}"]
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


class TestHostCallsGuest(CallContract):
    @pytest.fixture(scope="class")
    @classmethod
    def where(cls) -> Iterator[str]:
        with running(FAR_SIDE) as machine:
            machine.wait_for(SERVING)
            yield f"vsock://{CID}/{{}}"

    @pytest.fixture
    def who(self) -> str:
        return "2"


def test_the_guest_calls_the_host() -> None:
    """The same contract, run by a pytest in the inner guest."""
    tests = ["python3", "-P", "-m", "pytest", "-p", "no:cacheprovider", "-q", "--timeout=180"]
    command = ["env", "HVRPC_FAR_SIDE=vsock://host/{}", f"HVRPC_FAR_SIDE_SEES={CID}"]
    with FarSide("vsock://any/{}", Lines().tell), running([*command, *tests, NEAR_TESTS]) as inner:
        assert inner.wait() == 0


class TestLives(LifeContract):
    @pytest.fixture
    def machine(self) -> Iterator[Machine]:
        with running(FAR_SIDE) as machine:
            machine.wait_for(SERVING)
            yield machine

    @pytest.fixture
    def where(self) -> str:
        return f"vsock://{CID}/{{}}"


class TestLivesOfCallers(CallerLifeContract):
    @pytest.fixture
    def own_address(self) -> str:
        return "vsock://any/{}"

    @pytest.fixture
    def calling_machine(self) -> Callable[[], AbstractContextManager[Machine]]:
        return lambda: running(CALLERS)
