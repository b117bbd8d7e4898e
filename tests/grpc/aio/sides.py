"""A server and a channel on a UNIX socket, on either loop, for a test of a few lines."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from hvrpc.grpc import aio

from ...sockets.background import WAIT
from ...sockets.places import short_folder

Main = Callable[[], Coroutine[Any, Any, None]]

SERVICE = "test.Service"

_HANDLERS: dict[str, Callable[..., Any]] = {
    "unary_unary": grpc.unary_unary_rpc_method_handler,
    "unary_stream": grpc.unary_stream_rpc_method_handler,
    "stream_unary": grpc.stream_unary_rpc_method_handler,
    "stream_stream": grpc.stream_stream_rpc_method_handler,
}

LOOPS = ("asyncio", "uvloop")


def run(main: Main, loop: str = "asyncio") -> None:
    """Run a coroutine function on a loop of its own, to the end and within bounds."""

    async def bounded() -> None:
        async with asyncio.timeout(WAIT):
            await main()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks were left behind: {left}"

    factory = None
    if loop == "uvloop":
        if sys.platform == "win32":
            pytest.skip("uvloop does not exist on Windows: run on Linux")
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(bounded())
    gc.collect()


def generic(**methods: Any) -> Any:
    """Handlers by their names: `unary_unary=f`, or `unary_unary_other=g` for a second one."""
    handlers = {}
    for name, function in methods.items():
        kind = "_".join(name.split("_")[:2])
        handlers[name] = _HANDLERS[kind](function)
    return grpc.method_handlers_generic_handler(SERVICE, handlers)


class Side:
    """A server that was started, and channels to it."""

    def __init__(self, path: Path) -> None:
        self.address = f"unix://{path}"
        self.server: Any = None
        self._channels: list[Any] = []

    async def serve(self, settings: dict[str, Any] | None = None, **methods: Any) -> Any:
        """Start a server with these methods."""
        server = aio.server(handlers=[generic(**methods)], **(settings or {}))
        server.add_insecure_port(self.address)
        await server.start()
        self.server = server
        return server

    async def serve_again(self, **methods: Any) -> Any:
        """Stop the server, and start another one in its place."""
        await self.server.stop(None)
        return await self.serve(**methods)

    def channel(self, **settings: Any) -> aio.Channel:
        """A channel; closed after the test."""
        channel = aio.insecure_channel(self.address, **settings)
        self._channels.append(channel)
        return channel

    def method(self, name: str, channel: Any = None, **serializers: Any) -> Any:
        """What calls a method."""
        kind = "_".join(name.split("_")[:2])
        make = getattr(channel or self.channel(), kind)
        return make(f"/{SERVICE}/{name}", **serializers)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()
        if self.server is not None:
            await self.server.stop(None)


@asynccontextmanager
async def serving(settings: dict[str, Any] | None = None, **methods: Any) -> AsyncIterator[Side]:
    """A server with these methods, on a fresh socket. Without methods none is started."""
    with short_folder() as folder:
        side = Side(Path(folder) / "aio.sock")
        if methods:
            await side.serve(settings, **methods)
        try:
            yield side
        finally:
            await side.close()


async def all_of(call: Any) -> list[Any]:
    """Every response of a call."""
    return [response async for response in call]
