"""The asyncio engine where several things happen at once: peers that fall silent, calls that are forgotten, begun
anew, written to by several tasks and given up at any moment; handlers that end in unusual ways."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import threading
import types
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from hyperframe import frame as wire

from hvrpc import AccessDenied, ConnectRefused, Outcome
from hvrpc.grpc import aio
from hvrpc.grpc.serving import ServerCall
from hvrpc.session import repeating
from hvrpc.session.repeating import MOST_UNTAKEN

from ...session.test_aio_connection import until
from ...sockets.background import WAIT
from ...sockets.places import short_folder
from ..contract.raw import (
    GOOD,
    PREFACE,
    REQUEST,
    RESPONSE,
    Fields,
    Raw,
    RawClient,
    RawServer,
    answering,
    changed,
    greeted,
    message,
)
from ..test_engine import LARGE, REFUSALS, greet, read_slowly
from .sides import SERVICE, Side, all_of, run, serving

METHOD = f"/{SERVICE}/any"

Code = grpc.StatusCode


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


def generous(raw: Raw) -> None:
    """Take any request without a word, and answer when it is complete."""
    greet(raw, INITIAL_WINDOW_SIZE=2**30)
    raw.send(wire.WindowUpdateFrame(0, window_increment=2**30))
    for frame in raw.frames():
        if frame.stream_id and "END_STREAM" in frame.flags:
            respond(raw, frame.stream_id)


def request_for(name: str) -> Fields:
    return changed(REQUEST, **{":path": f"/{SERVICE}/{name}"})


@asynccontextmanager
async def raw_client(side: Side) -> AsyncIterator[RawClient]:
    with RawClient(Path(side.address.removeprefix("unix://"))) as raw:
        yield raw


def calls_of(server: Any) -> list[ServerCall]:
    """Those that a server carries out."""
    return [call for each in server._acceptor._connections for call in each.core.running()]


async def echo(request: bytes, context: Any) -> bytes:
    return request


async def join(requests: Any, context: Any) -> bytes:
    return b"".join([request async for request in requests])


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


RETRIES = """{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 3,
    "initialBackoff": "0.001s", "maxBackoff": "0.001s", "backoffMultiplier": 1,
    "retryableStatusCodes": ["UNAVAILABLE"]}}]}"""


class TestWaiting:
    def test_who_gives_up_waiting_for_a_call_is_forgotten(self) -> None:
        async def main() -> None:
            async with serving(unary_unary=hold) as side:
                call = side.method("unary_unary")(b"")
                for _ in range(100):
                    waiting = asyncio.create_task(call.code())
                    await asyncio.sleep(0)
                    waiting.cancel()
                    await asyncio.wait([waiting])
                assert len(call._rpc.waiters) < 20
                call.cancel()

        run(main)


class TestOutcome:
    """What the error says about whether the call may have been carried out."""

    def test_of_a_call_that_was_made_again_in_vain(self) -> None:
        def vanish(raw: Raw) -> None:
            greet(raw)
            for frame in raw.frames():
                if frame.stream_id and "END_STREAM" in frame.flags:
                    here = Path(raw.sock.getsockname())
                    here.rename(here.with_name("gone"))
                    raw.sock.shutdown(socket.SHUT_RDWR)

        async def main() -> None:
            async with channel_to(vanish, service_config=RETRIES) as channel:
                with pytest.raises(aio.AioRpcError, match="failed to connect") as caught:
                    await channel.unary_unary(METHOD)(b"")
                assert caught.value.outcome is Outcome.MAY_HAVE_RUN
                assert Outcome.NOT_SENT.value not in str(caught.value)
                with pytest.raises(aio.AioRpcError, match="failed to connect") as caught:
                    await channel.unary_unary(METHOD)(b"")
                assert caught.value.outcome is Outcome.NOT_SENT

        run(main)

    @pytest.mark.parametrize("ends", ["well", "in vain"])
    def test_of_calls_that_a_retry_policy_has_made_again_without_a_connection(
        self, ends: str
    ) -> None:
        failures = 2 if ends == "well" else 3

        async def main() -> None:
            async with serving(unary_unary=echo, stream_unary=join) as side:
                for kind in ("unary_unary", "stream_unary"):
                    channel = side.channel(options=[("grpc.service_config", RETRIES)])
                    connect = channel.session._connect
                    tried = 0

                    async def flaky(within: float) -> Any:
                        nonlocal tried
                        tried += 1
                        if tried <= failures:
                            raise ConnectRefused(side.address, operation="connect to", cause="no")
                        return await connect(within)  # noqa: B023

                    channel.session._connect = flaky  # type: ignore[method-assign]
                    call = side.method(kind, channel)([b"x"] if kind == "stream_unary" else b"x")
                    if ends == "well":
                        assert await call == b"x"
                    else:
                        with pytest.raises(aio.AioRpcError) as caught:
                            await call
                        assert caught.value.outcome is Outcome.NOT_SENT
                    assert tried == 3

        run(main)

    def test_of_calls_that_never_got_to_a_connection(self) -> None:
        def refuse(request: Any) -> bytes:
            raise ValueError

        async def main() -> None:
            async with serving() as side:
                channel = side.channel()
                for call in (
                    channel.unary_unary(METHOD)(b"", timeout=0.01, wait_for_ready=True),
                    channel.unary_unary(METHOD)(b"", metadata=(("Wrong", ""),)),
                    channel.unary_unary(METHOD, request_serializer=refuse)(b""),
                ):
                    with pytest.raises(aio.AioRpcError) as caught:
                        await call
                    assert caught.value.outcome is Outcome.NOT_SENT

        run(main)

    @pytest.mark.parametrize("timeout", [0, -1])
    def test_of_calls_whose_time_was_up_before(self, timeout: float) -> None:
        async def main() -> None:
            ran = []

            async def note(request: bytes, context: Any) -> bytes:
                ran.append(request)
                return b""

            async with serving(unary_unary=note) as side:
                method = side.method("unary_unary")
                await method(b"in time")
                with pytest.raises(aio.AioRpcError) as caught:
                    await method(b"late", timeout=timeout)
                assert caught.value.code() is Code.DEADLINE_EXCEEDED
                assert caught.value.outcome is Outcome.NOT_SENT
                await method(b"in time")
                assert ran == [b"in time", b"in time"]

        run(main)


State = grpc.ChannelConnectivity


async def hold(request: bytes, context: Any) -> bytes:
    await asyncio.Event().wait()
    return b""


class TestChannel:
    @pytest.mark.parametrize("how", ["the server hangs up", "the server goes away"])
    def test_a_connection_that_ends_as_it_begins_does_not_stay(self, how: str) -> None:
        hung_up = threading.Event()

        def talk(raw: Raw) -> None:
            raw._exactly(len(PREFACE))
            last = wire.GoAwayFrame(0, last_stream_id=0)
            away = () if how == "the server hangs up" else (last,)
            raw.send(wire.SettingsFrame(0), wire.SettingsFrame(0, flags=["ACK"]), *away)
            if not away:
                raw.sock.shutdown(socket.SHUT_WR)
            for _ in raw.frames():
                pass
            hung_up.set()

        async def main() -> None:
            async with channel_to(talk) as channel:
                assert channel.get_state(try_to_connect=True) is State.IDLE
                await channel.wait_for_state_change(State.IDLE)
                await channel.wait_for_state_change(State.CONNECTING)
                if how == "the server hangs up" and channel.get_state() is State.READY:
                    # It had proved itself, and then hung up: the two were not read together.
                    await channel.wait_for_state_change(State.READY)
                assert channel.get_state() is State.IDLE
                assert await asyncio.to_thread(hung_up.wait, WAIT)

        run(main)

    def test_closing_it_again_ends_the_grace(self) -> None:
        async def main() -> None:
            async with serving(unary_unary=hold) as side:
                channel = side.channel()
                call = side.method("unary_unary", channel)(b"")
                await channel.channel_ready()
                closing = asyncio.create_task(channel.close(1000))
                await asyncio.sleep(0)
                await channel.close()
                assert await call.code() is Code.CANCELLED
                await closing

        run(main)

    def test_closing_it_may_be_given_up_and_done_later(self) -> None:
        async def main() -> None:
            async with serving(unary_unary=hold) as side:
                channel = side.channel()
                call = side.method("unary_unary", channel)(b"")
                await channel.channel_ready()
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(channel.close(1000), 0.01)
                await channel.close()
                assert call.done()
                assert not channel.session.connections()
                assert channel.get_state() is State.SHUTDOWN

        run(main)

    def test_it_belongs_to_one_loop(self) -> None:
        async def main() -> None:
            async with serving(unary_unary=echo) as side:
                channel = side.channel()
                method = side.method("unary_unary", channel)
                await method(b"")

                async def elsewhere(use: Callable[[], Any]) -> None:
                    with pytest.raises(RuntimeError, match="another event loop"):
                        await use()

                watch = partial(channel.wait_for_state_change, State.READY)
                for use in (lambda: method(b""), watch, channel.close):
                    await asyncio.to_thread(asyncio.run, elsewhere(use))
                assert await method(b"still") == b"still"

        run(main)

    def test_it_can_be_closed_when_its_loop_is(self) -> None:
        channel = aio.insecure_channel("unix:///nowhere")

        async def fail() -> None:
            with pytest.raises(aio.AioRpcError):
                await channel.unary_unary(METHOD)(b"")

        asyncio.run(fail())
        asyncio.run(channel.close())
        assert channel.get_state() is State.SHUTDOWN

    def test_a_forgotten_one_hangs_up_although_the_server_does_not(self) -> None:
        end = threading.Event()

        def hold_on(raw: Raw) -> None:
            greet(raw)
            end.wait(WAIT)

        async def main() -> None:
            with short_folder() as folder, RawServer(folder / "s", hold_on):
                channel = aio.insecure_channel(f"unix://{folder / 's'}")
                await channel.channel_ready()
                (connection,) = channel.session.connections()
                await until(lambda: len(asyncio.all_tasks()) == 1)  # all that hold it
                del channel
                gc.collect()
                try:
                    await connection._over
                finally:
                    end.set()
                await until(lambda: len(asyncio.all_tasks()) == 1)

        run(main)

    def test_a_connection_closes_when_its_last_call_moves_to_another(self) -> None:
        """The server is about to go away, and takes back a call that it had let pass."""
        another = threading.Event()

        def go_away(raw: Raw) -> None:
            greet(raw)
            for frame in raw.frames():
                if frame.stream_id and "END_STREAM" in frame.flags:
                    raw.send(wire.GoAwayFrame(0, last_stream_id=frame.stream_id))
                    threading.Thread(target=refuse, args=(raw, frame.stream_id)).start()
                    return

        def refuse(raw: Raw, stream: int) -> None:
            another.wait(WAIT)
            raw.send(raw.reset(stream, 7))

        async def main() -> None:
            async with channel_to(go_away, answering(data=message(b"x"))) as channel:
                method = channel.unary_unary(METHOD)
                call = method(b"")
                await until(lambda: call._rpc.connection and call._rpc.connection.core.draining)
                old = call._rpc.connection
                assert await method(b"") == b"x"
                another.set()
                assert await call == b"x"
                await until(lambda: old.ended)

        run(main)

    @pytest.mark.parametrize("refuse", REFUSALS)
    def test_a_call_that_nobody_takes_is_given_up(
        self, monkeypatch: pytest.MonkeyPatch, refuse: Callable[[Raw, int], None]
    ) -> None:
        monkeypatch.setattr(repeating, "FIRST_WAIT", 0.001)
        tried: list[int] = []

        def talk(raw: Raw, stream: int) -> None:
            tried.append(stream)
            refuse(raw, stream)

        async def main() -> None:
            for kind in ("unary_unary", "unary_stream"):
                tried.clear()
                async with channel_to(greeted(talk)) as channel:
                    call = getattr(channel, kind)(METHOD)(b"")
                    assert await call.code() is Code.UNAVAILABLE
                    assert (await call.details()).count("it was tried 6 times") == 1
                assert len(tried) == 1 + MOST_UNTAKEN

        run(main)

    def test_who_waits_for_it_waits_while_it_is_refused(self) -> None:
        async def main() -> None:
            async with serving(unary_unary=echo) as side:
                channel = side.channel(options=[("grpc.initial_reconnect_backoff_ms", 1)])
                connect = channel.session._connect
                refused = 0

                async def refuse(within: float) -> Any:
                    nonlocal refused
                    refused += 1
                    if refused < 4:
                        raise AccessDenied(side.address, peer="somebody", problem="is not allowed")
                    return await connect(within)

                channel.session._connect = refuse  # type: ignore[method-assign]
                await channel.channel_ready()
                assert refused == 4

        run(main)

    def test_who_gives_up_watching_it_is_forgotten(self) -> None:
        async def main() -> None:
            async with serving() as side:
                channel = side.channel()
                for _ in range(3):
                    watching = asyncio.create_task(channel.wait_for_state_change(State.IDLE))
                    await asyncio.sleep(0)
                    watching.cancel()
                    await asyncio.wait([watching])
                assert not channel._watchers

        run(main)


class TestSlowness:
    """Calls that nobody reads on either side leave room for others."""

    def test_of_many_readers(self) -> None:
        async def flood(request: bytes, context: Any) -> AsyncIterator[bytes]:
            while True:
                yield bytes(100_000)

        async def main() -> None:
            async with serving(unary_stream=flood, unary_unary=echo) as side:
                channel = side.channel()
                method = side.method("unary_stream", channel)
                calls = [method(b"") for _ in range(20)]
                for call in calls:
                    await call.read()
                await until(lambda: all(each.room for each in calls_of(side.server)))
                assert await side.method("unary_unary", channel)(b"x") == b"x"
                for call in calls:
                    call.cancel()

        run(main)

    def test_of_many_writers(self) -> None:
        async def ignore(requests: Any, context: Any) -> bytes:
            await asyncio.Event().wait()
            return b""

        async def write(call: Any) -> None:
            while True:
                await call.write(bytes(100_000))

        async def main() -> None:
            async with serving(stream_unary=ignore, unary_unary=echo) as side:
                channel = side.channel()
                method = side.method("stream_unary", channel)
                calls = [method() for _ in range(20)]
                writing = [asyncio.create_task(write(call)) for call in calls]
                await until(lambda: all(call._rpc.room for call in calls))
                assert await side.method("unary_unary", channel)(b"x") == b"x"
                for call in calls:
                    call.cancel()
                await asyncio.wait(writing)
                assert all(task.cancelled() for task in writing)

        run(main)


class TestRequests:
    def test_an_iterator_that_was_cancelled_gives_the_call_up(self) -> None:
        async def requests() -> AsyncIterator[bytes]:
            yield b"first"
            raise asyncio.CancelledError

        async def main() -> None:
            async with serving(stream_unary=join) as side:
                call = side.method("stream_unary")(requests())
                assert await call.code() is Code.CANCELLED

        run(main)

    def test_the_end_does_not_overtake_what_waits_for_a_connection(self) -> None:
        async def main() -> None:
            async with serving(stream_unary=join) as side:
                call = side.method("stream_unary")()
                writing = [asyncio.create_task(call.write(each)) for each in (b"1", b"2")]
                await asyncio.sleep(0)
                await call.done_writing()
                await asyncio.gather(*writing)
                assert await call == b"12"

        run(main)

    def test_several_tasks_may_write(self) -> None:
        async def main() -> None:
            go = asyncio.Event()

            async def count(requests: Any, context: Any) -> bytes:
                await go.wait()
                return b"%d" % sum([len(request) async for request in requests])

            async with serving(stream_unary=count) as side:
                channel = side.channel()
                call = side.method("stream_unary", channel)()

                async def write() -> None:
                    for _ in range(4):
                        await call.write(bytes(1_000_000))

                writing = [asyncio.create_task(write()) for _ in range(3)]
                await until(lambda: len(call._rpc.waiters) == 3)
                go.set()
                await asyncio.gather(*writing)
                await call.done_writing()
                assert await call == b"12000000"

        run(main)

    def test_a_writer_goes_on_although_the_server_says_nothing(self) -> None:
        """All has been sent, and there is room: that need not be told."""

        async def main() -> None:
            async with channel_to(generous) as channel:
                await channel.channel_ready()
                call = channel.stream_unary(METHOD)()
                await call.write(bytes(10_000_000))
                await call.write(bytes(10_000_000))
                await call.done_writing()
                assert await call == b""

        run(main)

    def test_a_writer_does_not_outlast_its_call(self) -> None:
        """Although the connection takes nothing."""
        end = threading.Event()

        def deaf(raw: Raw) -> None:
            greet(raw, INITIAL_WINDOW_SIZE=2**30)
            raw.send(wire.WindowUpdateFrame(0, window_increment=2**30))
            end.wait(WAIT)

        async def main() -> None:
            async with channel_to(deaf) as channel:
                await channel.channel_ready()
                call = channel.stream_unary(METHOD)()

                async def write() -> None:
                    while True:
                        await call.write(bytes(10_000))

                writing = asyncio.create_task(write())
                await until(lambda: any(each.crowded for each in channel.session.connections()))
                await until(lambda: call._rpc.waiters)
                call.cancel()
                try:
                    with pytest.raises(asyncio.CancelledError):
                        await writing
                finally:
                    end.set()

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


class Failure(BaseException):
    """What is no Exception, as some libraries' errors are none."""


class Raising(aio.ServerInterceptor):
    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        raise self.error


ODD = [
    (asyncio.CancelledError, Code.CANCELLED),
    (aio.AbortError, Code.UNKNOWN),
    (Failure, Code.UNKNOWN),
]


class TestHandlers:
    @pytest.mark.parametrize(("error", "code"), ODD)
    def test_whatever_an_interceptor_raises_is_an_answer(
        self, error: type[BaseException], code: grpc.StatusCode
    ) -> None:
        async def main() -> None:
            async with serving({"interceptors": [Raising(error)]}, unary_unary=echo) as side:
                assert await side.method("unary_unary")(b"").code() is code

        run(main)

    @pytest.mark.parametrize(("error", "code"), ODD)
    @pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
    def test_whatever_a_handler_raises_is_an_answer(
        self, error: type[BaseException], code: grpc.StatusCode, kind: str
    ) -> None:
        async def once(request: bytes, context: Any) -> bytes:
            raise error

        async def often(request: bytes, context: Any) -> AsyncIterator[bytes]:
            yield b""
            raise error

        async def main() -> None:
            async with serving(unary_unary=once, unary_stream=often) as side:
                assert await side.method(kind)(b"").code() is code

        run(main)

    @pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
    def test_also_when_one_in_a_thread_finds_nothing(self, kind: str) -> None:
        def find(request: bytes, context: Any) -> Any:
            return next(iter(()))

        async def main() -> None:
            async with serving(unary_unary=find, unary_stream=find) as side:
                call = side.method(kind)(b"")
                assert await call.code() is Code.UNKNOWN
                assert "StopIteration" in await call.details()

        run(main)

    def test_one_that_blocks_before_it_returns_its_responses_does_so_in_a_thread(self) -> None:
        def stream(request: bytes, context: Any) -> Iterator[bytes]:
            context.send_initial_metadata((("key", "value"),))  # which waits for the loop
            return iter([b"1", b"2"])

        async def main() -> None:
            async with serving(unary_stream=stream) as side:
                call = side.method("unary_stream")(b"")
                assert await all_of(call) == [b"1", b"2"]
                assert ("key", "value") in tuple(await call.initial_metadata())

        run(main)

    def test_one_in_a_thread_may_return_a_list(self) -> None:
        def stream(request: bytes, context: Any) -> list[bytes]:
            return [b"1", b"2"]

        async def main() -> None:
            async with serving(unary_stream=stream) as side:
                assert await all_of(side.method("unary_stream")(b"")) == [b"1", b"2"]

        run(main)

    def test_one_in_a_thread_tidies_up_there(self) -> None:
        places: list[threading.Thread] = []
        closed = threading.Event()

        def stream(request: bytes, context: Any) -> Iterator[bytes]:
            try:
                while True:
                    yield bytes(100_000)
            finally:
                places.append(threading.current_thread())
                closed.set()

        async def main() -> None:
            async with serving(unary_stream=stream) as side:
                call = side.method("unary_stream")(b"")
                await call.read()
                await until(lambda: any(each.room for each in calls_of(side.server)))
                call.cancel()
                assert await asyncio.to_thread(closed.wait, WAIT)
                assert places != [threading.current_thread()]

        run(main)

    def test_a_callback_that_fails_is_none_of_the_callers_business(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        def reply(request: bytes, context: Any) -> bytes:
            context.add_callback(lambda: 1 / 0)
            return b"well"

        async def main() -> None:
            async with serving(unary_unary=reply) as side:
                assert await side.method("unary_unary")(b"") == b"well"

        run(main)
        assert "a callback" in caplog.text

    def test_a_deadline_wakes_one_in_a_thread_that_waits_for_requests(self) -> None:
        over = threading.Event()

        def join(requests: Iterator[bytes], context: Any) -> bytes:
            try:
                return b"".join(requests)
            finally:
                over.set()

        async def main() -> None:
            async with serving(stream_unary=join) as side, raw_client(side) as raw:
                fields = changed(request_for("stream_unary"), grpc_timeout="100m")
                raw.send(raw.headers(1, fields))
                answer = await asyncio.to_thread(raw.answer)
                assert answer["grpc-status"] == "4"
                # The caller says nothing more, and does not hang up.
                assert await asyncio.to_thread(over.wait, WAIT)

        run(main)

    def test_another_task_may_abort_while_one_waits_for_requests(self) -> None:
        async def main() -> None:
            raised: list[BaseException] = []

            async def collect(requests: Any, context: Any) -> bytes:
                async def abort() -> None:
                    with contextlib.suppress(aio.AbortError):
                        await context.abort(Code.ABORTED, "enough")

                async def read() -> None:
                    async for _ in requests:
                        pass

                reading = asyncio.create_task(read())
                await asyncio.sleep(0)
                await abort()
                await asyncio.wait([reading])
                error = reading.exception()
                assert error is not None
                raised.append(error)
                raise error

            async with serving(stream_unary=collect) as side:
                assert await side.method("stream_unary")().code() is Code.ABORTED
                await until(lambda: raised)
            assert isinstance(raised[0], aio.AbortError)

        run(main)

    def test_several_tasks_may_write(self) -> None:
        async def stream(request: bytes, context: Any) -> None:
            async def write() -> None:
                for _ in range(4):
                    await context.write(bytes(1_000_000))

            await asyncio.gather(write(), write(), write())

        async def main() -> None:
            async with serving(unary_stream=stream) as side:
                call = side.method("unary_stream")(b"")
                await call.read()
                await until(lambda: any(each.room for each in calls_of(side.server)))
                rest = 0
                while (response := await call.read()) is not aio.EOF:
                    rest += len(response)
                assert rest == 11_000_000

        run(main)

    def test_stopping_with_grace_lets_a_slow_caller_read_the_answer(self) -> None:
        async def large(request: bytes, context: Any) -> bytes:
            return bytes(LARGE)

        async def main() -> None:
            async with serving(unary_unary=large) as side, raw_client(side) as raw:
                raw.ask(request_for("unary_unary"), message(b""))
                await until(lambda: side.server._acceptor._connections)
                (connection,) = side.server._acceptor._connections
                await until(lambda: connection.core.count and not connection.core.running())
                stopping = asyncio.create_task(side.server.stop(WAIT))
                await asyncio.sleep(0)
                assert await asyncio.to_thread(read_slowly, raw) == LARGE + 5
                raw.sock.close()
                await stopping

        run(main)

    def test_several_tasks_may_read(self) -> None:
        async def collect(requests: Any, context: Any) -> bytes:
            reading = [asyncio.create_task(context.read()) for _ in range(3)]
            return b"".join(sorted(await asyncio.gather(*reading)))

        async def main() -> None:
            async with serving(stream_unary=collect) as side:
                call = side.method("stream_unary")()
                await call.wait_for_connection()
                await until(lambda: any(each.wake for each in calls_of(side.server)))
                for request in (b"1", b"2", b"3"):
                    await call.write(request)
                assert await call == b"123"

        run(main)

    def test_a_request_that_cannot_be_read_leaves_nothing_behind(self) -> None:
        def tracebacks() -> int:
            gc.collect()
            return sum(type(each) is types.TracebackType for each in gc.get_objects())

        async def main() -> None:
            async with serving(unary_unary=echo) as side, raw_client(side) as raw:
                fields = changed(request_for("unary_unary"), grpc_encoding="nonsense")

                async def ask(stream: int) -> int:
                    raw.ask(fields, message(b""), stream=stream)
                    answer = await asyncio.to_thread(raw.answer, stream)
                    assert answer["grpc-status"] == "12"
                    await until(lambda: not calls_of(side.server))
                    return tracebacks()

                counts = [await ask(stream) for stream in range(1, 40, 2)]
                assert counts[-1] - counts[5] < 5

        run(main)
