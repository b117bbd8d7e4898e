"""What our hello does to strangers that take an unknown method badly, and how to do without it.

None of the installed peers is one of them, but mprpc is known to close the connection, and aiorpc
never to answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hvrpc import ConnectionLost, DeadlineExceeded, OpenFailed, Outcome

from ..msgpack.drivers import ASYNCIO, BLOCKING, Bench, bench
from ..sockets.places import MISSING, PLACES
from .processes import socket_folder
from .reference import NOTIFICATION, ReferenceServer

pytestmark = pytest.mark.skipif("unix" in MISSING, reason=MISSING.get("unix", ""))

SOON = 0.2
"""Seconds until a peer that never answers is given up."""


class Stranger(ReferenceServer):
    """Remembers the names of all that it is asked."""

    def __init__(self, path: Path) -> None:
        self.asked: list[str] = []
        super().__init__(path)

    def _handle(self, messages: Any, message: list[Any]) -> None:
        name = message[1] if message[0] == NOTIFICATION else message[2]
        self.asked.append(name)
        if name in self._methods:
            super()._handle(messages, message)
        else:
            self.meet_unknown(name)

    def meet_unknown(self, name: str) -> None:
        raise NotImplementedError


class ClosingStranger(Stranger):
    def meet_unknown(self, name: str) -> None:
        raise ConnectionAbortedError(name)


class SilentStranger(Stranger):
    def meet_unknown(self, name: str) -> None:
        pass


@pytest.fixture(params=[ClosingStranger, SilentStranger])
def stranger(request: pytest.FixtureRequest) -> Iterator[Stranger]:
    with socket_folder() as folder, request.param(folder / "stranger") as made:
        made.url = f"unix://{folder}/stranger"
        yield made


@pytest.fixture(params=[BLOCKING, ASYNCIO], name="bench")
def _bench(request: pytest.FixtureRequest, stranger: Any) -> Iterator[Bench]:
    with PLACES["unix"]() as place, bench(place, request.param, request.param) as made:
        made.url = stranger.url
        yield made


def test_with_a_hello_there_is_no_connection(bench: Bench, stranger: Stranger) -> None:
    """Better none than one that dies, or seems to be slow, in the midst of the first call."""
    with pytest.raises(OpenFailed) as failed:
        bench.connect(timeout=SOON, retry=False)
    assert failed.value.outcome is Outcome.NOT_SENT
    (attempt,) = failed.value.attempts
    assert isinstance(attempt.error, ConnectionLost)
    assert stranger.asked == ["$/hello"]


def test_without_a_hello_it_never_meets_anything_of_ours(bench: Bench, stranger: Stranger) -> None:
    """No ping while a call takes long, no cancel when it was given up, no goodbye in the end."""
    client = bench.connect(hello=False, dead_after=SOON)
    assert client.call("add", 2, 3) == 5
    assert client.call("slow", 2 * SOON, "patient") == "patient"
    with pytest.raises(DeadlineExceeded):
        client.call("slow", SOON, "late", timeout=SOON / 10)
    client.notify("note", "noted")
    assert client.call("notes") == ["noted"]
    assert client.connections == 1
    client.close()
    stranger.close()  # it has taken in all that was sent
    assert stranger.asked == ["add", "slow", "slow", "note", "notes"]
