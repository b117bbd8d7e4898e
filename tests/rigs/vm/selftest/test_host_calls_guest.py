"""The contract across a real boundary: the outer guest is the host and calls the inner one, its VM."""

from collections.abc import Iterator

import pytest

from ....boundary.contract import CallContract, LifeContract, Machine
from ....boundary.far_side import SERVING
from ....sockets.places import short_folder
from ..hybrid import CID_HOST, RealGuestDevice
from ..inner import CID
from .inner_machine import LIMIT, InnerMachine, running

pytestmark = pytest.mark.timeout(LIMIT)

FAR_SIDE = ["python3", "-m", "tests.boundary.far_side", "vsock://any/{}"]


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
