"""Servers, channels, contexts and interceptors of `grpc.aio`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from opentelemetry.instrumentation import grpc as opentelemetry_grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ....sockets.background import WAIT, wait_until
from .. import kinds
from ..bench import METHOD, SERVICE, path_of
from ..kinds import BIDI, CLIENT_STREAM, KINDS, SERVER_STREAM, UNARY
from ..test_connectivity import QUICK
from . import bench as calls
from .bench import AioBench, aio_handler_of, echo

READY = grpc.ChannelConnectivity.READY
IDLE = grpc.ChannelConnectivity.IDLE
SHUTDOWN = grpc.ChannelConnectivity.SHUTDOWN
TRANSIENT_FAILURE = grpc.ChannelConnectivity.TRANSIENT_FAILURE

health_grpc: Any = health_pb2_grpc
telemetry: Any = opentelemetry_grpc

ECHO = {METHOD: aio_handler_of(UNARY, echo)}


class Holding:
    """A handler that goes on until it is let go."""

    def __init__(self) -> None:
        self.entered = asyncio.Semaphore(0)
        self.let_go = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        self.entered.release()
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        yield b"held"


class TestStop:
    async def test_with_no_grace_cancels_calls(self, bench: AioBench) -> None:
        held = Holding()
        call = asyncio.ensure_future(calls.call(UNARY, await bench.offer(UNARY, held)))
        await held.entered.acquire()
        await bench.server.stop(None)
        assert (await call).code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        await held.cancelled.wait()

    @pytest.mark.parametrize("kind", KINDS)
    async def test_with_grace_lets_calls_finish(self, bench: AioBench, kind: str) -> None:
        held = Holding()
        call = asyncio.ensure_future(calls.call(kind, await bench.offer(kind, held)))
        await held.entered.acquire()
        stopping = asyncio.ensure_future(bench.server.stop(WAIT))
        await asyncio.sleep(0.01)
        assert not stopping.done()
        held.let_go.set()
        outcome = await call
        assert outcome.responses == [b"held"]
        assert outcome.code is grpc.StatusCode.OK
        await stopping

    async def test_the_grace_ends(self, bench: AioBench) -> None:
        held = Holding()
        call = asyncio.ensure_future(calls.call(UNARY, await bench.offer(UNARY, held)))
        await held.entered.acquire()
        await bench.server.stop(0.1)
        assert (await call).code is not grpc.StatusCode.OK
        await held.cancelled.wait()

    async def test_wait_for_termination(self, bench: AioBench) -> None:
        server = await bench.serve(ECHO)
        assert await server.wait_for_termination(0.01) is True
        waiting = asyncio.ensure_future(server.wait_for_termination())
        await asyncio.sleep(0)
        await server.stop(None)
        assert await waiting is False

    async def test_the_place_is_free_afterwards(self, bench: AioBench) -> None:
        path = bench.fresh_path()
        # grpcio's channels share a connection otherwise, and one may be used that has just lost its server.
        alone = [("grpc.use_local_subchannel_pool", 1)]
        for _ in range(3):
            server = await bench.serve(ECHO, at=path)
            assert await bench.method(channel=bench.channel(options=alone))(b"x") == b"x"
            await server.stop(None)

    async def test_calls_beyond_the_maximum_are_refused(self, bench: AioBench) -> None:
        held = Holding()
        method = await bench.offer(UNARY, held, maximum_concurrent_rpcs=2)
        running = [asyncio.ensure_future(calls.call(UNARY, method)) for _ in range(2)]
        for _ in running:
            await held.entered.acquire()
        refused = await calls.call(UNARY, method)
        assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        held.let_go.set()
        for each in running:
            assert (await each).responses == [b"held"]


class TestConnectivity:
    async def test_states(self, bench: AioBench) -> None:
        await bench.serve(ECHO)
        channel = bench.channel()
        assert channel.get_state() is IDLE
        await channel.channel_ready()
        assert channel.get_state() is READY
        await channel.close()
        assert channel.get_state() is SHUTDOWN

    async def test_wait_for_state_change(self, bench: AioBench) -> None:
        await bench.serve(ECHO)
        channel = bench.channel()
        waiting = asyncio.ensure_future(channel.wait_for_state_change(IDLE))
        assert await bench.method(channel=channel)(b"x") == b"x"
        await waiting
        assert channel.get_state() is not IDLE

    async def test_get_state_may_connect(self, bench: AioBench) -> None:
        await bench.serve(ECHO)
        channel = bench.channel()
        state = channel.get_state(try_to_connect=True)
        while state is not READY:
            await channel.wait_for_state_change(state)
            state = channel.get_state()

    async def test_wait_for_ready(self, bench: AioBench) -> None:
        path = bench.fresh_path()
        channel = bench.channel(to=path, options=QUICK)
        call = asyncio.ensure_future(bench.method(channel=channel)(b"x", wait_for_ready=True))
        while (state := channel.get_state()) is not TRANSIENT_FAILURE:
            await channel.wait_for_state_change(state)
        await bench.serve(ECHO, at=path)
        assert await call == b"x"

    async def test_the_channel_finds_a_server_that_was_started_again(self, bench: AioBench) -> None:
        path = bench.fresh_path()
        server = await bench.serve(ECHO, at=path)
        method = bench.method(channel=bench.channel(options=QUICK))
        assert await method(b"one") == b"one"
        for _ in range(3):
            await server.stop(None)
            assert (await calls.call(UNARY, method)).code is grpc.StatusCode.UNAVAILABLE
            server = await bench.serve(ECHO, at=path)
            assert await method(b"two", wait_for_ready=True, timeout=WAIT) == b"two"

    async def test_a_channel_is_an_async_context_manager(self, bench: AioBench) -> None:
        await bench.serve(ECHO)
        async with bench.channel() as channel:
            assert isinstance(channel, grpc.aio.Channel)
            assert await bench.method(channel=channel)(b"x") == b"x"
        assert channel.get_state() is SHUTDOWN


class TestContext:
    async def ask(self, bench: AioBench, question: Any) -> Any:
        answers: list[Any] = []

        async def ask(request: bytes, context: Any) -> bytes:
            answers.append(question(context))
            return request

        assert await (await bench.unary(ask))(b"x") == b"x"
        return answers[0]

    async def test_peer(self, bench: AioBench) -> None:
        peer = await self.ask(bench, lambda context: context.peer())
        assert re.match(bench.serving.peer, peer), peer

    async def test_auth_context(self, bench: AioBench) -> None:
        answer = await self.ask(bench, lambda context: dict(context.auth_context()))
        for values in answer.values():
            assert all(isinstance(value, bytes) for value in values)

    async def test_is_not_over_while_the_handler_runs(self, bench: AioBench) -> None:
        question = lambda context: (context.cancelled(), context.done())  # noqa: E731
        assert await self.ask(bench, question) == (False, False)

    async def test_done_callbacks_are_called(self, bench: AioBench) -> None:
        called = asyncio.Event()

        def add(context: Any) -> None:
            context.add_done_callback(lambda _: called.set())

        await self.ask(bench, add)
        await called.wait()

    async def test_compression(self, bench: AioBench) -> None:
        big = b"again " * 2000

        async def compress(request: bytes, context: Any) -> bytes:
            context.set_compression(grpc.Compression.Gzip)
            return request

        method = await bench.unary(compress)
        assert await method(big) == big
        assert await method(big, compression=grpc.Compression.Deflate) == big


class Interceptor(grpc.aio.ServerInterceptor):
    def __init__(self, around: Any) -> None:
        self._around = around

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        return await self._around(continuation, handler_call_details)


class _Adding:
    """Adds metadata to a call of any kind."""

    async def intercept(self, continuation: Any, details: Any, request: Any) -> Any:
        metadata = grpc.aio.Metadata(*(details.metadata or ()), ("x-added", "1"))
        changed = grpc.aio.ClientCallDetails(
            details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
        )
        return await continuation(changed, request)


class UnaryUnary(_Adding, grpc.aio.UnaryUnaryClientInterceptor):
    intercept_unary_unary = _Adding.intercept  # type: ignore[assignment]


class UnaryStream(_Adding, grpc.aio.UnaryStreamClientInterceptor):
    intercept_unary_stream = _Adding.intercept  # type: ignore[assignment]


class StreamUnary(_Adding, grpc.aio.StreamUnaryClientInterceptor):
    intercept_stream_unary = _Adding.intercept  # type: ignore[assignment]


class StreamStream(_Adding, grpc.aio.StreamStreamClientInterceptor):
    intercept_stream_stream = _Adding.intercept  # type: ignore[assignment]


ADDING = {
    UNARY: UnaryUnary,
    SERVER_STREAM: UnaryStream,
    CLIENT_STREAM: StreamUnary,
    BIDI: StreamStream,
}


class TestInterceptors:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_of_clients(self, bench: AioBench, kind: str) -> None:
        async def say(requests: Any, context: Any) -> AsyncIterator[bytes]:
            async for _ in requests:
                pass
            yield str(dict(context.invocation_metadata()).get("x-added")).encode()

        await bench.serve({METHOD: aio_handler_of(kind, say)})
        interceptor: Any = ADDING[kind]
        channel = bench.channel(interceptors=[interceptor()])
        outcome = await calls.call(kind, bench.method(kind, channel=channel))
        assert outcome.responses == [b"1"]
        assert outcome.code is grpc.StatusCode.OK

    async def test_of_clients_may_answer_themselves(self, bench: AioBench) -> None:
        class Answer(grpc.aio.UnaryUnaryClientInterceptor):
            async def intercept_unary_unary(
                self, continuation: Any, client_call_details: Any, request: Any
            ) -> Any:
                return b"from the cache"

        channel = bench.channel(interceptors=[Answer()])
        assert await bench.method(channel=channel)(b"x") == b"from the cache"

    async def test_of_clients_may_repeat(self, bench: AioBench) -> None:
        tries: list[int] = []

        async def fail_twice(request: bytes, context: Any) -> bytes:
            tries.append(1)
            if len(tries) < 3:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
            return request

        class Repeat(grpc.aio.UnaryUnaryClientInterceptor):
            async def intercept_unary_unary(
                self, continuation: Any, client_call_details: Any, request: Any
            ) -> Any:
                call = await continuation(client_call_details, request)
                while await call.code() is grpc.StatusCode.UNAVAILABLE:
                    call = await continuation(client_call_details, request)
                return call

        await bench.unary(fail_twice)
        channel = bench.channel(interceptors=[Repeat()])
        assert await bench.method(channel=channel)(b"x") == b"x"
        assert len(tries) == 3

    @pytest.mark.parametrize("kind", KINDS)
    async def test_of_servers(self, bench: AioBench, kind: str) -> None:
        seen: list[str] = []

        async def look(continuation: Any, details: Any) -> Any:
            seen.append(details.method)
            return await continuation(details)

        handlers = {METHOD: aio_handler_of(kind, echo)}
        await bench.serve(handlers, interceptors=(Interceptor(look), Interceptor(look)))
        outcome = await calls.call(kind, bench.method(kind))
        assert outcome.responses == [b"request"]
        assert seen == [path_of()] * 2

    async def test_of_servers_may_refuse(self, bench: AioBench) -> None:
        async def refuse(request: bytes, context: Any) -> Any:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you")

        async def around(continuation: Any, details: Any) -> Any:
            return kinds.plain_handler(UNARY, refuse)

        await bench.serve(ECHO, interceptors=(Interceptor(around),))
        outcome = await calls.call(UNARY, bench.method())
        assert outcome.code is grpc.StatusCode.UNAUTHENTICATED


class TestEcosystem:
    async def test_health(self, bench: AioBench) -> None:
        servicer: Any = health.aio.HealthServicer()
        server = bench.new_server()
        health_grpc.add_HealthServicer_to_server(servicer, server)
        await bench.start(server)
        await servicer.set("one", health_pb2.HealthCheckResponse.SERVING)
        stub = health_grpc.HealthStub(bench.channel())
        request = health_pb2.HealthCheckRequest(service="one")
        assert (await stub.Check(request)).status == health_pb2.HealthCheckResponse.SERVING
        watch = stub.Watch(request)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        await servicer.set("one", health_pb2.HealthCheckResponse.NOT_SERVING)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()

    async def test_open_telemetry(self, bench: AioBench) -> None:
        exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        await bench.serve(
            ECHO, interceptors=(telemetry.aio_server_interceptor(tracer_provider=provider),)
        )
        channel = bench.channel(
            interceptors=telemetry.aio_client_interceptors(tracer_provider=provider)
        )
        assert await bench.method(channel=channel)(b"x") == b"x"
        both_ended = lambda: len(exporter.get_finished_spans()) == 2  # noqa: E731
        await asyncio.to_thread(wait_until, both_ended, "both spans have ended")
        traces = {span.context.trace_id for span in exporter.get_finished_spans() if span.context}
        assert len(traces) == 1
        provider.shutdown()

    async def test_a_slow_reader_holds_the_writer(self, bench: AioBench) -> None:
        """And no more than the windows is in memory meanwhile."""
        produced = 0
        big = bytes(64 * 1024)
        total = 1024

        async def endless(request: bytes, context: Any) -> AsyncIterator[bytes]:
            nonlocal produced
            for _ in range(total):
                produced += 1
                yield big

        call = (await bench.server_stream(endless))(b"")
        await call.read()
        before = -1
        while produced != before:
            before = produced
            await asyncio.sleep(0.3)
        assert produced < total
        count = 1
        while await call.read() is not grpc.aio.EOF:
            count += 1
        assert count == total

    async def test_generic_handlers(self, bench: AioBench) -> None:
        class Generic(grpc.GenericRpcHandler):
            def service(self, handler_call_details: Any) -> Any:
                if handler_call_details.method == f"/{SERVICE}/Any":
                    return ECHO[METHOD]
                return None

        server = bench.new_server()
        server.add_generic_rpc_handlers((Generic(),))
        await bench.start(server)
        assert await bench.method(name="Any")(b"x") == b"x"
