"""Both protocols with both drivers on every family of sockets, within one process.

Where a family crosses a real boundary, a rig tries it there, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from hvrpc.addresses import HV_GUID_LOOPBACK

from ..rigs import guard
from ..sockets.hybrid_device import HybridDevice
from ..sockets.places import MISSING, PLACES, short_folder
from .contract import CallContract, Lines
from .far_side import FarSide

Ends = tuple[str, str, str]
"""Where to serve and where to call, with {} for the port; and what callers are known by."""


@contextmanager
def _tcp() -> Iterator[Ends]:
    number = os.getpid()  # an address of our own, since the ports are the same in all processes
    host = f"127.{1 + (number >> 16) % 250}.{number >> 8 & 255}.{number & 255}"
    where = f"tcp://{host}:{{}}"
    yield where, where, "127.0.0.1:"


@contextmanager
def _hybrid() -> Iterator[Ends]:
    with short_folder() as folder, HybridDevice(f"{folder}/v.sock"):
        where = f"hybrid://{folder}/v.sock?port={{}}"
        yield where, where, "hybrid:"


@contextmanager
def _hyperv() -> Iterator[Ends]:
    with PLACES["hyperv"]():  # or it is skipped
        yield "hvsock://any/{}", "hvsock://loopback/{}", str(HV_GUID_LOOPBACK)


@contextmanager
def _vsock() -> Iterator[Ends]:
    assert guard.inside_rig_guest()
    yield "vsock://any/{}", "vsock://local/{}", "vsock:1/"


FAMILIES: dict[str, Callable[[], AbstractContextManager[Ends]]] = {
    "tcp": _tcp,
    "hybrid": _hybrid,
    "hyperv": _hyperv,
    "vsock": _vsock,
}
"""`local` has a module of its own, with processes of its own; on UNIX sockets the contracts of both
protocols are tried as a whole."""


@pytest.mark.parametrize("family", [name for name in FAMILIES if name in MISSING])
def test_family_is_on_this_machine(family: str) -> None:
    """One line in the summary for each family that is not, instead of one for each test."""
    pytest.skip(MISSING[family])


class TestFamily(CallContract):
    @pytest.fixture(params=[name for name in FAMILIES if name not in MISSING], scope="class")
    @classmethod
    def ends(cls, request: pytest.FixtureRequest) -> Iterator[Ends]:
        with FAMILIES[request.param]() as ends, FarSide(ends[0], Lines().tell):
            yield ends

    @pytest.fixture
    def where(self, ends: Ends) -> str:
        return ends[1]

    @pytest.fixture
    def who(self, ends: Ends) -> str:
        return ends[2]
