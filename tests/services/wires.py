"""A server and a client of the test service: over either protocol, with either driver at either end.

The blocking client is the face; the asyncio one, on a loop in a thread of its own, is made to look
like it.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent import futures
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import grpc

import hvrpc.grpc
import hvrpc.grpc.aio
import hvrpc.msgpack
from hvrpc import services

from ..msgpack.drivers import Loop
from .echo import AsyncEcho, Echo, Told
from .gen.echo_hvrpc import EchoAsyncClient, EchoClient

BLOCKING = "blocking"
ASYNCIO = "asyncio"
GRPC = "grpc"
MSGPACK = "msgpack"
C_CORE = "grpcio"
"""grpcio itself: its channels and servers take the same clients and servicers."""

_numbers = itertools.count()

Adder = services.Servicer | services.AsyncServicer


@dataclass
class Wire:
    """Makes servers and clients that fit each other, and ends them."""

    protocol: str
    client_driver: str
    server_driver: str
    folder: Path
    stack: ExitStack
    told: Told = field(default_factory=Told)
    url: str = ""
    _loop: Loop | None = None

    @property
    def loop(self) -> Loop:
        if self._loop is None:
            self._loop = self.stack.enter_context(Loop(ASYNCIO))
        return self._loop

    def fresh_url(self) -> str:
        if self.protocol == C_CORE:
            return f"unix://{self.folder}/{next(_numbers)}"
        return f"local://loopback/{uuid.uuid4()}"

    # --- Servers ---------------------------------------------------------------------------------

    def serve(self, *servicers: Adder, at: str | None = None) -> Callable[[], object]:
        """Start a server; returns what stops it."""
        self.url = at or self.fresh_url()
        if self.server_driver == BLOCKING:
            stop = self._serve_blocking(servicers or (Echo(self.told),))
        else:
            stop = self.loop.run(self._serve_asyncio(servicers or (AsyncEcho(self.told),)))
        self.stack.callback(stop)
        self.stack.callback(self.told.may_return.set)
        return stop

    def _serve_blocking(self, servicers: Iterable[Any]) -> Callable[[], object]:
        if self.protocol == MSGPACK:
            server = hvrpc.msgpack.Server()
            for servicer in servicers:
                server.add(servicer)
            server.listen(self.url)
            server.start()
            return lambda: server.close(0)
        pool = self.stack.enter_context(futures.ThreadPoolExecutor(8))
        over_grpc: Any
        over_grpc = (grpc if self.protocol == C_CORE else hvrpc.grpc).server(pool)
        for servicer in servicers:
            servicer.add_to(over_grpc)
        over_grpc.add_insecure_port(self.url)
        over_grpc.start()
        return lambda: over_grpc.stop(0).wait()

    async def _serve_asyncio(self, servicers: Iterable[Any]) -> Callable[[], object]:
        if self.protocol == MSGPACK:
            server = hvrpc.msgpack.aio.Server()
            for servicer in servicers:
                server.add(servicer)
            server.listen(self.url)
            await server.start()
            return lambda: self.loop.run(server.close(0))
        over_grpc: Any = (grpc.aio if self.protocol == C_CORE else hvrpc.grpc.aio).server()
        for servicer in servicers:
            servicer.add_to(over_grpc)
        over_grpc.add_insecure_port(self.url)
        await over_grpc.start()
        return lambda: self.loop.run(over_grpc.stop(0))

    # --- Clients ---------------------------------------------------------------------------------

    def client(self, **settings: Any) -> Any:
        """A client of the server started last."""
        if self.client_driver == BLOCKING:
            return self.stack.enter_context(self._client(EchoClient, **settings))

        async def make() -> EchoAsyncClient:
            made: EchoAsyncClient = self._client(EchoAsyncClient, **settings)
            return made

        client = self.loop.run(make())

        async def close() -> None:
            await client.close()
            if self.protocol == C_CORE:
                await client.channel.close()

        self.stack.callback(lambda: self.loop.run(close()))
        return Face(self.loop, client)

    def _client(self, kind: Any, **settings: Any) -> Any:
        if self.protocol == C_CORE:
            module: Any = grpc if kind is EchoClient else grpc.aio
            channel = module.insecure_channel(self.url.replace("unix://", "unix:"))
            if kind is EchoClient:
                self.stack.callback(channel.close)
            return kind(channel)
        protocol: Literal["grpc", "msgpack"] = "msgpack" if self.protocol == MSGPACK else "grpc"
        return kind.connect(self.url, protocol=protocol, **settings)


class Face:
    """The asyncio client, with the looks of the blocking one."""

    def __init__(self, loop: Loop, client: EchoAsyncClient) -> None:
        self.loop = loop
        self.client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)
        descriptor = self.client.descriptor[name]

        def call(*requests: Any, **keywords: Any) -> Any:
            if descriptor.kind.streams_requests:
                requests = (_as_async(self.loop, requests[0]),)

            async def begin() -> Any:
                return method(*requests, **keywords)

            made = self.loop.run(begin())
            if descriptor.kind.streams_responses:
                return Responses(self.loop, made)

            async def result() -> Any:
                return await made

            return self.loop.run(result())

        return call


async def _as_async(loop: Loop, requests: Iterable[Any]) -> AsyncIterator[Any]:
    """Messages of a generator that may block, which it does in another thread."""
    iterator = iter(requests)
    end = object()
    while True:
        request = await loop.loop.run_in_executor(None, next, iterator, end)
        if request is end:
            return
        yield request


class Responses:
    """The messages of an asyncio call, with the looks of the blocking one's."""

    def __init__(self, loop: Loop, call: Any) -> None:
        self._loop = loop
        self._call = call
        self._messages = loop.do(lambda: aiter(call))

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        async def following() -> tuple[Any, ...]:
            try:
                return (await anext(self._messages),)
            except StopAsyncIteration:
                return ()

        for message in self._loop.run(following()):
            return message
        raise StopIteration

    def cancel(self) -> Any:
        return self._loop.do(self._call.cancel)

    def code(self) -> Any:
        return self._loop.run(self._call.code())
