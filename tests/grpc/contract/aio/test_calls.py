"""The four kinds of call, in all the ways in which `grpc.aio` lets one make them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from ....sockets.background import WAIT
from ..bench import METHOD
from ..kinds import (
    BIDI,
    CLIENT_STREAM,
    KINDS,
    SERVER_STREAM,
    STREAMING_REQUESTS,
    STREAMING_RESPONSES,
    UNARY,
    plain,
    plain_handler,
)
from . import bench as calls
from .bench import AioBench, aio_handler_of, echo

KiB = 1024
MiB = 1024 * KiB
UsageError = grpc.aio.UsageError


async def give_back(request: bytes, context: Any) -> bytes:
    return request


class TestUnary:
    async def test_has_a_response(self, bench: AioBench) -> None:
        method = await bench.unary(give_back)
        assert await method(b"hello") == b"hello"

    async def test_the_call_tells_of_itself(self, bench: AioBench) -> None:
        call = (await bench.unary(give_back))(b"x", timeout=WAIT)
        assert isinstance(call, grpc.aio.Call)
        assert isinstance(call, grpc.aio.UnaryUnaryCall)
        assert not call.done()
        assert not call.cancelled()
        remaining = call.time_remaining()
        assert remaining is not None
        assert 0 < remaining <= WAIT
        assert await call == b"x"
        assert call.done()
        assert await call.code() is grpc.StatusCode.OK
        assert await call.details() == ""
        assert plain(await call.initial_metadata()) == ()
        assert plain(await call.trailing_metadata()) == ()
        assert await call == b"x", "again"

    async def test_without_a_timeout_no_time_remains_to_tell(self, bench: AioBench) -> None:
        call = (await bench.unary(give_back))(b"x")
        assert call.time_remaining() is None
        await call

    async def test_wait_for_connection(self, bench: AioBench) -> None:
        call = (await bench.unary(give_back))(b"x")
        await call.wait_for_connection()
        assert await call == b"x"

    async def test_many_at_once(self, bench: AioBench) -> None:
        method = await bench.unary(give_back)
        requests = [b"%d" % number for number in range(300)]
        assert await asyncio.gather(*(method(each) for each in requests)) == requests

    async def test_large_messages(self, bench: AioBench) -> None:
        method = await bench.unary(give_back)
        for size in (64 * KiB, MiB, 3 * MiB):
            message = bytes(range(256)) * (size // 256)
            assert await method(message) == message

    async def test_done_callbacks(self, bench: AioBench) -> None:
        called: asyncio.Queue[Any] = asyncio.Queue()
        call = (await bench.unary(give_back))(b"x")
        call.add_done_callback(called.put_nowait)
        assert await call == b"x"
        assert await called.get() is call
        call.add_done_callback(called.put_nowait)
        assert await called.get() is call

    async def test_handlers_run_at_the_same_time(self, bench: AioBench) -> None:
        arrived = 0
        all_there = asyncio.Event()

        async def meet(request: bytes, context: Any) -> bytes:
            nonlocal arrived
            arrived += 1
            if arrived == 10:
                all_there.set()
            await all_there.wait()
            return request

        method = await bench.unary(meet)
        assert await asyncio.gather(*(method(b"x") for _ in range(10))) == [b"x"] * 10

    async def test_blocking_handlers_run_in_threads(self, bench: AioBench) -> None:
        """Handlers that are no coroutines may block, and the loop goes on."""
        loop = asyncio.get_running_loop()
        let_go = asyncio.Event()
        entered = asyncio.Event()

        def block(request: bytes, context: Any) -> bytes:
            loop.call_soon_threadsafe(entered.set)
            asyncio.run_coroutine_threadsafe(let_go.wait(), loop).result(WAIT)
            return request

        method = await bench.unary(block)
        call = asyncio.ensure_future(method(b"x"))
        await entered.wait()
        let_go.set()
        assert await call == b"x"


class TestServerStream:
    async def test_is_iterated(self, bench: AioBench) -> None:
        async def count(request: bytes, context: Any) -> AsyncIterator[bytes]:
            for number in range(int(request)):
                yield b"%d" % number

        call = (await bench.server_stream(count))(b"500")
        assert [int(each) async for each in call] == list(range(500))
        assert await call.code() is grpc.StatusCode.OK

    async def test_is_read(self, bench: AioBench) -> None:
        async def two(request: bytes, context: Any) -> AsyncIterator[bytes]:
            yield b"a"
            yield b"b"

        call = (await bench.server_stream(two))(b"")
        assert [await call.read(), await call.read()] == [b"a", b"b"]
        assert await call.read() is grpc.aio.EOF
        assert await call.read() is grpc.aio.EOF

    async def test_is_iterated_or_read_but_not_both(self, bench: AioBench) -> None:
        async def two(request: bytes, context: Any) -> AsyncIterator[bytes]:
            yield b"a"
            yield b"b"

        call = (await bench.server_stream(two))(b"")
        assert await call.read() == b"a"
        with pytest.raises(UsageError):
            async for _ in call:
                pass
        assert await call.read() == b"b"

    async def test_handlers_may_write(self, bench: AioBench) -> None:
        async def write(request: bytes, context: Any) -> None:
            for each in (b"a", b"b", b"c"):
                await context.write(each)

        call = (await bench.server_stream(write))(b"")
        assert [each async for each in call] == [b"a", b"b", b"c"]

    async def test_responses_come_while_the_handler_goes_on(self, bench: AioBench) -> None:
        let_go = asyncio.Event()

        async def two(request: bytes, context: Any) -> AsyncIterator[bytes]:
            yield b"first"
            await let_go.wait()
            yield b"second"

        call = (await bench.server_stream(two))(b"")
        assert await call.read() == b"first"
        let_go.set()
        assert await call.read() == b"second"

    async def test_blocking_generators_run_in_threads(self, bench: AioBench) -> None:
        def count(request: bytes, context: Any) -> Iterator[bytes]:
            for number in range(20):
                yield b"%d" % number

        call = (await bench.server_stream(count))(b"")
        assert [int(each) async for each in call] == list(range(20))

    async def test_an_error_after_some_responses(self, bench: AioBench) -> None:
        async def break_off(request: bytes, context: Any) -> AsyncIterator[bytes]:
            yield b"a"
            await context.abort(grpc.StatusCode.DATA_LOSS, "the rest is lost")

        call = (await bench.server_stream(break_off))(b"")
        assert await call.read() == b"a"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.DATA_LOSS
        assert caught.value.details() == "the rest is lost"


class TestClientStream:
    async def test_takes_iterators(self, bench: AioBench) -> None:
        async def join(requests: AsyncIterator[bytes], context: Any) -> bytes:
            return b"+".join([request async for request in requests])

        method = await bench.client_stream(join)

        async def some() -> AsyncIterator[bytes]:
            yield b"a"
            yield b"b"

        assert await method(some()) == b"a+b"
        assert await method(iter((b"c", b"d"))) == b"c+d"
        assert await method([b"e"]) == b"e"
        assert await method(iter(())) == b""

    async def test_is_written(self, bench: AioBench) -> None:
        async def join(requests: AsyncIterator[bytes], context: Any) -> bytes:
            return b"+".join([request async for request in requests])

        call = (await bench.client_stream(join))()
        await call.write(b"a")
        await call.write(b"b")
        await call.done_writing()
        assert await call == b"a+b"
        assert await call.code() is grpc.StatusCode.OK

    async def test_is_given_an_iterator_or_written_but_not_both(self, bench: AioBench) -> None:
        async def join(requests: AsyncIterator[bytes], context: Any) -> bytes:
            return b"+".join([request async for request in requests])

        call = (await bench.client_stream(join))(iter((b"a",)))
        with pytest.raises(UsageError):
            await call.write(b"b")
        with pytest.raises(UsageError):
            await call.done_writing()
        assert await call == b"a"

    async def test_handlers_may_read(self, bench: AioBench) -> None:
        async def read(requests: Any, context: Any) -> bytes:
            received = []
            while (request := await context.read()) is not grpc.aio.EOF:
                received.append(request)
            return b"+".join(received)

        method = await bench.client_stream(read)
        assert await method(iter((b"a", b"b"))) == b"a+b"

    async def test_blocking_handlers_read_in_threads(self, bench: AioBench) -> None:
        def join(requests: Iterator[bytes], context: Any) -> bytes:
            return b"+".join(requests)

        method = await bench.client_stream(join)
        assert await method(iter((b"a", b"b"))) == b"a+b"

    async def test_nothing_is_written_after_the_end(self, bench: AioBench) -> None:
        async def first(requests: AsyncIterator[bytes], context: Any) -> bytes:
            async for request in requests:
                return request
            return b""

        call = (await bench.client_stream(first))()
        await call.write(b"a")
        assert await call == b"a"
        with pytest.raises(asyncio.InvalidStateError):
            await call.write(b"b")

    async def test_nothing_is_written_after_done_writing(self, bench: AioBench) -> None:
        async def join(requests: AsyncIterator[bytes], context: Any) -> bytes:
            return b"+".join([request async for request in requests])

        call = (await bench.client_stream(join))()
        await call.write(b"a")
        await call.done_writing()
        with pytest.raises(asyncio.InvalidStateError):
            await call.write(b"b")
        assert await call == b"a"

    async def test_an_iterator_that_raises_cancels_the_call(self, bench: AioBench) -> None:
        async def join(requests: AsyncIterator[bytes], context: Any) -> bytes:
            return b"+".join([request async for request in requests])

        async def broken() -> AsyncIterator[bytes]:
            yield b"a"
            raise ValueError("of the caller")

        call = (await bench.client_stream(join))(broken())
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await call.code() is grpc.StatusCode.CANCELLED


class TestBidi:
    async def test_is_iterated(self, bench: AioBench) -> None:
        call = (await bench.bidi(echo))(b"%d" % number for number in range(300))
        assert [int(each) async for each in call] == list(range(300))

    async def test_ping_pong(self, bench: AioBench) -> None:
        call = (await bench.bidi(echo))()
        for number in range(100):
            await call.write(b"%d" % number)
            assert await call.read() == b"%d" % number
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK

    async def test_handlers_may_read_and_write(self, bench: AioBench) -> None:
        async def shout(requests: Any, context: Any) -> None:
            while (request := await context.read()) is not grpc.aio.EOF:
                await context.write(request.upper())

        call = (await bench.bidi(shout))(iter((b"a", b"b")))
        assert [each async for each in call] == [b"A", b"B"]

    async def test_the_server_may_end_first(self, bench: AioBench) -> None:
        async def one(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            async for request in requests:
                yield request
                return

        call = (await bench.bidi(one))()
        await call.write(b"a")
        assert await call.read() == b"a"
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK

    async def test_blocking_handlers(self, bench: AioBench) -> None:
        def echo_in_thread(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            yield from requests

        call = (await bench.bidi(echo_in_thread))(iter((b"a", b"b")))
        assert [each async for each in call] == [b"a", b"b"]

    async def test_large_messages_cross(self, bench: AioBench) -> None:
        big = bytes(range(256)) * (4 * KiB)
        call = (await bench.bidi(echo))(iter([big] * 6))
        assert [each == big async for each in call] == [True] * 6


class TestAllKinds:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_echo(self, bench: AioBench, kind: str) -> None:
        outcome = await calls.call(kind, await bench.offer(kind, echo))
        assert outcome.responses == [b"request"]
        assert outcome.code is grpc.StatusCode.OK
        assert outcome.error is None

    @pytest.mark.parametrize("kind", KINDS)
    async def test_serializers(self, bench: AioBench, kind: str) -> None:
        async def add(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
            async for request in requests:
                yield request + 1

        handler = aio_handler_of(
            kind,
            add,
            request_deserializer=lambda data: int(data.decode()) * 10,
            response_serializer=lambda number: str(number).encode(),
        )
        await bench.serve({METHOD: handler})
        method = getattr(bench.channel(), kind)(
            f"/contract.Service/{METHOD}",
            request_serializer=str.encode,
            response_deserializer=lambda data: (data,),
        )
        outcome = await calls.call(kind, method, ("7",))  # type: ignore[arg-type]
        assert outcome.responses == [(b"71",)]

    @pytest.mark.parametrize("kind", KINDS)
    async def test_handlers_may_call_their_own_server(self, bench: AioBench, kind: str) -> None:
        inner: list[Any] = []

        async def forward(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            async for request in requests:
                for response in (await calls.call(kind, inner[0], (request,))).responses:
                    yield response

        await bench.serve(
            {METHOD: aio_handler_of(kind, forward), "Inner": aio_handler_of(kind, echo)}
        )
        channel = bench.channel()
        inner.append(bench.method(kind, "Inner", channel=channel))
        outcome = await calls.call(kind, bench.method(kind, channel=channel))
        assert outcome.responses == [b"request"]

    @pytest.mark.parametrize("kind", KINDS)
    async def test_calls_can_be_shown(self, bench: AioBench, kind: str) -> None:
        call = calls.begin(kind, await bench.offer(kind, echo))
        assert isinstance(repr(call), str)
        await calls.finish(kind, call)
        assert isinstance(str(call), str)
        wanted = {
            UNARY: grpc.aio.UnaryUnaryCall,
            SERVER_STREAM: grpc.aio.UnaryStreamCall,
            CLIENT_STREAM: grpc.aio.StreamUnaryCall,
            BIDI: grpc.aio.StreamStreamCall,
        }
        assert isinstance(call, wanted[kind])

    @pytest.mark.parametrize("kind", STREAMING_RESPONSES)
    async def test_streams_say_when_they_are_connected(self, bench: AioBench, kind: str) -> None:
        call = calls.begin(kind, await bench.offer(kind, echo))
        await call.wait_for_connection()
        assert (await calls.finish(kind, call)).responses == [b"request"]

    @pytest.mark.parametrize("kind", STREAMING_REQUESTS)
    async def test_an_endless_iterator_of_requests_ends_with_the_call(
        self, bench: AioBench, kind: str
    ) -> None:
        ended = asyncio.Event()

        async def endless() -> AsyncGenerator[bytes, None]:
            try:
                while True:
                    yield b"more"
                    await asyncio.sleep(0)
            finally:
                ended.set()

        async def one(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            async for request in requests:
                yield request
                return

        requests: Any = endless()
        call = (await bench.offer(kind, one))(requests)
        outcome = await calls.finish(kind, call)
        assert outcome.responses == [b"more"]
        for _ in range(1000):  # whoever reads it is about to let it go
            if not requests.ag_running:
                break
            await asyncio.sleep(0)
        await requests.aclose()
        assert ended.is_set()

    async def test_blocking_and_async_handlers_side_by_side(self, bench: AioBench) -> None:
        await bench.serve(
            {
                "Async": aio_handler_of(UNARY, echo),
                "Blocking": plain_handler(UNARY, lambda request, context: request),
            }
        )
        channel = bench.channel()
        for name in ("Async", "Blocking"):
            assert await bench.method(name=name, channel=channel)(b"x") == b"x"
