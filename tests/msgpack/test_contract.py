"""The contract of msgpack-RPC, on both drivers and on every family that this machine has.

What matters most is tried with every pair of drivers on every family; the rest with some pairs over
one family, for drivers and families do not know of each other.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..sockets.places import MISSING, PLACES
from .contract import (
    BothSidesContract,
    CallContract,
    CoreContract,
    EndContract,
    ErrorContract,
    ServiceContract,
    StreamContract,
)
from .drivers import ASYNCIO, BLOCKING, UVLOOP, Bench, bench, has_uvloop

DRIVERS = [BLOCKING, ASYNCIO, *([UVLOOP] if has_uvloop() else [])]
FAMILIES = [name for name in PLACES if name not in MISSING]
PAIRS = [(client, server) for client in DRIVERS for server in DRIVERS]
SOME_PAIRS = [pair for pair in PAIRS if pair[0] == pair[1] or UVLOOP not in pair]


def _name(value: object) -> str:
    return " to ".join(value) if isinstance(value, tuple) else str(value)


class OnEverything:
    @pytest.fixture(params=PAIRS, ids=_name)
    def drivers(self, request: pytest.FixtureRequest) -> tuple[str, str]:
        client, server = request.param
        return client, server

    @pytest.fixture(params=FAMILIES)
    def bench(self, request: pytest.FixtureRequest, drivers: tuple[str, str]) -> Iterator[Bench]:
        with PLACES[request.param]() as place, bench(place, *drivers) as made:
            yield made


class OnOneFamily:
    @pytest.fixture(params=SOME_PAIRS, ids=_name)
    def bench(self, request: pytest.FixtureRequest) -> Iterator[Bench]:
        with PLACES[FAMILIES[0]]() as place, bench(place, *request.param) as made:
            yield made


@pytest.mark.skipif(has_uvloop(), reason="uvloop is installed")
def test_uvloop_is_installed() -> None:
    """One line in the summary for the driver that is not tried."""
    pytest.skip("without uvloop: pip install uvloop, and run again")


class TestCore(OnEverything, CoreContract):
    pass


class TestCalls(OnOneFamily, CallContract):
    pass


class TestServices(OnOneFamily, ServiceContract):
    pass


class TestBothSides(OnOneFamily, BothSidesContract):
    pass


class TestErrors(OnOneFamily, ErrorContract):
    pass


class TestStreams(OnOneFamily, StreamContract):
    pass


class TestEnd(OnOneFamily, EndContract):
    pass
