"""The asyncio engine where several things happen at once: peers that fall silent, calls that are forgotten, begun
anew, written to by several tasks and given up at any moment; handlers that end in unusual ways."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from hvrpc.grpc import aio

from ...session.test_aio_connection import until
from ...sockets.background import WAIT
from ...sockets.places import short_folder
from ..contract.raw import GOOD, RESPONSE, Raw, RawServer, message
from ..test_engine import greet
from .sides import all_of, run, serving

METHOD = "/test.Service/any"


@asynccontextmanager
async def channel_to(*talks: Callable[[Raw], None], **options: Any) -> AsyncIterator[aio.Channel]:
    """A channel to a server that is driven by hand."""
    named = [(f"grpc.{name}", value) for name, value in options.items()]
    with short_folder() as folder:
        path = folder / "s"
        with RawServer(path, *talks):
            async with aio.insecure_channel(f"unix://{path}", options=named) as channel:
                yield channel


def respond(raw: Raw, stream: int, payload: bytes = b"") -> None:
    """A unary response that is all well."""
    raw.send(
        raw.headers(stream, RESPONSE),
        raw.data(stream, message(payload)),
        raw.headers(stream, GOOD, end=True),
    )


class Drip:
    """A handler that gives one response and then waits until nobody wants more."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()

    async def stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        try:
            await asyncio.Event().wait()
        finally:
            self.gone.set()


class TestSilence:
    def test_a_peer_that_falls_silent_is_given_up_also_after_a_rest(self) -> None:
        silent = threading.Event()

        def talk(raw: Raw) -> None:
            greet(raw)
            asked = 0
            for frame in raw.frames():
                if frame.stream_id and "END_STREAM" in frame.flags:
                    asked += 1
                    if asked == 2:
                        silent.wait(WAIT)
                        return
                    respond(raw, frame.stream_id)

        async def main() -> None:
            options = {"keepalive_time_ms": 100, "keepalive_timeout_ms": 100}
            async with channel_to(talk, **options) as channel:
                method = channel.unary_unary(METHOD)
                await method(b"")
                await until(lambda: channel.session.connections()[0]._timer is None)
                try:
                    with pytest.raises(aio.AioRpcError, match="no sign of life"):
                        await method(b"")
                finally:
                    silent.set()

        run(main)


class Passing(aio.UnaryStreamClientInterceptor):
    """An interceptor that changes nothing."""

    async def _intercept(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(client_call_details, request)

    intercept_unary_stream: Any = _intercept


class TellingLock:
    """A lock that says so where another would wait for ever."""

    held = False

    def __enter__(self) -> None:
        assert not self.held, "waits for itself"
        self.held = True

    def __exit__(self, *_: object) -> None:
        self.held = False


class TestForgotten:
    @pytest.mark.parametrize("interceptors", [[], [Passing()]], ids=["plain", "intercepted"])
    def test_a_call_may_be_collected_anywhere(self, interceptors: list[Any]) -> None:
        """Even while the lock of its connection is held."""

        async def main() -> None:
            drip = Drip()
            async with serving(unary_stream=drip.stream) as side:
                channel = side.channel(interceptors=interceptors)
                call = side.method("unary_stream", channel)(b"")
                async for response in call:
                    assert response == b"first"
                    break
                core = channel.session.connections()[0].core
                core.lock = TellingLock()  # type: ignore[assignment]
                knot: list[Any] = [call]
                knot.append(knot)
                del call, knot
                with core.lock:
                    gc.collect()
                await drip.gone.wait()

        run(main)


class TestBeginning:
    def test_waiting_for_the_connection_is_not_waiting_for_the_server(self) -> None:
        async def main() -> None:
            go = asyncio.Event()

            async def hold(request: bytes, context: Any) -> AsyncIterator[bytes]:
                await go.wait()
                yield b"x"

            async with serving(unary_stream=hold) as side:
                call = side.method("unary_stream")(b"")
                await call.wait_for_connection()
                go.set()
                assert await all_of(call) == [b"x"]

        run(main)
