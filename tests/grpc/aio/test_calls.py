"""Calls of all kinds, awaited, iterated over, read and written; and how they are given up."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from hvrpc import Outcome
from hvrpc.grpc import aio

from .sides import LOOPS, all_of, run, serving


async def echo(request: bytes, context: Any) -> bytes:
    return request


async def count(request: bytes, context: Any) -> AsyncIterator[bytes]:
    for number in range(int(request)):
        yield b"%d" % number


async def join(requests: Any, context: Any) -> bytes:
    return b",".join([request async for request in requests])


async def echo_all(requests: Any, context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


async def requests_of(*requests: bytes) -> AsyncIterator[bytes]:
    for request in requests:
        yield request


class Held:
    """A handler that waits, and tells what becomes of it."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def wait(self, request: bytes, context: Any) -> bytes:
        self.reached.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return b""


@pytest.mark.parametrize("loop", LOOPS)
def test_all_kinds(loop: str) -> None:
    async def main() -> None:
        async with serving(
            unary_unary=echo, unary_stream=count, stream_unary=join, stream_stream=echo_all
        ) as side:
            assert await side.method("unary_unary")(b"x") == b"x"
            assert await all_of(side.method("unary_stream")(b"3")) == [b"0", b"1", b"2"]
            assert await side.method("stream_unary")(requests_of(b"a", b"b")) == b"a,b"
            assert await side.method("stream_unary")(iter([b"a", b"b"])) == b"a,b"
            call = side.method("stream_stream")()
            for number in (b"1", b"2"):
                await call.write(number)
                assert await call.read() == number
            await call.done_writing()
            assert await call.read() is aio.EOF
            assert await call.code() is grpc.StatusCode.OK

    run(main, loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_many_at_once(loop: str) -> None:
    async def main() -> None:
        async with serving(unary_unary=echo) as side:
            call = side.method("unary_unary")
            sent = [b"%d" % number for number in range(1000)]
            assert await asyncio.gather(*(call(request) for request in sent)) == sent

    run(main, loop)


@pytest.mark.parametrize("size", [0, 16 * 1024 - 5, 16 * 1024, 300_000, 5_000_000])
def test_messages_of_any_size(size: int) -> None:
    options = [("grpc.max_receive_message_length", -1)]

    async def main() -> None:
        async with serving({"options": options}, unary_unary=echo, stream_stream=echo_all) as side:
            channel = side.channel(options=options)
            message = bytes(size)
            assert await side.method("unary_unary", channel)(message) == message
            call = side.method("stream_stream", channel)()
            for _ in range(2):
                await call.write(message)
                assert await call.read() == message

    run(main)


def test_a_call_is_made_without_being_awaited() -> None:
    async def main() -> None:
        got = asyncio.Event()

        async def take(request: bytes, context: Any) -> bytes:
            got.set()
            return b"done"

        async with serving(unary_unary=take) as side:
            call = side.method("unary_unary")(b"")
            await got.wait()
            assert await call.code() is grpc.StatusCode.OK
            assert await call == b"done"
            assert await call == b"done"

    run(main)


def test_a_slow_reader_holds_the_writer_up() -> None:
    async def main() -> None:
        written = 0

        async def pour(request: bytes, context: Any) -> AsyncIterator[bytes]:
            nonlocal written
            for _ in range(1000):
                yield bytes(100_000)
                written += 1

        async with serving(unary_stream=pour) as side:
            call = side.method("unary_stream")(b"")
            await call.read()
            # Whatever it has written by now waits in windows and sockets; let it go on to its limit.
            seen = -1
            while seen != written:
                seen = written
                for _ in range(50):
                    await asyncio.sleep(0.001)
            assert written < 300
            assert len(await _rest(call)) == 999

    async def _rest(call: Any) -> list[bytes]:
        rest = []
        while (message := await call.read()) is not aio.EOF:
            rest.append(message)
        return rest

    run(main)


# --- Giving up ----------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_cancelling_the_call_reaches_the_handler(loop: str) -> None:
    async def main() -> None:
        held = Held()
        async with serving(unary_unary=held.wait) as side:
            call = side.method("unary_unary")(b"")
            await held.reached.wait()
            assert call.cancel()
            assert not call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert call.cancelled()
            assert await call.details() == "Locally cancelled by application!"
            await held.cancelled.wait()

    run(main, loop)


def test_cancelling_the_task_that_waits_cancels_the_call() -> None:
    async def main() -> None:
        held = Held()
        async with serving(unary_unary=held.wait) as side:
            call = side.method("unary_unary")(b"")
            task = asyncio.ensure_future(call)
            await held.reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert call.cancelled()
            await held.cancelled.wait()

    run(main)


def test_cancelling_who_asks_for_the_code_does_not_cancel_the_call() -> None:
    async def main() -> None:
        held = Held()
        async with serving(unary_unary=held.wait) as side:
            call = side.method("unary_unary")(b"")
            task = asyncio.create_task(call.code())
            await held.reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not call.done()

    run(main)


def test_a_deadline_ends_both_sides() -> None:
    async def main() -> None:
        held = Held()
        async with serving(unary_unary=held.wait) as side:
            channel = side.channel()
            await channel.channel_ready()
            call = side.method("unary_unary", channel)(b"", timeout=0.3)
            assert 0 <= call.time_remaining() <= 0.3
            await held.reached.wait()
            with pytest.raises(aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert caught.value.outcome is Outcome.MAY_HAVE_RUN
            await held.cancelled.wait()

    run(main)


def test_a_server_keeps_the_deadline_by_itself() -> None:
    async def main() -> None:
        held = Held()
        async with serving(unary_unary=held.wait) as side:
            # The header alone: this side does not look at the clock.
            method = side.method("unary_unary")
            method.fields += ((b"grpc-timeout", b"300m"),)
            with pytest.raises(aio.AioRpcError) as caught:
                await method(b"")
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert caught.value.outcome is not Outcome.NOT_SENT
            await held.cancelled.wait()

    run(main)


def test_a_stream_that_nobody_holds_is_given_up() -> None:
    async def main() -> None:
        cancelled = asyncio.Event()

        async def drip(request: bytes, context: Any) -> AsyncIterator[bytes]:
            yield b"first"
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        async with serving(unary_stream=drip) as side:
            call = side.method("unary_stream")(b"")
            assert await call.read() == b"first"
            del call
            gc.collect()
            await cancelled.wait()

    run(main)


def test_a_failing_iterator_of_requests_gives_the_call_up() -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"a"
        raise ValueError("the caller's own")

    async def main() -> None:
        async with serving(stream_unary=join) as side:
            with pytest.raises(asyncio.CancelledError):
                await side.method("stream_unary")(failing())

    run(main)


def test_an_early_answer_ends_the_requests() -> None:
    async def main() -> None:
        ended = asyncio.Event()

        async def endless() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x"
                    await asyncio.sleep(0)
            finally:
                ended.set()

        async def first(requests: Any, context: Any) -> bytes:
            async for request in requests:
                return bytes(request)
            return b""

        async with serving(stream_unary=first) as side:
            assert await side.method("stream_unary")(endless()) == b"x"
            await ended.wait()

    run(main)


# --- Misuse -------------------------------------------------------------------------------------


def test_styles_may_not_be_mixed() -> None:
    async def main() -> None:
        async with serving(stream_stream=echo_all, unary_stream=count) as side:
            call = side.method("unary_stream")(b"2")
            call.__aiter__()
            with pytest.raises(aio.UsageError, match="may not be mixed"):
                await call.read()
            call = side.method("unary_stream")(b"2")
            await call.read()
            with pytest.raises(aio.UsageError, match="may not be mixed"):
                call.__aiter__()
            call = side.method("stream_stream")(requests_of(b"a"))
            with pytest.raises(aio.UsageError, match="may not be mixed"):
                await call.write(b"b")

    run(main)


def test_writing_after_the_end() -> None:
    async def main() -> None:
        async with serving(stream_unary=join) as side:
            call = side.method("stream_unary")()
            await call.done_writing()
            await call.done_writing()
            with pytest.raises(asyncio.InvalidStateError, match="half closed"):
                await call.write(b"x")
            assert await call == b""
            with pytest.raises(asyncio.InvalidStateError, match="already finished"):
                await call.write(b"x")

    run(main)


@pytest.mark.parametrize("serializer", ["request_serializer", "response_deserializer"])
def test_serializers_that_fail_end_the_call(serializer: str) -> None:
    def fail(message: Any) -> bytes:
        raise ValueError("no such message")

    async def main() -> None:
        async with serving(unary_unary=echo, unary_stream=count) as side:
            for name in ("unary_unary", "unary_stream"):
                call = side.method(name, **{serializer: fail})(b"1")
                with pytest.raises(aio.AioRpcError) as caught:
                    await (call if name == "unary_unary" else all_of(call))
                assert caught.value.code() is grpc.StatusCode.INTERNAL
                assert isinstance(caught.value.__cause__, ValueError)
                assert await call.code() is grpc.StatusCode.INTERNAL

    run(main)


def test_messages_that_are_no_bytes_are_refused() -> None:
    async def main() -> None:
        async with serving(unary_unary=echo) as side:
            with pytest.raises(TypeError, match="not to str"):
                await side.method("unary_unary")("text")

    run(main)


def test_metadata_that_cannot_be_sent_ends_the_call() -> None:
    async def main() -> None:
        async with serving(unary_unary=echo, stream_unary=join) as side:
            for name in ("unary_unary", "stream_unary"):
                call = side.method(name)(
                    b"" if name == "unary_unary" else None, metadata=[("K", "v")]
                )
                with pytest.raises(aio.AioRpcError) as caught:
                    await call
                assert caught.value.code() is grpc.StatusCode.INTERNAL
                assert caught.value.details() == "Invalid metadata"

    run(main)
