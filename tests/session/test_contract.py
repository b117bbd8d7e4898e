"""The contract of a connection: all of it for every pair of drivers, its basics on every family."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..sockets.places import MISSING, PLACES
from .contract import BasicContract, Contract
from .sides import Pair, pair_of


class TestDrivers(Contract):
    """Every pair of drivers."""


class TestFamilies(BasicContract):
    """Both drivers, over every family that this machine has; UNIX sockets have been tried above."""

    @pytest.fixture(params=[name for name in PLACES if name not in MISSING and name != "unix"])
    def pair(self, request: pytest.FixtureRequest) -> Iterator[Pair]:
        with PLACES[request.param]() as place, pair_of("threads", "asyncio", place) as pair:
            yield pair
