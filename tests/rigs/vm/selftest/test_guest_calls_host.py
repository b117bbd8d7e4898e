"""The contract across a real boundary: the inner guest calls the outer one, its host."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from ....boundary.contract import CallerLifeContract, Lines, Machine
from ....boundary.far_side import PORTS, FarSide
from ....sockets.places import short_folder
from ..hybrid import RealGuestDevice
from ..inner import CID
from .inner_machine import LIMIT, running

pytestmark = pytest.mark.timeout(LIMIT)

CALLERS = ["python3", "-m", "tests.boundary.callers", "vsock://host/{}"]
PYTEST = ["python3", "-P", "-m", "pytest", "-p", "no:cacheprovider", "-q", "--timeout=180"]
NEAR_TESTS = "tests/boundary/test_from_here.py"


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
