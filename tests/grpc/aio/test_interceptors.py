"""Interceptors of calls, of all kinds, written for `grpc.aio`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from hvrpc.grpc import aio

from .sides import all_of, run, serving
from .test_calls import Held, count, echo, echo_all, join, requests_of

ALL = {
    "unary_unary": echo,
    "unary_stream": count,
    "stream_unary": join,
    "stream_stream": echo_all,
}


class Noting(
    aio.UnaryUnaryClientInterceptor,
    aio.UnaryStreamClientInterceptor,
    aio.StreamUnaryClientInterceptor,
    aio.StreamStreamClientInterceptor,
):
    """Notes what goes through, and adds to the metadata."""

    def __init__(self, name: str, seen: list[str]) -> None:
        self.name = name
        self.seen = seen

    async def _intercept(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        self.seen.append(f"{self.name} {client_call_details.method.decode().rpartition('/')[2]}")
        client_call_details.metadata.add("through", self.name)
        return await continuation(client_call_details, request)

    intercept_unary_unary: Any = _intercept
    intercept_unary_stream: Any = _intercept
    intercept_stream_unary: Any = _intercept
    intercept_stream_stream: Any = _intercept


def test_all_kinds_go_through_in_order() -> None:
    seen: list[str] = []
    came: list[Any] = []

    async def tell(request: bytes, context: Any) -> bytes:
        came.extend(value for key, value in context.invocation_metadata() if key == "through")
        return request

    async def main() -> None:
        async with serving(None, **{**ALL, "unary_unary": tell}) as side:
            channel = side.channel(interceptors=[Noting("a", seen), Noting("b", seen)])
            assert await side.method("unary_unary", channel)(b"x") == b"x"
            assert await all_of(side.method("unary_stream", channel)(b"2")) == [b"0", b"1"]
            assert await side.method("stream_unary", channel)(requests_of(b"a", b"b")) == b"a,b"
            call = side.method("stream_stream", channel)()
            await call.write(b"1")
            assert await call.read() == b"1"
            await call.done_writing()
            assert await call.read() is aio.EOF
            assert await call.code() is grpc.StatusCode.OK
            assert call.done()

    run(main)
    assert seen == [f"{name} {kind}" for kind in ALL for name in ("a", "b")]
    assert came == ["a", "b"]


class Answering(aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return b"from the cache"


def test_a_response_without_a_call() -> None:
    async def main() -> None:
        async with serving(unary_unary=echo) as side:
            channel = side.channel(interceptors=[Answering()])
            call = side.method("unary_unary", channel)(b"x")
            assert await call == b"from the cache"
            assert await call.code() is grpc.StatusCode.OK
            assert channel.session.opened == 0

    run(main)


class Doubling(aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        call = await continuation(client_call_details, request)

        async def doubled() -> AsyncIterator[bytes]:
            async for response in call:
                yield response * 2

        return doubled()


def test_responses_in_place_of_the_calls() -> None:
    async def main() -> None:
        async with serving(unary_stream=count) as side:
            channel = side.channel(interceptors=[Doubling()])
            call = side.method("unary_stream", channel)(b"2")
            assert await all_of(call) == [b"00", b"11"]
            assert await call.code() is grpc.StatusCode.OK

    run(main)


class Again(aio.UnaryUnaryClientInterceptor):
    """Repeats what failed, under another name."""

    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        call = await continuation(client_call_details, request)
        if await call.code() is grpc.StatusCode.OK:
            return call
        return await continuation(
            client_call_details._replace(method=client_call_details.method[: -len("_gone")]),
            request,
        )


def test_another_method_and_another_attempt() -> None:
    async def main() -> None:
        async with serving(unary_unary=echo) as side:
            channel = side.channel(interceptors=[Again()])
            assert await side.method("unary_unary_gone", channel)(b"x") == b"x"

    run(main)


class Failing(aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        raise ValueError("the interceptor's own")


def test_what_an_interceptor_raises_is_raised() -> None:
    async def main() -> None:
        async with serving(unary_unary=echo) as side:
            channel = side.channel(interceptors=[Failing()])
            with pytest.raises(ValueError, match="own"):
                await side.method("unary_unary", channel)(b"x")

    run(main)


def test_cancelling_an_intercepted_call() -> None:
    async def main() -> None:
        held = Held()
        seen: list[str] = []
        async with serving(unary_unary=held.wait) as side:
            channel = side.channel(interceptors=[Noting("a", seen)])
            call = side.method("unary_unary", channel)(b"")
            told = asyncio.Event()
            call.add_done_callback(lambda _: told.set())
            await held.reached.wait()
            assert call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await told.wait()
            await held.cancelled.wait()
            assert call.cancelled()
            assert await call.code() is grpc.StatusCode.CANCELLED

    run(main)


def test_cancelling_before_the_interceptor_is_through() -> None:
    class Waiting(aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(
            self, continuation: Any, client_call_details: Any, request: Any
        ) -> Any:
            await asyncio.Event().wait()

    async def main() -> None:
        async with serving(unary_unary=echo) as side:
            channel = side.channel(interceptors=[Waiting()])
            call = side.method("unary_unary", channel)(b"")
            await asyncio.sleep(0)
            assert not call.done()
            assert call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert call.done()
            assert await call.code() is grpc.StatusCode.CANCELLED

    run(main)


def test_writing_to_a_call_that_has_ended() -> None:
    async def first(requests: Any, context: Any) -> AsyncIterator[bytes]:
        yield await anext(requests)

    async def main() -> None:
        seen: list[str] = []
        async with serving(stream_stream=first) as side:
            channel = side.channel(interceptors=[Noting("a", seen)])
            call = side.method("stream_stream", channel)()
            await call.write(b"1")
            assert await call.read() == b"1"
            assert await call.read() is aio.EOF
            with pytest.raises(asyncio.InvalidStateError):
                await call.write(b"2")

    run(main)


def test_what_is_no_interceptor_is_refused() -> None:
    with pytest.raises(ValueError, match="must be UnaryUnaryClientInterceptor or"):
        aio.insecure_channel("unix:///nowhere", interceptors=[object()])  # type: ignore[list-item]
