"""Runs in the virtual machine: the greeter of `server.py`, on asyncio.

    python aio_server.py [address] [grpc|msgpack]

Choose this one where methods wait for something, or where there are thousands of callers. In
production one would add what `server.py` lists, and uvloop, which makes it faster.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator

import grpc
from gen.helloworld_hvrpc import GreeterAsyncServicer
from gen.helloworld_pb2 import HelloReply, HelloRequest

import hvrpc
import hvrpc.grpc.aio
import hvrpc.msgpack.aio
from hvrpc.services import AsyncContext

GREETINGS = ("Hello", "Bonjour", "Hallo", "Ciao")
GRACE = 5.0
"""Seconds that calls under way may take in the end."""


class Greeter(GreeterAsyncServicer):
    """The same as in `server.py`, as coroutines and asynchronous generators."""

    async def say_hello(
        self, request: HelloRequest, context: AsyncContext[HelloRequest, HelloReply]
    ) -> HelloReply:
        if not request.name:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "whom shall I greet?")
        return HelloReply(message=f"Hello, {request.name}!")

    async def say_hello_in_turn(
        self, request: HelloRequest, context: AsyncContext[HelloRequest, HelloReply]
    ) -> AsyncIterator[HelloReply]:
        for greeting in GREETINGS:
            yield HelloReply(message=f"{greeting}, {request.name}!")

    async def say_hello_to_all(
        self,
        requests: AsyncIterator[HelloRequest],
        context: AsyncContext[HelloRequest, HelloReply],
    ) -> HelloReply:
        names = [request.name async for request in requests]
        return HelloReply(message=f"Hello, {', '.join(names)}!")

    async def chat(
        self,
        requests: AsyncIterator[HelloRequest],
        context: AsyncContext[HelloRequest, HelloReply],
    ) -> AsyncIterator[HelloReply]:
        async for request in requests:
            yield HelloReply(message=f"Hello, {request.name}!")


async def serve(address: str, protocol: str) -> None:
    stop = asyncio.Event()
    if sys.platform != "win32":  # there, Ctrl-C cancels us, and nothing sends SIGTERM
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    if protocol == "msgpack":
        by_msgpack = hvrpc.msgpack.aio.Server()
        by_msgpack.add(Greeter())
        by_msgpack.listen(address)
        async with by_msgpack:
            print(f"serving on {address}", flush=True)
            await stop.wait()
        return
    server = hvrpc.grpc.aio.server()
    server.add(Greeter())
    server.add_insecure_port(address)
    await server.start()
    print(f"serving on {address}", flush=True)
    try:
        await stop.wait()
    finally:
        await server.stop(GRACE)


def main() -> None:
    address = sys.argv[1] if len(sys.argv) > 1 else "local://loopback/50051"
    protocol = sys.argv[2] if len(sys.argv) > 2 else "grpc"
    try:
        asyncio.run(serve(address, protocol))
    except hvrpc.HvrpcError as error:
        sys.exit(f"{type(error).__name__}: {error}")  # it says what to do about it
    except KeyboardInterrupt:
        pass  # the normal way to end it


if __name__ == "__main__":
    main()
