"""The far side of a boundary: one service, over both protocols, each with both drivers.

python -m tests.boundary.far_side "vsock://any/{}"

It tells what happens by lines, so that the near side learns what was carried out although the far
side is switched off in the midst of it.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent import futures
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Final, Self

import grpc

import hvrpc.grpc
import hvrpc.grpc.aio
import hvrpc.msgpack
from hvrpc.msgpack import Context

from ..session.sides import LoopThread

PORTS: Final = {"msgpack": 6001, "msgpack.aio": 6002, "grpc": 6003, "grpc.aio": 6004}
"""The servers, each on a port of its own."""
SERVICE: Final = "boundary.FarSide"
SERVING: Final = "serving"
"""The line that says that all of them can be called."""
LONGEST_HOLD: Final = 120.0

Tell = Callable[[str], object]


class Tools:
    """Over msgpack-RPC."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def echo(self, value: bytes) -> bytes:
        return value

    def run(self, word: str) -> str:
        self._tell(f"ran {word}")
        return word

    def hold(self, word: str, context: Context) -> str:
        """Wait until the caller is gone."""
        self._tell(f"holds {word}")
        gone = threading.Event()
        context.on_cancel(
            gone.set
        )  # not wait_cancelled(), which ends at the caller's deadline, too
        gone.wait(LONGEST_HOLD)
        self._tell(f"let go {word}")
        return word

    def fail(self, text: str) -> None:
        raise ValueError(text)

    def count(self, number: int) -> Iterator[int]:
        yield from range(number)

    def who(self, context: Context) -> str:
        return str(context.peer)


class AsyncTools(Tools):
    """The same where waiting is a coroutine's."""

    async def hold(self, word: str) -> str:  # type: ignore[override]
        self._tell(f"holds {word}")
        try:
            await asyncio.sleep(LONGEST_HOLD)
        finally:
            self._tell(f"let go {word}")
        return word


class Handlers:
    """Over gRPC."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def echo(self, request: bytes, context: Any) -> bytes:
        return request

    def run(self, request: bytes, context: Any) -> bytes:
        self._tell(f"ran {request.decode()}")
        return request

    def hold(self, request: bytes, context: Any) -> bytes:
        self._tell(f"holds {request.decode()}")
        gone = threading.Event()
        if context.add_callback(gone.set):
            gone.wait(LONGEST_HOLD)
        self._tell(f"let go {request.decode()}")
        return request

    def fail(self, request: bytes, context: Any) -> bytes:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, request.decode())
        raise AssertionError("abort() raises")

    def who(self, request: bytes, context: Any) -> bytes:
        peer: str = context.peer()
        return peer.encode()

    def count(self, request: bytes, context: Any) -> Iterator[bytes]:
        for number in range(int(request)):
            yield b"%d" % number

    def total(self, requests: Iterator[bytes], context: Any) -> bytes:
        return b"%d" % sum(map(int, requests))

    def chat(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        yield from requests


class AsyncHandlers(Handlers):
    """The same as coroutines."""

    async def echo(self, request: bytes, context: Any) -> bytes:  # type: ignore[override]
        return request

    async def run(self, request: bytes, context: Any) -> bytes:  # type: ignore[override]
        return super().run(request, context)

    async def hold(self, request: bytes, context: Any) -> bytes:  # type: ignore[override]
        self._tell(f"holds {request.decode()}")
        try:
            await asyncio.sleep(LONGEST_HOLD)
        finally:
            self._tell(f"let go {request.decode()}")
        return request

    async def fail(self, request: bytes, context: Any) -> bytes:  # type: ignore[override]
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, request.decode())
        raise AssertionError("abort() raises")

    async def who(self, request: bytes, context: Any) -> bytes:  # type: ignore[override]
        return super().who(request, context)

    async def count(self, request: bytes, context: Any) -> AsyncIterator[bytes]:  # type: ignore[override]
        for number in range(int(request)):
            yield b"%d" % number

    async def total(self, requests: AsyncIterator[bytes], context: Any) -> bytes:  # type: ignore[override]
        return b"%d" % sum([int(each) async for each in requests])

    async def chat(  # type: ignore[override]
        self, requests: AsyncIterator[bytes], context: Any
    ) -> AsyncIterator[bytes]:
        async for each in requests:
            yield each


def _generic(handlers: Handlers) -> Any:
    kinds: dict[str, Callable[..., Any]] = {
        "count": grpc.unary_stream_rpc_method_handler,
        "total": grpc.stream_unary_rpc_method_handler,
        "chat": grpc.stream_stream_rpc_method_handler,
    }
    names = ("echo", "run", "hold", "fail", "who", *kinds)
    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            name: kinds.get(name, grpc.unary_unary_rpc_method_handler)(getattr(handlers, name))
            for name in names
        },
    )


class FarSide:
    """All four servers, serving from the beginning of a `with` block to its end.

    `where` is an address with {} for the port, `tell` is called with each line.
    """

    def __init__(self, where: str, tell: Tell) -> None:
        self._where = where
        self._tell = tell
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack:
            self._start_blocking()
            self._start_asyncio()
            self._stack = self._stack.pop_all()
        self._tell(SERVING)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _url(self, server: str) -> str:
        return self._where.format(PORTS[server])

    def _start_blocking(self) -> None:
        tools = hvrpc.msgpack.Server(Tools(self._tell))
        self._stack.callback(tools.close, 0)
        tools.listen(self._url("msgpack"))
        tools.start()
        pool = self._stack.enter_context(futures.ThreadPoolExecutor(16))
        server = hvrpc.grpc.server(pool, [_generic(Handlers(self._tell))])
        server.add_insecure_port(self._url("grpc"))
        server.start()
        self._stack.callback(lambda: server.stop(None).wait())

    def _start_asyncio(self) -> None:
        loop = LoopThread(asyncio.new_event_loop)
        self._stack.callback(loop.stop)

        async def start() -> tuple[Any, Any]:
            tools = hvrpc.msgpack.aio.Server(AsyncTools(self._tell))
            tools.listen(self._url("msgpack.aio"))
            await tools.start()
            server = hvrpc.grpc.aio.server(handlers=[_generic(AsyncHandlers(self._tell))])
            server.add_insecure_port(self._url("grpc.aio"))
            await server.start()
            return tools, server

        tools, server = loop.run(start())
        self._stack.callback(lambda: loop.run(tools.close(0)))
        self._stack.callback(lambda: loop.run(server.stop(None)))


def tell(line: str) -> None:
    """For whoever reads our output; at once, for we may be switched off."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def serve(where: str) -> None:
    """Until somebody ends this process."""
    with FarSide(where, tell):
        threading.Event().wait()


if __name__ == "__main__":
    serve(sys.argv[1])
