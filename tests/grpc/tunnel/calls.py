"""C-core servers and channels of both kinds behind one face, for tests of what lies between them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable
from concurrent import futures
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from hvrpc import Address
from hvrpc.grpc import tunnel

from ...sockets.background import WAIT

METHOD = "/tunnel.Test/Method"

Answer = Callable[[bytes, Any], bytes]
"""What a server does with a request and the context."""


def echo(request: bytes, context: Any) -> bytes:
    return request


class Handlers(grpc.GenericRpcHandler):
    """One method, of any of the four kinds."""

    def __init__(self, handler: Any) -> None:
        self._handler = handler

    def service(self, handler_call_details: Any) -> Any:
        return self._handler


class LoopThread:
    """An event loop that runs beside the test, as asyncio programs have theirs."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._pool = futures.ThreadPoolExecutor(1)
        self._running = self._pool.submit(self.loop.run_forever)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(WAIT)

    def do(self, function: Callable[[], Any]) -> Any:
        """Call something that wants to be called on the loop."""

        async def call() -> Any:
            return function()

        return self.run(call())

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._running.result(WAIT)
        self.loop.close()
        self._pool.shutdown()


class Calls:
    """Makes servers and channels, `sync` or `aio`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.is_aio = kind == "aio"
        self.tunnel: Any = tunnel.aio if self.is_aio else tunnel
        self._stack = ExitStack()
        self._loop: LoopThread | None = None

    def __enter__(self) -> Self:
        if self.is_aio:
            self._loop = LoopThread()
            self._stack.callback(self._loop.close)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def do(self, function: Callable[[], Any]) -> Any:
        return function() if self._loop is None else self._loop.do(function)

    def run(self, function: Callable[[], Any]) -> Any:
        """Call something that gives a result, or for aio an awaitable of it."""
        if self._loop is None:
            return function()

        async def call() -> Any:
            return await function()

        return self._loop.run(call())

    # --- Servers ---

    def handler(self, answer: Answer) -> Any:
        if not self.is_aio:
            return grpc.unary_unary_rpc_method_handler(answer)

        async def behaviour(request: bytes, context: Any) -> bytes:
            return answer(request, context)

        return grpc.unary_unary_rpc_method_handler(behaviour)

    def server(self, handler: Any = None, *, gate: bool = True, **settings: Any) -> Any:
        """A server that is not started."""
        interceptors = [self.tunnel.gate()] if gate else []
        options = tunnel.server_options(settings.pop("options", None))
        handlers: list[grpc.GenericRpcHandler] = [Handlers(handler or self.handler(echo))]
        if self.is_aio:
            server = self.do(
                lambda: grpc.aio.server(
                    handlers=handlers, interceptors=interceptors, options=options, **settings
                )
            )
        else:
            pool = futures.ThreadPoolExecutor(8)
            self._stack.callback(pool.shutdown)
            server = grpc.server(pool, handlers, interceptors=interceptors, options=options)
        self._stack.callback(self.stop, server)
        return server

    def start(self, server: Any) -> None:
        self.run(server.start)

    def stop(self, server: Any, grace: float | None = None) -> None:
        if self.is_aio:
            self.run(lambda: server.stop(grace))
        else:
            server.stop(grace).wait()

    def add_port(
        self, server: Any, address: str = "hvsock://loopback/0", **settings: Any
    ) -> tunnel.Port:
        port: tunnel.Port = self.do(lambda: self.tunnel.add_port(server, address, **settings))
        return port

    def serve(self, answer: Answer = echo, **settings: Any) -> tunnel.Port:
        """A started server on the fabric."""
        server = self.server(self.handler(answer))
        port = self.add_port(server, **settings)
        self.start(server)
        return port

    # --- Channels ---

    def channel(
        self,
        target: Address | str,
        credentials: grpc.ChannelCredentials | None = None,
        options: Iterable[Any] = (),
    ) -> Any:
        def make() -> Any:
            if credentials is None:
                return self.tunnel.insecure_channel(target, list(options))
            return self.tunnel.secure_channel(target, credentials, list(options))

        channel = self.do(make)
        self._stack.callback(self.close, channel)
        return channel

    def close(self, channel: Any) -> None:
        self.run(channel.close)

    def call(self, channel: Any, request: bytes = b"x", **settings: Any) -> bytes:
        settings = {"timeout": WAIT, **settings}
        response: bytes = self.run(lambda: channel.unary_unary(METHOD)(request, **settings))
        return response

    def error(self, channel: Any, **settings: Any) -> Any:
        """The error of a call that must fail."""
        with contextlib.suppress(AssertionError):
            try:
                self.call(channel, **settings)
            except grpc.RpcError as error:
                return error
        raise AssertionError("the call has succeeded")
