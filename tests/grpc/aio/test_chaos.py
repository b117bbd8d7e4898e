"""Many calls of all kinds, given up at any moment, on connections that are cut and servers that restart.

Every call ends, with a status that may be; nothing is left behind, and nothing is logged as an error.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from hvrpc.grpc import aio

from .sides import LOOPS, Side, run, serving

CALLS = 400
AT_A_TIME = 24

Code = grpc.StatusCode
MAY_BE = {Code.OK, Code.UNAVAILABLE, Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.NOT_FOUND}


async def one(request: bytes, context: Any) -> bytes:
    await asyncio.sleep(len(request) % 3 / 1000)
    if len(request) % 11 == 0:
        await context.abort(Code.NOT_FOUND, "none")
    return request


async def many(request: bytes, context: Any) -> AsyncIterator[bytes]:
    for _ in range(len(request) % 20):
        yield bytes(len(request) * 100)
        await asyncio.sleep(0)


async def total(requests: Any, context: Any) -> bytes:
    return b"%d" % sum([len(request) async for request in requests])


async def back(requests: Any, context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


METHODS = {
    "unary_unary": one,
    "unary_stream": many,
    "stream_unary": total,
    "stream_stream": back,
}


class Chaos:
    def __init__(self, side: Side, seed: int) -> None:
        self.side = side
        self.random = random.Random(seed)
        self.channel = side.channel()
        self.codes: list[grpc.StatusCode] = []

    def _requests(self, count: int) -> list[bytes]:
        return [bytes(self.random.randrange(3000)) for _ in range(count)]

    async def call(self) -> None:
        chance = self.random
        name = chance.choice(list(METHODS))
        settings: dict[str, Any] = {}
        if chance.random() < 0.3:
            settings["timeout"] = chance.choice((0.0, 0.001, 0.01, 5))
        if chance.random() < 0.5:
            settings["wait_for_ready"] = True
        method = self.side.method(name, self.channel)
        if name.startswith("stream"):
            requests = self._requests(chance.randrange(8))
            call = method(
                _slowly(requests) if chance.random() < 0.5 else iter(requests), **settings
            )
        else:
            call = method(self._requests(1)[0], **settings)
        given_up = chance.choice((None, None, "call", "task"))
        task = asyncio.create_task(_result(name, call))
        if given_up is not None:
            await asyncio.sleep(chance.random() / 100)
            (call if given_up == "call" else task).cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
        self.codes.append(await call.code())
        assert call.done() or name.endswith("stream")

    async def calls(self) -> None:
        async def keep_calling() -> None:
            while len(self.codes) < CALLS:
                await self.call()

        await asyncio.gather(*(keep_calling() for _ in range(AT_A_TIME)))

    async def trouble(self) -> None:
        """Cut connections and restart the server, until told to stop."""
        while True:
            await asyncio.sleep(self.random.random() / 20)
            current = self.channel.session.current
            if self.random.random() < 0.7:
                if current is not None:
                    current.end(ConnectionResetError("cut"))
            else:
                await self.side.server.stop(self.random.choice((None, 0.01, 1)))
                await self.side.serve(None, **METHODS)


async def _slowly(requests: list[bytes]) -> AsyncIterator[bytes]:
    for request in requests:
        await asyncio.sleep(0.0005)
        yield request


async def _result(name: str, call: Any) -> None:
    try:
        if name.endswith("unary"):
            await call
        else:
            async for _ in call:
                pass
    except aio.AioRpcError as error:
        assert error.code() in MAY_BE, error  # noqa: PT017


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("loop", LOOPS)
def test_everything_ends(loop: str, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving(None, **METHODS) as side:
            chaos = Chaos(side, seed)
            trouble = asyncio.create_task(chaos.trouble())
            try:
                await chaos.calls()
            finally:
                trouble.cancel()
                await asyncio.wait([trouble])
            assert Code.OK in chaos.codes
            assert set(chaos.codes) <= MAY_BE
            await side.serve_again(**METHODS)
            assert (
                await side.method("unary_unary", chaos.channel)(b"x", wait_for_ready=True) == b"x"
            )
            assert not chaos.channel.waiting
            for connection in chaos.channel.session.connections():
                assert not list(connection.core.calls())

    with caplog.at_level(logging.WARNING):
        run(main, loop)
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert not errors, errors[0].getMessage()
