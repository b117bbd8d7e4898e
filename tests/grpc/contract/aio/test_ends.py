"""How calls of `grpc.aio` end: status, metadata, deadlines, cancelling."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from ....sockets.background import WAIT
from ..bench import METHOD
from ..kinds import KINDS, STREAMING_REQUESTS, STREAMING_RESPONSES, UNARY, plain
from ..test_metadata import BAD, GOOD, MADE_BY_THE_TRANSPORT, Pairs
from ..test_status import ERRORS, TEXTS
from . import bench as calls
from .bench import AioBench, aio_handler_of, echo

StatusCode = grpc.StatusCode
MiB = 1024 * 1024
SHORT = 0.2


def _name(pairs: Any) -> str:
    return ascii(pairs)[:40]


class Held:
    """A handler that goes on until its task is cancelled, and tells."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.done = asyncio.Event()

    async def __call__(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        context.add_done_callback(lambda _: self.done.set())
        self.entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        yield b""


async def drain(requests: AsyncIterator[bytes]) -> None:
    """Take all requests: a call that ends while grpcio's client writes is an error of that client."""
    async for _ in requests:
        pass


class TestStatus:
    @pytest.mark.parametrize("code", ERRORS)
    async def test_abort_with_any_code(self, bench: AioBench, code: grpc.StatusCode) -> None:
        async def abort(requests: Any, context: Any) -> AsyncIterator[bytes]:
            await context.abort(code, f"because of {code.name}")
            yield b""

        outcome = await calls.call(UNARY, await bench.offer(UNARY, abort))
        assert outcome.code is code
        assert outcome.details == f"because of {code.name}"

    @pytest.mark.parametrize("kind", KINDS)
    async def test_errors_are_aio_rpc_errors(self, bench: AioBench, kind: str) -> None:
        seen = asyncio.Event()

        async def abort(requests: Any, context: Any) -> AsyncIterator[bytes]:
            await drain(requests)
            await context.send_initial_metadata((("first", "1"),))
            await seen.wait()
            await context.abort(StatusCode.ABORTED, "enough", (("last", "2"),))
            yield b""

        call = calls.begin(kind, await bench.offer(kind, abort))
        if kind in STREAMING_RESPONSES:
            # grpcio forgets them when they come together with the end.
            assert plain(await call.initial_metadata()) == (("first", "1"),)
        seen.set()
        outcome = await calls.finish(kind, call)
        error = outcome.error
        assert isinstance(error, grpc.aio.AioRpcError)
        assert error.code() is StatusCode.ABORTED
        assert error.details() == "enough"
        assert plain(error.initial_metadata()) == (("first", "1"),)
        assert plain(error.trailing_metadata()) == (("last", "2"),)
        assert isinstance(error.debug_error_string(), str)
        assert "ABORTED" in str(error)
        assert "enough" in repr(error)

    @pytest.mark.parametrize("text", TEXTS, ids=_name)
    async def test_details_are_any_text(self, bench: AioBench, text: str) -> None:
        async def abort(requests: Any, context: Any) -> AsyncIterator[bytes]:
            await context.abort(StatusCode.ABORTED, text)
            yield b""

        assert (await calls.call(UNARY, await bench.offer(UNARY, abort))).details == text

    @pytest.mark.parametrize("kind", KINDS)
    async def test_handlers_that_raise(self, bench: AioBench, kind: str) -> None:
        async def fail(requests: Any, context: Any) -> AsyncIterator[bytes]:
            await drain(requests)
            raise ValueError("boom")
            yield b""

        outcome = await calls.call(kind, await bench.offer(kind, fail))
        assert outcome.code is StatusCode.UNKNOWN
        assert outcome.details == "Unexpected <class 'ValueError'>: boom"

    @pytest.mark.parametrize("kind", KINDS)
    async def test_set_code_and_details(self, bench: AioBench, kind: str) -> None:
        async def say(requests: Any, context: Any) -> AsyncIterator[bytes]:
            context.set_code(StatusCode.OUT_OF_RANGE)
            context.set_details("too far")
            assert context.code() in (StatusCode.OUT_OF_RANGE, StatusCode.OUT_OF_RANGE.value[0])
            assert context.details() == "too far"
            yield b""

        outcome = await calls.call(kind, await bench.offer(kind, say))
        assert outcome.code is StatusCode.OUT_OF_RANGE
        assert outcome.details == "too far"

    @pytest.mark.parametrize("kind", KINDS)
    async def test_unknown_methods(self, bench: AioBench, kind: str) -> None:
        await bench.serve({})
        method = bench.method(kind)
        # With an iterator, grpcio may report that it could not write, and nothing else.
        call = method() if kind in STREAMING_REQUESTS else method(b"")
        outcome = await calls.finish(kind, call)
        assert outcome.code is StatusCode.UNIMPLEMENTED
        assert outcome.details == "Method not found!"

    @pytest.mark.parametrize("kind", KINDS)
    async def test_nobody_there(self, bench: AioBench, kind: str) -> None:
        outcome = await calls.call(kind, bench.method(kind))
        assert outcome.code is StatusCode.UNAVAILABLE

    @pytest.mark.parametrize("kind", KINDS)
    async def test_messages_beyond_the_limit(self, bench: AioBench, kind: str) -> None:
        async def grow(requests: Any, context: Any) -> AsyncIterator[bytes]:
            async for request in requests:
                yield request * 2

        handlers = {METHOD: aio_handler_of(kind, grow)}
        await bench.serve(handlers, options=(("grpc.max_receive_message_length", 1000),))
        channel = bench.channel(options=(("grpc.max_receive_message_length", 1500),))
        method = bench.method(kind, channel=channel)
        fine = await calls.call(kind, method, (bytes(750),))
        assert fine.responses == [bytes(1500)]
        there = await calls.call(kind, method, (bytes(1001),))
        assert there.code is StatusCode.RESOURCE_EXHAUSTED
        back = await calls.call(kind, method, (bytes(800),))
        assert back.code is StatusCode.RESOURCE_EXHAUSTED
        assert back.details is not None
        assert "CLIENT: Received message larger than max (1600 vs. 1500)" in back.details

    async def test_requests_that_cannot_be_read(self, bench: AioBench) -> None:
        handler = aio_handler_of(UNARY, echo, request_deserializer=lambda _: 1 / 0)
        await bench.serve({METHOD: handler})
        outcome = await calls.call(UNARY, bench.method())
        assert outcome.code is not StatusCode.OK


class TestMetadata:
    @pytest.mark.parametrize("pairs", GOOD, ids=_name)
    async def test_crosses_both_ways(self, bench: AioBench, pairs: Pairs) -> None:
        async def say(request: bytes, context: Any) -> bytes:
            told = plain(context.invocation_metadata())
            pairs = tuple(pair for pair in told if pair[0] not in MADE_BY_THE_TRANSPORT)
            await context.send_initial_metadata(pairs)
            context.set_trailing_metadata(pairs)
            return request

        call = (await bench.unary(say))(b"", metadata=pairs)
        assert await call == b""
        grouped = plain(grpc.aio.Metadata(*pairs))  # by key, which is how that class keeps them
        assert plain(await call.initial_metadata()) == grouped
        assert plain(await call.trailing_metadata()) == grouped

    @pytest.mark.parametrize("pairs", BAD, ids=_name)
    async def test_that_cannot_be_said(self, bench: AioBench, pairs: Pairs) -> None:
        ran: list[bool] = []

        async def note(request: bytes, context: Any) -> bytes:
            ran.append(True)
            return request

        method = await bench.unary(note)
        with pytest.raises((grpc.RpcError, ValueError, grpc.aio.InternalError)):
            await method(b"", metadata=pairs)
        assert not ran
        assert await method(b"next") == b"next"

    async def test_has_a_class_of_its_own(self, bench: AioBench) -> None:
        async def say(request: bytes, context: Any) -> bytes:
            context.set_trailing_metadata(grpc.aio.Metadata(("key", "value")))
            return request

        method = await bench.unary(say)
        metadata = grpc.aio.Metadata(("a", "1"), ("a", "2"))
        metadata.add("b", "3")
        call = method(b"", metadata=metadata)
        await call
        trailing = await call.trailing_metadata()
        assert isinstance(trailing, grpc.aio.Metadata)
        assert trailing["key"] == "value"
        assert trailing.get_all("key") == ["value"]
        assert isinstance(await call.initial_metadata(), grpc.aio.Metadata)

    async def test_the_initial_one_comes_first(self, bench: AioBench) -> None:
        let_go = asyncio.Event()

        async def say(request: bytes, context: Any) -> AsyncIterator[bytes]:
            await context.send_initial_metadata((("first", "1"),))
            await let_go.wait()
            yield b"response"

        call = (await bench.server_stream(say))(b"")
        assert plain(await call.initial_metadata()) == (("first", "1"),)
        assert not call.done()
        let_go.set()
        assert await call.read() == b"response"


class TestDeadlines:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_end_the_call_for_both_sides(self, bench: AioBench, kind: str) -> None:
        held = Held()
        outcome = await calls.call(kind, await bench.offer(kind, held), timeout=SHORT)
        assert outcome.code is StatusCode.DEADLINE_EXCEEDED
        assert outcome.details == "Deadline Exceeded"
        await held.cancelled.wait()
        await held.done.wait()

    async def test_handlers_know_what_is_left(self, bench: AioBench) -> None:
        seen: list[float | None] = []

        async def look(request: bytes, context: Any) -> bytes:
            seen.append(context.time_remaining())
            return request

        method = await bench.unary(look)
        await method(b"", timeout=1000)
        await method(b"")
        assert seen[0] is not None
        assert 1000 - WAIT < seen[0] < 1020
        assert seen[1] is None

    async def test_that_have_passed_already(self, bench: AioBench) -> None:
        ran: list[bool] = []

        async def note(request: bytes, context: Any) -> bytes:
            ran.append(True)
            return request

        method = await bench.unary(note)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(b"", timeout=-1)
        assert caught.value.code() is StatusCode.DEADLINE_EXCEEDED
        assert not ran


class TestCancelling:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_a_call_cancels_its_handler(self, bench: AioBench, kind: str) -> None:
        held = Held()
        call = calls.begin(kind, await bench.offer(kind, held))
        waiting = asyncio.ensure_future(calls.finish(kind, call))
        await held.entered.wait()
        assert call.cancel() is True
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert call.cancelled()
        assert call.done()
        assert await call.code() is StatusCode.CANCELLED
        assert await call.details() == "Locally cancelled by application!"
        assert call.cancel() is False
        await held.cancelled.wait()
        await held.done.wait()

    @pytest.mark.parametrize("kind", KINDS)
    async def test_a_cancelled_task_cancels_its_call(self, bench: AioBench, kind: str) -> None:
        held = Held()
        call = calls.begin(kind, await bench.offer(kind, held))

        async def use() -> None:
            if kind in STREAMING_RESPONSES:
                async for _ in call:
                    pass
            else:
                await call

        task = asyncio.ensure_future(use())
        await held.entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await held.cancelled.wait()

    async def test_wait_for_bounds_a_call(self, bench: AioBench) -> None:
        held = Held()
        method = await bench.offer(UNARY, held)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(method(b""), SHORT)
        await held.cancelled.wait()

    async def test_after_the_end_does_nothing(self, bench: AioBench) -> None:
        call = (await bench.offer(UNARY, echo))(b"x")
        assert await call == b"x"
        assert call.cancel() is False
        assert not call.cancelled()
        assert await call.code() is StatusCode.OK

    async def test_closing_the_channel_cancels_its_calls(self, bench: AioBench) -> None:
        held = Held()
        await bench.serve({METHOD: aio_handler_of(UNARY, held)})
        channel = bench.channel()
        call = bench.method(channel=channel)(b"")
        waiting = asyncio.ensure_future(call)
        await held.entered.wait()
        await channel.close()
        with pytest.raises((asyncio.CancelledError, grpc.aio.AioRpcError)):
            await waiting
        assert call.done()
        await held.cancelled.wait()

    async def test_closing_the_channel_may_wait_for_its_calls(self, bench: AioBench) -> None:
        let_go, entered = asyncio.Event(), asyncio.Event()

        async def hold(request: bytes, context: Any) -> bytes:
            entered.set()
            await let_go.wait()
            return request

        await bench.unary(hold)
        channel = bench.channel()
        call = asyncio.ensure_future(bench.method(channel=channel)(b"x"))
        await entered.wait()
        closing = asyncio.ensure_future(channel.close(WAIT))
        await asyncio.sleep(0)
        let_go.set()
        assert await call == b"x"
        await closing

    async def test_a_closed_channel_makes_no_calls(self, bench: AioBench) -> None:
        await bench.serve({METHOD: aio_handler_of(UNARY, echo)})
        channel = bench.channel()
        method = bench.method(channel=channel)
        await channel.close()
        await channel.close()
        with pytest.raises((grpc.aio.UsageError, asyncio.CancelledError, ValueError)):
            await method(b"")
