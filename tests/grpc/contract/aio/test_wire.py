"""What calls of asyncio make of compression, retries and connections that are too old: as it is on the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from typing import Any

import grpc
import pytest

from .. import engines
from ..bench import METHOD
from ..kinds import BIDI, KINDS, SERVER_STREAM, STREAMING_RESPONSES, UNARY
from ..test_compression import ALGORITHMS, BIG, NAMES, UNPACK
from ..test_retries import config
from ..wiretap import Side, Wiretap
from . import bench as calls
from .bench import AioBench, aio_handler_of, echo


@contextmanager
def tapped(bench: AioBench) -> Iterator[Wiretap]:
    with closing(Wiretap(bench.fresh_path(), bench)) as tap:
        yield tap


def is_compressed(side: Side, algorithm: grpc.Compression) -> bool:
    assert side.encoding == NAMES[algorithm]
    compressed, payload = side.messages[0]
    return compressed and UNPACK[NAMES[algorithm]](payload) == BIG


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("kind", KINDS)
class TestCompression:
    async def test_of_requests_by_a_call(
        self, bench: AioBench, kind: str, algorithm: grpc.Compression
    ) -> None:
        await bench.serve({METHOD: aio_handler_of(kind, echo)})
        with tapped(bench) as tap:
            method = bench.method(kind, channel=tap.channel())
            outcome = await calls.call(kind, method, (BIG,), compression=algorithm)
            assert outcome.responses == [BIG]
            assert is_compressed(tap.request, algorithm)

    async def test_of_requests_by_a_channel(
        self, bench: AioBench, kind: str, algorithm: grpc.Compression
    ) -> None:
        await bench.serve({METHOD: aio_handler_of(kind, echo)})
        with tapped(bench) as tap:
            method = bench.method(kind, channel=tap.channel(compression=algorithm))
            assert (await calls.call(kind, method, (BIG,))).responses == [BIG]
            assert is_compressed(tap.request, algorithm)

    async def test_of_responses_by_a_server(
        self, bench: AioBench, kind: str, algorithm: grpc.Compression
    ) -> None:
        await bench.serve({METHOD: aio_handler_of(kind, echo)}, compression=algorithm)
        with tapped(bench) as tap:
            method = bench.method(kind, channel=tap.channel())
            assert (await calls.call(kind, method, (BIG,))).responses == [BIG]
            assert is_compressed(await asyncio.to_thread(lambda: tap.response), algorithm)


# grpc.aio ignores it in handlers of one response.
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("kind", STREAMING_RESPONSES)
async def test_compression_of_responses_by_a_handler(
    bench: AioBench, kind: str, algorithm: grpc.Compression
) -> None:
    async def compress(requests: Any, context: Any) -> AsyncIterator[bytes]:
        context.set_compression(algorithm)
        async for request in requests:
            yield request

    await bench.serve({METHOD: aio_handler_of(kind, compress)})
    with tapped(bench) as tap:
        method = bench.method(kind, channel=tap.channel())
        assert (await calls.call(kind, method, (BIG,))).responses == [BIG]
        assert is_compressed(await asyncio.to_thread(lambda: tap.response), algorithm)


class Failing:
    """Fails so many times before it goes well."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.seen: list[list[bytes]] = []
        self.attempts: list[Any] = []

    async def __call__(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        received = [request async for request in requests]
        self.seen.append(received)
        self.attempts.append(dict(context.invocation_metadata()).get("grpc-previous-rpc-attempts"))
        if len(self.seen) <= self.times:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"try {len(self.seen)}")
        for request in received:
            yield request


class TestRetries:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_a_call_that_fails_is_made_again(self, bench: AioBench, kind: str) -> None:
        failing = Failing(2)
        await bench.offer(kind, failing)
        method = bench.method(kind, channel=bench.channel(options=config()))
        assert (await calls.call(kind, method, (b"a",))).responses == [b"a"]
        assert failing.seen == [[b"a"]] * 3
        assert failing.attempts == [None, "1", "2"]

    @pytest.mark.parametrize("kind", KINDS)
    async def test_not_for_ever(self, bench: AioBench, kind: str) -> None:
        failing = Failing(100)
        await bench.offer(kind, failing)
        method = bench.method(kind, channel=bench.channel(options=config()))
        outcome = await calls.call(kind, method)
        assert (outcome.code, outcome.details) == (grpc.StatusCode.UNAVAILABLE, "try 4")
        assert len(failing.seen) == 4

    async def test_not_after_the_first_response(self, bench: AioBench) -> None:
        tries = 0

        async def fail(requests: Any, context: Any) -> AsyncIterator[bytes]:
            nonlocal tries
            tries += 1
            yield b"one"
            await context.abort(grpc.StatusCode.UNAVAILABLE, "")

        await bench.offer(SERVER_STREAM, fail)
        method = bench.method(SERVER_STREAM, channel=bench.channel(options=config()))
        outcome = await calls.call(SERVER_STREAM, method)
        assert outcome.responses == [b"one"]
        assert outcome.code is grpc.StatusCode.UNAVAILABLE
        assert tries == 1

    async def test_what_was_written_is_sent_again(self, bench: AioBench) -> None:
        failing = Failing(1)
        await bench.offer(BIDI, failing)
        call = bench.method(BIDI, channel=bench.channel(options=config()))()
        for request in (b"a", b"b"):
            await call.write(request)
        await call.done_writing()
        assert [response async for response in call] == [b"a", b"b"]
        assert failing.seen == [[b"a", b"b"]] * 2


async def test_no_call_is_lost_when_connections_are_too_old(bench: AioBench) -> None:
    if bench.calling.name != engines.NATIVE:
        pytest.skip("a C core loses one now and then, on a busy machine, and does not repeat it")
    options = (("grpc.max_connection_age_ms", 20), ("grpc.max_connection_age_grace_ms", 5000))
    await bench.serve({METHOD: aio_handler_of(UNARY, echo)}, options=options)
    method = bench.method()
    for _ in range(20):
        assert await asyncio.gather(*(method(b"x") for _ in range(8))) == [b"x"] * 8
        await asyncio.sleep(0.005)
