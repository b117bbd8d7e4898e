"""Handlers on an asyncio server: what they can do, how they fail, and how the server ends."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hvrpc.grpc import aio

from .sides import LOOPS, SERVICE, all_of, run, serving
from .test_calls import Held, echo, echo_all, join, requests_of

Code = grpc.StatusCode


async def failure(call: Any) -> aio.AioRpcError:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    error: aio.AioRpcError = caught.value
    return error


# --- How handlers end ---------------------------------------------------------------------------


def test_an_exception_is_told_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(request: bytes, context: Any) -> bytes:
        raise ValueError("oops")

    async def main() -> None:
        async with serving(unary_unary=fail) as side:
            error = await failure(side.method("unary_unary")(b""))
            assert error.code() is Code.UNKNOWN
            assert error.details() == "Unexpected <class 'ValueError'>: oops"

    run(main)
    assert "Unexpected [ValueError] raised by servicer method" in caplog.text


def test_an_exception_with_a_code_that_was_set() -> None:
    async def fail(request: bytes, context: Any) -> bytes:
        context.set_code(Code.ABORTED)
        raise ValueError("oops")

    async def main() -> None:
        async with serving(unary_unary=fail) as side:
            error = await failure(side.method("unary_unary")(b""))
            assert error.code() is Code.ABORTED

    run(main)


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
def test_aborting(kind: str) -> None:
    async def one(request: bytes, context: Any) -> bytes:
        await context.abort(Code.NOT_FOUND, "none", (("k", "v"),))
        return b""

    async def many(request: bytes, context: Any) -> AsyncIterator[bytes]:
        await context.abort(Code.NOT_FOUND, "none", (("k", "v"),))
        yield b""

    async def main() -> None:
        async with serving(unary_unary=one, unary_stream=many) as side:
            call = side.method(kind)(b"")
            error = await failure(call if kind == "unary_unary" else all_of(call))
            assert (error.code(), error.details()) == (Code.NOT_FOUND, "none")
            assert error.trailing_metadata() == aio.Metadata(("k", "v"))

    run(main)


def test_an_abort_that_is_swallowed_counts_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    async def stubborn(request: bytes, context: Any) -> bytes:
        try:
            await context.abort(Code.NOT_FOUND, "none")
        except aio.AbortError:
            with pytest.raises(aio.AbortError):
                await context.write(b"more")
        return b"all is well"

    async def main() -> None:
        async with serving(unary_unary=stubborn) as side:
            assert (await failure(side.method("unary_unary")(b""))).code() is Code.NOT_FOUND

    run(main)
    assert "Abort error unexpectedly suppressed" in caplog.text


def test_abort_with_status() -> None:
    class Status(grpc.Status):
        code = Code.DATA_LOSS
        details = "gone"
        trailing_metadata = (("grpc-status-details-bin", b"why"),)

    async def fail(request: bytes, context: Any) -> bytes:
        await context.abort_with_status(Status())
        return b""

    async def main() -> None:
        async with serving(unary_unary=fail) as side:
            error = await failure(side.method("unary_unary")(b""))
            assert (error.code(), error.details()) == (Code.DATA_LOSS, "gone")
            assert error.trailing_metadata() == (("grpc-status-details-bin", b"why"),)

    run(main)


def test_metadata_both_ways() -> None:
    async def answer(request: bytes, context: Any) -> bytes:
        sent = {key: value for key, value in context.invocation_metadata() if key != "user-agent"}
        await context.send_initial_metadata((("first-bin", b"\0"),))
        context.set_trailing_metadata((("last", repr(sent)),))
        return b""

    async def main() -> None:
        async with serving(unary_unary=answer) as side:
            call = side.method("unary_unary")(
                b"", metadata=aio.Metadata(("k", "v"), ("b-bin", b"\1"))
            )
            await call
            assert await call.initial_metadata() == (("first-bin", b"\0"),)
            assert await call.trailing_metadata() == (("last", "{'k': 'v', 'b-bin': b'\\x01'}"),)

    run(main)


def test_initial_metadata_comes_before_the_response() -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def answer(requests: Any, context: Any) -> bytes:
            await context.send_initial_metadata((("k", "v"),))
            await go.wait()
            return b""

        async with serving(stream_unary=answer) as side:
            call = side.method("stream_unary")()
            await call.done_writing()
            assert await call.initial_metadata() == (("k", "v"),)
            go.set()
            await call

    run(main)


@pytest.mark.parametrize("trailing", [(("K", "v"),), (("k", "ä"),)])
def test_trailing_metadata_that_cannot_be_sent(trailing: Any) -> None:
    async def answer(request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata(trailing)
        return b""

    async def main() -> None:
        async with serving(unary_unary=answer) as side:
            error = await failure(side.method("unary_unary")(b""))
            assert (error.code(), error.details()) == (Code.INTERNAL, "Invalid metadata")

    run(main)


def test_trailing_metadata_that_is_none_raises_where_it_is_set() -> None:
    async def answer(request: bytes, context: Any) -> bytes:
        with pytest.raises(TypeError, match="Invalid trailing metadata type"):
            context.set_trailing_metadata((("k", 1),))
        return b"told"

    async def main() -> None:
        async with serving(unary_unary=answer) as side:
            assert await side.method("unary_unary")(b"") == b"told"

    run(main)


def test_reading_and_writing_handlers() -> None:
    async def swap(requests: Any, context: Any) -> None:
        while (request := await context.read()) is not aio.EOF:
            await context.write(request[::-1])

    async def main() -> None:
        async with serving(stream_stream=swap) as side:
            call = side.method("stream_stream")(requests_of(b"ab", b"cd"))
            assert await all_of(call) == [b"ba", b"dc"]

    run(main)


def test_the_end_is_told_to_callbacks() -> None:
    async def main() -> None:
        told: asyncio.Queue[Any] = asyncio.Queue()
        held = Held()

        async def answer(request: bytes, context: Any) -> bytes:
            context.add_done_callback(
                lambda ended: told.put_nowait((ended is context, ended.done()))
            )
            return await held.wait(request, context) if request else b""

        async with serving(unary_unary=answer) as side:
            await side.method("unary_unary")(b"")
            assert await told.get() == (True, True)
            call = side.method("unary_unary")(b"hold")
            await held.reached.wait()
            call.cancel()
            assert (await told.get())[0]

    run(main)


def test_who_calls() -> None:
    async def who(request: bytes, context: Any) -> bytes:
        return f"{context.peer()} {context.auth_context()['family']}".encode()

    async def main() -> None:
        async with serving(unary_unary=who) as side:
            answer = (await side.method("unary_unary")(b"")).decode()
            assert answer.startswith("unix:")
            assert answer.endswith("[b'unix']")

    run(main)


# --- Compression and limits ---------------------------------------------------------------------


def test_compression_by_channel_call_and_server() -> None:
    text = b"again and again " * 100

    async def answer(request: bytes, context: Any) -> bytes:
        if request == text:
            context.set_compression(grpc.Compression.Deflate)
        return request

    async def main() -> None:
        settings = {"compression": grpc.Compression.Gzip}
        async with serving(settings, unary_unary=answer) as side:
            channel = side.channel(compression=grpc.Compression.Gzip)
            call = side.method("unary_unary", channel)
            for request in (text, b"small"):
                assert await call(request) == request
                assert await call(request, compression=grpc.Compression.Deflate) == request
                assert await call(request, compression=grpc.Compression.NoCompression) == request

    run(main)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("grpc.max_receive_message_length", "SERVER: Received message larger than max (5 vs. 4)"),
        ("grpc.max_send_message_length", "SERVER: Sent message larger than max (5 vs. 4)"),
    ],
)
@pytest.mark.parametrize("kind", ["unary_unary", "stream_stream"])
def test_limits_of_messages(option: str, text: str, kind: str) -> None:
    async def main() -> None:
        settings = {"options": [(option, 4)]}
        async with serving(settings, unary_unary=echo, stream_stream=echo_all) as side:
            unary = kind == "unary_unary"
            request: Any = b"12345" if unary else requests_of(b"12345")
            call = side.method(kind)(request)
            error = await failure(call if unary else all_of(call))
            assert error.code() is Code.RESOURCE_EXHAUSTED
            assert error.details() == f"{text}; the server's option {option} sets the limit"

    run(main)


def test_too_many_at_once_are_refused() -> None:
    async def main() -> None:
        held = Held()
        settings = {"maximum_concurrent_rpcs": 1}
        async with serving(settings, unary_unary=held.wait) as side:
            method = side.method("unary_unary")
            first = method(b"")
            await held.reached.wait()
            error = await failure(method(b""))
            assert error.code() is Code.RESOURCE_EXHAUSTED
            assert error.details() == "Concurrent RPC limit exceeded!"
            first.cancel()
            await held.cancelled.wait()
            held.reached.clear()
            again = method(b"")
            await held.reached.wait()
            again.cancel()

    run(main)


# --- Handlers that block ------------------------------------------------------------------------


def test_blocking_handlers_run_in_the_pool() -> None:
    threads: set[str] = set()

    def note() -> None:
        threads.add(threading.current_thread().name.rpartition("_")[0])

    def one(request: bytes, context: Any) -> bytes:
        note()
        context.send_initial_metadata((("k", "v"),))
        context.set_trailing_metadata((("l", "w"),))
        assert context.is_active()
        assert context.time_remaining() is None
        return request

    def many(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        for request in requests:
            note()
            yield request

    def joined(requests: Iterator[bytes], context: Any) -> bytes:
        note()
        return b",".join(requests)

    def refuse(request: bytes, context: Any) -> Any:
        return context.abort(Code.NOT_FOUND, "none")

    async def main() -> None:
        with futures.ThreadPoolExecutor(2, thread_name_prefix="own") as pool:
            settings = {"migration_thread_pool": pool}
            async with serving(
                settings,
                unary_unary=one,
                unary_unary_refused=refuse,
                stream_stream=many,
                stream_unary=joined,
            ) as side:
                call = side.method("unary_unary")(b"x")
                assert await call == b"x"
                assert await call.initial_metadata() == (("k", "v"),)
                assert await call.trailing_metadata() == (("l", "w"),)
                responses = await all_of(side.method("stream_stream")(requests_of(b"a", b"b")))
                assert responses == [b"a", b"b"]
                assert await side.method("stream_unary")(requests_of(b"a", b"b")) == b"a,b"
                error = await failure(side.method("unary_unary_refused")(b""))
                assert error.code() is Code.NOT_FOUND

    run(main)
    assert threads == {"own"}


class Answer:
    """A handler that is an object."""

    async def __call__(self, request: bytes, context: Any) -> bytes:
        await asyncio.sleep(0)
        return request


class Answers:
    async def __call__(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield request


def test_handlers_may_be_objects() -> None:
    async def main() -> None:
        async with serving(unary_unary=Answer(), unary_stream=Answers()) as side:
            assert await side.method("unary_unary")(b"x") == b"x"
            assert await all_of(side.method("unary_stream")(b"x")) == [b"x"]

    run(main)


def test_handlers_may_be_partial() -> None:
    async def greet(greeting: bytes, request: bytes, context: Any) -> bytes:
        return greeting + request

    async def main() -> None:
        async with serving(unary_unary=functools.partial(greet, b"hello ")) as side:
            assert await side.method("unary_unary")(b"x") == b"hello x"

    run(main)


# --- Interceptors -------------------------------------------------------------------------------


class Noting(aio.ServerInterceptor):
    def __init__(self, name: str, seen: list[str]) -> None:
        self.name = name
        self.seen = seen

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        self.seen.append(f"{self.name} {handler_call_details.method}")
        return await continuation(handler_call_details)


class Refusing(aio.ServerInterceptor):
    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        async def refuse(request: bytes, context: Any) -> bytes:
            await context.abort(Code.UNAUTHENTICATED, "who are you?")
            return b""

        if ("token", "right") in handler_call_details.invocation_metadata:
            return await continuation(handler_call_details)
        return grpc.unary_unary_rpc_method_handler(refuse)


def test_interceptors_see_calls_in_their_order() -> None:
    seen: list[str] = []

    async def main() -> None:
        settings = {"interceptors": [Noting("outer", seen), Noting("inner", seen)]}
        async with serving(settings, unary_unary=echo) as side:
            assert await side.method("unary_unary")(b"x") == b"x"

    run(main)
    assert seen == [f"outer /{SERVICE}/unary_unary", f"inner /{SERVICE}/unary_unary"]


def test_an_interceptor_may_answer_itself() -> None:
    async def main() -> None:
        async with serving({"interceptors": [Refusing()]}, unary_unary=echo) as side:
            method = side.method("unary_unary")
            assert (await failure(method(b""))).code() is Code.UNAUTHENTICATED
            assert await method(b"x", metadata=(("token", "right"),)) == b"x"

    run(main)


def test_what_is_no_interceptor_is_refused() -> None:
    with pytest.raises(ValueError, match="must be ServerInterceptor"):
        aio.server(interceptors=[object()])


def test_methods_that_nobody_has() -> None:
    async def main() -> None:
        async with serving(unary_unary=echo) as side:
            for kind in ("unary_unary_other", "stream_unary"):
                request = b"" if kind.startswith("unary") else requests_of(b"")
                error = await failure(side.method(kind)(request))
                assert (error.code(), error.details()) == (Code.UNIMPLEMENTED, "Method not found!")

    run(main)


# --- The server's life --------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_grace_lets_calls_end(loop: str) -> None:
    async def main() -> None:
        reached, go = asyncio.Event(), asyncio.Event()

        async def answer(request: bytes, context: Any) -> bytes:
            reached.set()
            await go.wait()
            return b"in time"

        async with serving(unary_unary=answer) as side:
            call = side.method("unary_unary")(b"")
            await reached.wait()
            stopping = asyncio.create_task(side.server.stop(30))
            await asyncio.sleep(0)
            assert await side.server.wait_for_termination(0.01)
            go.set()
            assert await call == b"in time"
            await stopping
            assert not await side.server.wait_for_termination(1)

    run(main, loop)


def test_without_grace_calls_are_ended_with_a_status() -> None:
    async def main() -> None:
        held = Held()
        async with serving(unary_unary=held.wait) as side:
            call = side.method("unary_unary")(b"")
            await held.reached.wait()
            await side.server.stop(None)
            error = await failure(call)
            assert (error.code(), error.details()) == (Code.UNAVAILABLE, "Cancelling all calls")
            assert held.cancelled.is_set()

    run(main)


def test_stopping_again_with_less_grace_hurries() -> None:
    async def main() -> None:
        held = Held()
        async with serving(unary_unary=held.wait) as side:
            call = side.method("unary_unary")(b"")
            await held.reached.wait()
            slowly = asyncio.create_task(side.server.stop(1000))
            await asyncio.sleep(0.01)
            await side.server.stop(0)
            await slowly
            assert (await failure(call)).code() is Code.UNAVAILABLE

    run(main)


def test_a_stopped_server_does_not_start_again() -> None:
    async def main() -> None:
        async with serving(unary_unary=echo) as side:
            await side.server.start()  # does nothing
            await side.server.stop(None)
            with pytest.raises(aio.UsageError, match="not in ready state"):
                await side.server.start()

    run(main)


@pytest.mark.parametrize("option", ["grpc.max_connection_age_ms", "grpc.max_connection_idle_ms"])
def test_connections_have_an_age(option: str) -> None:
    async def main() -> None:
        async with serving({"options": [(option, 50)]}, unary_unary=echo) as side:
            channel = side.channel()
            method = side.method("unary_unary", channel)
            for _ in range(2):
                assert await method(b"x") == b"x"
                await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
            assert await method(b"x") == b"x"
            assert channel.session.opened == 3

    run(main)


def test_health_by_one_argument() -> None:
    async def main() -> None:
        settings = {"health": True, "reflection": True}
        async with serving(settings, unary_unary=echo) as side:
            stub: Any = health_pb2_grpc.HealthStub(side.channel())
            for name in ("", SERVICE):
                request = health_pb2.HealthCheckRequest(service=name)
                answer = await stub.Check(request)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            watching = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
            assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
            stopping = asyncio.create_task(side.server.stop(30))
            assert (await watching.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watching.cancel()
            await stopping

    run(main)


def test_options_that_nobody_has_are_named(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with caplog.at_level(logging.WARNING, "hvrpc.grpc"):
            aio.server(options=[("grpc.of_an_aio_test", 1)])

    run(main)
    assert "grpc.of_an_aio_test" in caplog.text


def test_generators_are_closed_when_nobody_wants_the_rest() -> None:
    async def main() -> None:
        closed = asyncio.Event()

        async def endless(request: bytes, context: Any) -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"more"
            finally:
                closed.set()

        async with serving(unary_stream=endless, stream_unary=join) as side:
            call = side.method("unary_stream")(b"")
            assert await call.read() == b"more"
            call.cancel()
            await closed.wait()

    run(main)
