"""The contract of a connection with TLS on it: nothing above it may notice. And what TLS adds."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator

import pytest

from ..certificates import Certificates
from ..sockets.places import MISSING, PLACES
from .chaos import RESULT, play
from .contract import BasicContract, Contract
from .sides import MISSING as MISSING_DRIVERS
from .sides import Pair, pair_of
from .test_chaos import SECONDS, SEED

FAMILY = "unix" if hasattr(socket, "AF_UNIX") else "local over TCP"


class TestDrivers(Contract):
    """All of it, for both drivers."""

    def test_calls_end_truthfully_however_the_line_breaks(self, pair: Pair) -> None:
        """As without TLS: cut at random bytes in both directions, and nothing is carried out twice."""
        print(f"HVRPC_CHAOS_SEED={SEED}")
        story = play(pair, SECONDS, SEED, results=10, connections=1)
        print(story)
        assert story.lies() == []
        assert Counter(story.fates.values())[RESULT] > 10, (
            "the line was so bad that it proves little"
        )
        assert story.connections > 1, "the line was so good that it proves little"

    @pytest.fixture(params=["threads", "asyncio"])
    def pair(self, request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[Pair]:
        tls = certificates.tls("host", names="host")
        with PLACES[FAMILY]() as place, pair_of(request.param, request.param, place, tls) as pair:
            yield pair


class TestLoops(BasicContract):
    """The other loops, and different drivers at the two ends."""

    @pytest.fixture(params=[("uvloop", "uvloop"), ("asyncio", "threads")])
    def pair(self, request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[Pair]:
        calling, serving = request.param
        if calling in MISSING_DRIVERS:
            pytest.skip(MISSING_DRIVERS[calling])
        tls = certificates.tls("host", names="host")
        with PLACES[FAMILY]() as place, pair_of(calling, serving, place, tls) as pair:
            yield pair


class TestFamilies(BasicContract):
    """Over every family that this machine has."""

    @pytest.fixture(params=[name for name in PLACES if name not in MISSING and name != FAMILY])
    def pair(self, request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[Pair]:
        tls = certificates.tls("host", names="host")
        with PLACES[request.param]() as place, pair_of("threads", "asyncio", place, tls) as pair:
            yield pair
