"""Every combination of drivers, for the tests that all of them have to pass."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from ..sockets.places import PLACES
from .sides import MISSING, PAIRS, Pair, pair_of


@pytest.fixture(scope="session", autouse=True)
def first_uvloop() -> None:
    """The first uvloop of a process opens a pipe that it keeps; no test shall be blamed for it."""
    if "uvloop" not in MISSING:
        import uvloop

        uvloop.new_event_loop().close()


@pytest.fixture(params=PAIRS, ids=[f"{calling} calls {serving}" for calling, serving in PAIRS])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A client's driver and a server's, which meet on a UNIX socket (on Windows: the fabric)."""
    calling, serving = request.param
    for name in (calling, serving):
        if name in MISSING:
            pytest.skip(MISSING[name])
    family = "unix" if hasattr(socket, "AF_UNIX") else "local over TCP"
    with PLACES[family]() as place, pair_of(calling, serving, place) as pair:
        yield pair
