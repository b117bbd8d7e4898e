"""Servers and channels of `grpc.aio` for a test, ended after it."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc

from ..bench import METHOD, SERVICE, path_of
from ..engines import Engine
from ..kinds import (
    BIDI,
    CLIENT_STREAM,
    SERVER_STREAM,
    STREAMING_REQUESTS,
    STREAMING_RESPONSES,
    UNARY,
    Handler,
    Outcome,
    plain,
    plain_handler,
)


class AioBench:
    """One engine that calls and one that serves, on a UNIX socket."""

    def __init__(
        self, calling: Engine, serving: Engine, folder: Path, stack: AsyncExitStack
    ) -> None:
        self.calling = calling
        self.serving = serving
        self._folder = folder
        self._stack = stack
        self._numbers = itertools.count()
        self.path = folder / "nobody"
        self.server: Any = None

    def fresh_path(self) -> Path:
        return self._folder / f"{next(self._numbers)}.sock"

    def new_server(self, handlers: Sequence[Any] = (), **settings: Any) -> Any:
        server = self.serving.load().server(handlers=handlers or None, **settings)
        self._stack.push_async_callback(server.stop, None)
        return server

    async def start(self, server: Any, path: Path | None = None) -> Any:
        self.path = path or self.fresh_path()
        assert server.add_insecure_port(self.serving.at(self.path)) != 0
        await server.start()
        self.server = server
        return server

    async def serve(
        self,
        methods: Mapping[str, Handler] | None = None,
        *,
        at: Path | None = None,
        **settings: Any,
    ) -> Any:
        generic = grpc.method_handlers_generic_handler(SERVICE, dict(methods or {}))
        return await self.start(self.new_server([generic], **settings), at)

    def channel(self, *, to: Path | None = None, **settings: Any) -> Any:
        target = self.calling.at(to or self.path)
        channel = self.calling.load().insecure_channel(target, **settings)
        self._stack.push_async_callback(channel.close)
        return channel

    def method(self, kind: str = UNARY, name: str = METHOD, *, channel: Any = None) -> Any:
        return getattr(channel or self.channel(), kind)(path_of(name))

    async def offer(self, kind: str, behaviour: Any, **settings: Any) -> Any:
        """Serve a behaviour of `aio_handler_of`; gives what calls it."""
        await self.serve({METHOD: aio_handler_of(kind, behaviour)}, **settings)
        return self.method(kind)

    async def unary(self, function: Any, **settings: Any) -> Any:
        return await self._plain(UNARY, function, settings)

    async def server_stream(self, function: Any, **settings: Any) -> Any:
        return await self._plain(SERVER_STREAM, function, settings)

    async def client_stream(self, function: Any, **settings: Any) -> Any:
        return await self._plain(CLIENT_STREAM, function, settings)

    async def bidi(self, function: Any, **settings: Any) -> Any:
        return await self._plain(BIDI, function, settings)

    async def _plain(self, kind: str, function: Any, settings: dict[str, Any]) -> Any:
        await self.serve({METHOD: plain_handler(kind, function)}, **settings)
        return self.method(kind)


def aio_handler_of(kind: str, behaviour: Any, **serializers: Any) -> Handler:
    """A handler of any kind of an async generator function `behaviour(requests, context)`."""

    async def one(request: bytes) -> AsyncIterator[bytes]:
        yield request

    async def unary_response(requests: Any, context: Any) -> bytes:
        incoming = requests if kind in STREAMING_REQUESTS else one(requests)
        responses = [response async for response in behaviour(incoming, context)]
        return next(iter(responses), b"")

    async def streaming_response(requests: Any, context: Any) -> AsyncIterator[bytes]:
        incoming = requests if kind in STREAMING_REQUESTS else one(requests)
        async for response in behaviour(incoming, context):
            yield response

    chosen = streaming_response if kind in STREAMING_RESPONSES else unary_response
    return plain_handler(kind, chosen, **serializers)


async def echo(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


def begin(
    kind: str, method: Any, requests: Sequence[bytes] = (b"request",), **settings: Any
) -> Any:
    """Start a call."""
    if kind in STREAMING_REQUESTS:
        return method(iter(requests), **settings)
    return method(requests[0], **settings)


async def finish(kind: str, call: Any) -> Outcome:
    """Wait for its end."""
    outcome = Outcome()
    try:
        if kind in STREAMING_RESPONSES:
            async for response in call:
                outcome.responses.append(response)
        else:
            outcome.responses.append(await call)
    except grpc.RpcError as error:
        outcome.error = error
    outcome.initial = plain(await call.initial_metadata())
    outcome.code = await call.code()
    outcome.details = await call.details()
    outcome.trailing = plain(await call.trailing_metadata())
    return outcome


async def call(
    kind: str, method: Any, requests: Sequence[bytes] = (b"request",), **settings: Any
) -> Outcome:
    return await finish(kind, begin(kind, method, requests, **settings))
