"""Runs on the host: calls the greeter in a virtual machine, with asyncio.

    python aio_client.py [address] [grpc|msgpack]

It does what `client.py` does, and says there what production would add. Cancelling the task that
waits cancels the call, so `asyncio.timeout` and task groups work as everywhere.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Literal

import grpc
from gen.helloworld_hvrpc import GreeterAsyncClient
from gen.helloworld_pb2 import HelloRequest

import hvrpc

PATIENCE = 10.0
"""Seconds that a call may take, and the opening of the connection with it."""


async def use(greeter: GreeterAsyncClient) -> None:
    # Fields as keywords, or a message; options beside them. The first call waits for the server.
    first = await greeter.say_hello(name="host", timeout=PATIENCE, wait_for_ready=True)
    print(first.message)
    print((await greeter.say_hello(HelloRequest(name="again"))).message)

    # Any number of answers.
    print(*[reply.message async for reply in greeter.say_hello_in_turn(name="you")])

    # Any number of questions.
    requests = [HelloRequest(name=name) for name in ("A", "B", "C")]
    print((await greeter.say_hello_to_all(requests)).message)

    # Both, at the same time, and here one by one.
    call = greeter.chat()
    replies = aiter(call)
    for name in ("Dora", "Emil"):
        await call.write(HelloRequest(name=name))
        print("chat:", (await anext(replies)).message)
    await call.done_writing()

    # Many calls at once. A call that was made tells more than its result.
    later, now = greeter.say_hello(name="later"), greeter.say_hello(name="now")
    print((await now).message, (await now.code()).name, (await later).message)

    # What goes wrong is gRPC's error, whichever protocol it came by.
    try:
        await greeter.say_hello(name="")
    except grpc.RpcError as error:
        print(f"refused: {error.details()} [{error.code().name}]")


async def main() -> None:
    address = sys.argv[1] if len(sys.argv) > 1 else "local://loopback/50051"
    protocol: Literal["grpc", "msgpack"] = "msgpack" if "msgpack" in sys.argv else "grpc"
    try:
        async with GreeterAsyncClient.connect(address, protocol=protocol) as greeter:
            await use(greeter)
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")  # it says what to do about it
    except hvrpc.HvrpcError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    asyncio.run(main())
