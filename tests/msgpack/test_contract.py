"""The contract of msgpack-RPC, on both drivers and on every family that this machine has.

What matters most is tried with every pair of drivers on every family; the rest with some pairs over
one family, for drivers and families do not know of each other.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from ..sockets.places import MISSING, PLACES
from . import drivers
from .contract import (
    BatchContract,
    BothSidesContract,
    CallContract,
    CoreContract,
    EndContract,
    ErrorContract,
    ServiceContract,
    StreamContract,
)
from .drivers import ASYNCIO, BLOCKING, SELECTOR, UVLOOP, Bench, has_uvloop

DRIVERS = [BLOCKING, ASYNCIO, *([UVLOOP] if has_uvloop() else [])]
LOOPS_OF_WINDOWS = [SELECTOR] if sys.platform == "win32" else []
FAMILIES = [name for name in PLACES if name not in MISSING]
PAIRS = [(client, server) for client in DRIVERS for server in DRIVERS]
PLAIN_PAIRS = [pair for pair in PAIRS if UVLOOP not in pair]
SAME_PAIRS = [(driver, driver) for driver in (BLOCKING, ASYNCIO)]
SELECTOR_PAIRS = [
    pair for loop in LOOPS_OF_WINDOWS for pair in ((loop, BLOCKING), (BLOCKING, loop))
]

Combination = tuple[str, str, str]
"""Client, server and family."""

CORE: list[Combination] = [
    (client, server, family)
    for family in FAMILIES
    for client, server in (*(PAIRS if family == FAMILIES[0] else PLAIN_PAIRS), *SELECTOR_PAIRS)
]
BETWEEN_DRIVERS: list[Combination] = [
    (client, server, FAMILIES[0])
    for client, server in (*PLAIN_PAIRS, *([(UVLOOP, UVLOOP)] if has_uvloop() else []))
]
EACH_DRIVER: list[Combination] = [(client, server, FAMILIES[0]) for client, server in SAME_PAIRS]


def _name(combination: Combination) -> str:
    client, server, family = combination
    return f"{client} to {server} over {family}"


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    client, server, family = request.param
    with PLACES[family]() as place, drivers.bench(place, client, server) as made:
        yield made


def on(combinations: list[Combination]) -> pytest.MarkDecorator:
    """Have the tests of a class run on these."""
    return pytest.mark.parametrize("bench", combinations, ids=_name, indirect=True)


@pytest.mark.skipif(has_uvloop(), reason="uvloop is installed")
def test_uvloop_is_installed() -> None:
    """One line in the summary for the driver that is not tried."""
    pytest.skip("without uvloop: pip install uvloop, and run again")


@on(CORE)
class TestCore(CoreContract):
    """On everything there is."""


@on(EACH_DRIVER)
class TestCalls(CallContract):
    """Requests, responses, notifications."""


@on(EACH_DRIVER)
class TestServices(ServiceContract):
    """What can be served."""


@on(BETWEEN_DRIVERS)
class TestBothSides(BothSidesContract):
    """The server calls its caller."""


@on(EACH_DRIVER)
class TestErrors(ErrorContract):
    """Errors cross the boundary."""


@on(BETWEEN_DRIVERS)
class TestStreams(StreamContract):
    """Results that come item by item."""


@on(BETWEEN_DRIVERS)
class TestBatches(BatchContract):
    """Many calls in one write."""


@on(BETWEEN_DRIVERS)
class TestEnd(EndContract):
    """Closing, draining, losing, limits."""
