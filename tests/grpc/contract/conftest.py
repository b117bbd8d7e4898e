"""Every pair of engines, for the tests that all of them have to pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from ...sockets.places import short_folder
from . import engines
from .bench import Bench
from .wiretap import Wiretap


@pytest.fixture(params=engines.pairs(engines.BLOCKING))
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    calling, serving = request.param
    with short_folder() as folder, ExitStack() as stack:
        yield Bench(calling, serving, folder, stack)


@pytest.fixture
def tap(bench: Bench) -> Iterator[Wiretap]:
    """Between the channels made by it and the server of the bench."""
    with closing(Wiretap(bench.fresh_path(), bench)) as tap:
        yield tap
