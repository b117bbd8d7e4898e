"""The contract of `Stream` and `Listener`, on every family that this machine has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .contract import ListenerContract, StreamContract
from .places import MISSING, PLACES, Place


@pytest.fixture(params=[name for name in PLACES if name not in MISSING])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with PLACES[request.param]() as place:
        yield place


@pytest.mark.parametrize("family", list(MISSING))
def test_family_is_on_this_machine(family: str) -> None:
    """One line in the summary for each family that is not, instead of one for each test."""
    pytest.skip(MISSING[family])


class TestStream(StreamContract):
    """What a connection does."""


class TestListener(ListenerContract):
    """What a service that waits for callers does."""
