"""Nothing is carried out twice, and what is said not to have been sent was not carried out: whatever happens to
connections and servers meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import pytest

from hvrpc import Outcome
from hvrpc.grpc import aio

from .sides import LOOPS, Side, run, serving

CALLS = 600
AT_A_TIME = 16
LENGTHS = (0, 10, 3000, 30_000, 100_000)
NAME = 10
"""Bytes by which each call is known."""

SETTINGS: dict[str, Any] = {
    "as usual": None,
    "connections age": {
        "options": [
            ("grpc.max_connection_age_ms", 20),
            ("grpc.max_connection_age_grace_ms", 200),
        ]
    },
    "few calls at a time": {"options": [("grpc.max_concurrent_streams", 4)]},
}


class Tally:
    """Handlers that note which calls they have carried out."""

    def __init__(self) -> None:
        self.runs: Counter[bytes] = Counter()

    async def one(self, request: bytes, context: Any) -> bytes:
        self.runs[request[:NAME]] += 1
        await asyncio.sleep(0.001)
        return request

    async def many(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        self.runs[request[:NAME]] += 1
        for _ in range(5):
            yield request
            await asyncio.sleep(0)

    async def total(self, requests: Any, context: Any) -> bytes:
        return b"%d" % len([request async for request in self._noted(requests)])

    async def back(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        async for request in self._noted(requests):
            yield request

    async def _noted(self, requests: Any) -> AsyncIterator[bytes]:
        first = True
        async for request in requests:
            self.runs[request[:NAME]] += first
            first = False
            yield request

    @property
    def methods(self) -> dict[str, Any]:
        return {
            "unary_unary": self.one,
            "unary_stream": self.many,
            "stream_unary": self.total,
            "stream_stream": self.back,
        }


class Callers:
    """Calls of all kinds, each of which knows what it must get."""

    def __init__(self, side: Side, seed: int) -> None:
        self.side = side
        self.random = random.Random(seed)
        self.channel = side.channel()
        self.succeeded: list[bytes] = []
        self.failed: list[tuple[bytes, Outcome]] = []
        self._numbers = count()

    @property
    def made(self) -> int:
        return len(self.succeeded) + len(self.failed)

    async def call_on(self) -> None:
        while self.made < CALLS:
            name = b"%010d" % next(self._numbers)
            try:
                await self._call(name + bytes(self.random.choice(LENGTHS)))
            except aio.AioRpcError as error:
                self.failed.append((name, error.outcome))
            else:
                self.succeeded.append(name)

    async def _call(self, request: bytes) -> None:
        chance = self.random
        settings: dict[str, Any] = {"wait_for_ready": chance.random() < 0.5}
        if chance.random() < 0.2:
            settings["timeout"] = chance.choice((0.001, 0.01, 5))
        several = [request] * chance.randrange(1, 4)
        kind = chance.choice(("unary_unary", "unary_stream", "stream_unary", "stream_stream"))
        asked: Any = request
        if kind.startswith("stream"):
            asked = self._slowly(several) if chance.random() < 0.5 else several
        call = self.side.method(kind, self.channel)(asked, **settings)
        if kind == "unary_unary":
            assert await call == request
        elif kind == "stream_unary":
            assert await call == b"%d" % len(several)
        else:
            wanted = [request] * 5 if kind == "unary_stream" else several
            assert [response async for response in call] == wanted

    async def _slowly(self, requests: list[bytes]) -> AsyncIterator[bytes]:
        for request in requests:
            yield request
            await asyncio.sleep(0.001)

    async def trouble(self, serve_again: Any) -> None:
        """Cut, drain and leave connections, and restart the server, until told to stop."""
        while True:
            await asyncio.sleep(self.random.random() / 20)
            current = self.channel.session.current
            accepted = list(self.side.server._acceptor._connections)
            event = self.random.randrange(10)
            if event < 4 and current is not None:
                current.end(ConnectionResetError("cut"))
            elif event < 6 and current is not None:
                self.channel.session.let_go(current)
            elif event < 9:
                for connection in accepted:
                    connection.end(ConnectionResetError("cut"))
            else:
                await serve_again(self.random.choice((None, 0.01, 0.5)))


@pytest.mark.parametrize("settings", list(SETTINGS.values()), ids=SETTINGS)
@pytest.mark.parametrize("loop", LOOPS)
def test_nothing_is_carried_out_twice(loop: str, settings: dict[str, Any] | None) -> None:
    async def main() -> None:
        tally = Tally()
        async with serving(settings, **tally.methods) as side:
            callers = Callers(side, 1)

            async def serve_again(grace: float | None) -> None:
                await side.server.stop(grace)
                await side.serve(settings, **tally.methods)

            trouble = asyncio.create_task(callers.trouble(serve_again))
            try:
                await asyncio.gather(*(callers.call_on() for _ in range(AT_A_TIME)))
            finally:
                trouble.cancel()
                await asyncio.wait([trouble])
            await side.server.stop(None)
        assert callers.succeeded
        assert {name: tally.runs[name] for name in callers.succeeded} == dict.fromkeys(
            callers.succeeded, 1
        )
        not_sent = [name for name, outcome in callers.failed if outcome is Outcome.NOT_SENT]
        assert not [name for name in not_sent if tally.runs[name]]
        assert max(tally.runs.values()) == 1

    run(main, loop)
