"""Runs on the host: calls the greeter in a virtual machine, in every way there is.

    python client.py [address] [grpc|msgpack]   address: local://loopback/50051 unless told otherwise

Start `server.py` or `aio_server.py` first, with the same protocol. For a VM the address is
hvsock://<vm>/50051, where <vm> is the name of the VM or its id.

In production one would add: a timeout for each call according to what it does; and credentials
(`hvrpc.grpc.channel_credentials`) where it matters who answers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Literal

import grpc
from gen.helloworld_hvrpc import GreeterClient
from gen.helloworld_pb2 import HelloRequest

import hvrpc

PATIENCE = 10.0
"""Seconds that a call may take, and the opening of the connection with it."""


def use(greeter: GreeterClient) -> None:
    # Fields as keywords, or a message; options beside them. The first call waits for the server.
    print(greeter.say_hello(name="host", timeout=PATIENCE, wait_for_ready=True).message)
    print(greeter.say_hello(HelloRequest(name="again")).message)

    # Any number of answers.
    print(*[reply.message for reply in greeter.say_hello_in_turn(name="you")])

    # Any number of questions.
    print(greeter.say_hello_to_all(HelloRequest(name=name) for name in ("A", "B", "C")).message)

    # Both, at the same time.
    for reply in greeter.chat(names("Dora", "Emil")):
        print("chat:", reply.message)

    # A call whose result is waited for later, and one that tells more than the result.
    future = greeter.say_hello.future(name="later")
    reply, call = greeter.say_hello.with_call(name="now")
    print(reply.message, call.code().name, future.result().message)

    # What goes wrong is gRPC's error, whichever protocol it came by.
    try:
        greeter.say_hello(name="")
    except grpc.RpcError as error:
        print(f"refused: {error.details()} [{error.code().name}]")


def names(*given: str) -> Iterator[HelloRequest]:
    for name in given:
        yield HelloRequest(name=name)


def main() -> None:
    address = sys.argv[1] if len(sys.argv) > 1 else "local://loopback/50051"
    protocol: Literal["grpc", "msgpack"] = "msgpack" if "msgpack" in sys.argv else "grpc"
    try:
        with GreeterClient.connect(address, protocol=protocol) as greeter:
            use(greeter)
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")  # it says what to do about it
    except hvrpc.HvrpcError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
